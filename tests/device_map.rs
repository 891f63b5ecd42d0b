//! Claims about device maps: equal to accelerate's where that is promised, better where it matters.

// Helpers outside of #[test] functions unwrap as well: a vector that cannot be read is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "support/replay.rs"]
mod replay;

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use mgpack::device_map::{
    Alternatives, Architecture, Attention, Device, IMAGE_TOKENS, MaxMemory, MemoryKey, MemorySize,
    MemoryTable, ModelConfig, ModelTree, Module, Remedy, Request, Reserves, Sizing, Vision, Workload,
    broken_rules, build_tree, no_split_classes, plan_accelerate, plan_mgm,
};
use mgpack::error::DeviceMapError;
use replay::{Models, Vector, differences, prepare, read_vectors};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/device_map").join(name)
}

/// Replays a file and demands that all of its `count` vectors are equal.
fn all_equal(name: &str, count: usize) {
    let folder = data("models");
    let mut models = Models::new(&folder);
    let vectors = read_vectors(&data(name)).unwrap();
    assert_eq!(vectors.len(), count);
    let mut report = Vec::new();
    for vector in vectors {
        let vector = vector.unwrap();
        for difference in differences(&vector, &mut models).unwrap() {
            report.push(format!("{}: {difference}", vector.id));
        }
    }
    assert!(report.is_empty(), "{} differences:\n{}", report.len(), report.join("\n"));
}

#[test]
fn equals_accelerate_on_every_mgm_vector() {
    all_equal("mgm.jsonl.gz", 818);
}

#[test]
fn equals_accelerate_on_every_toy_vector() {
    all_equal("toys.jsonl.gz", 362);
}

#[test]
fn equals_accelerate_on_stranger_tables_and_types() {
    all_equal("more.jsonl.gz", 500);
}

const SIZES: [&str; 6] = ["MGM-2B", "MGM-7B", "MGM-8B", "MGM-13B", "MGM-34B", "MGM-8x7B"];

fn assert_same_tree(built: &ModelTree, known: &ModelTree, name: &str) {
    for (at, (built, known)) in built.modules.iter().zip(&known.modules).enumerate() {
        assert_eq!(built, known, "{name}: module {at}");
    }
    for (at, (built, known)) in built.tensors.iter().zip(&known.tensors).enumerate() {
        assert_eq!(built, known, "{name}: tensor {at}");
    }
    assert!(built == known, "{name}: lengths, shared parameters or direct parameters differ");
}

#[test]
fn builds_the_trees_that_mgm_itself_builds() {
    let folder = data("models");
    let mut models = Models::new(&folder);
    for model in SIZES {
        for (variant, vision) in [("as_loaded", Vision::AsLoaded), ("full", Vision::Full)] {
            let (file, known) = models.get(model, variant).unwrap();
            let config: ModelConfig = serde_json::from_value(file.config.clone()).unwrap();
            let architecture = Architecture::of_class(&file.cls).unwrap();
            let built = build_tree(architecture, &config, vision, None).unwrap();
            assert_same_tree(&built, known, &format!("{model} {variant}"));
            assert_eq!(no_split_classes(&built), file.no_split, "{model} {variant}");
            for (how, sizing) in
                [("int8_hf", Sizing::int8_hf(&built)), ("int8_bnb", Sizing::int8_bnb(&built))]
            {
                let mut listed: Vec<_> = sizing.special.into_keys().collect();
                let mut expected = file.special_fp16[how].clone();
                listed.sort_unstable();
                expected.sort_unstable();
                assert_eq!(listed, expected, "{model} {variant} {how}");
            }
        }
    }
}

#[test]
fn builds_the_trees_that_transformers_builds() {
    let folder = data("models");
    let mut models = Models::new(&folder);
    for model in [
        "llama-2-7b",
        "llama-bias-tied",
        "mistral-7b",
        "mixtral-8x7b",
        "gemma-7b",
        "qwen2-0.5b",
        "qwen2-7b",
        "qwen3-0.6b",
        "qwen3-8b",
    ] {
        let (file, known) = models.get(model, "generic").unwrap();
        let config: ModelConfig = serde_json::from_value(file.config.clone()).unwrap();
        let architecture = Architecture::of_class(&file.cls).unwrap();
        let built = build_tree(architecture, &config, Vision::None, None).unwrap();
        assert_same_tree(&built, known, model);
        assert_eq!(no_split_classes(&built), file.no_split, "{model}");
    }
}

/// The accelerators of a vector's table, in whole bytes; `None` if it has none or a text among its sizes.
fn gpus(vector: &Vector) -> Option<MemoryTable> {
    let mut entries = Vec::new();
    for (key, size) in &vector.max_memory {
        if let MemoryKey::Id(id) = key {
            let bytes = match size {
                MemorySize::Bytes(bytes) => u64::try_from(*bytes).unwrap_or(0),
                MemorySize::Fraction(bytes) => bytes.max(0.0) as u64,
                MemorySize::Text(_) => return None,
            };
            entries.push((Device::Gpu(*id), bytes));
        }
    }
    if entries.is_empty() { None } else { MemoryTable::new(entries) }
}

fn request<'a>(modules: &'a [Module], memory: &'a MemoryTable, tied_head: bool) -> Request<'a> {
    Request {
        modules,
        memory,
        is_mgm: true,
        tied_head,
        reserves: Reserves::default(),
        allow_cpu: None,
        alternatives: Alternatives::default(),
    }
}

#[test]
fn fits_what_accelerate_offloads() {
    let folder = data("models");
    let mut models = Models::new(&folder);
    let (mut with_gpu, mut offloaded, mut rescued, mut fitted, mut lost) = (0, 0, 0, 0, Vec::new());
    for vector in read_vectors(&data("mgm.jsonl.gz")).unwrap() {
        let vector = vector.unwrap();
        let (Some(map), Some(memory)) = (&vector.device_map, gpus(&vector)) else { continue };
        let (tree, sizing) = prepare(&vector, &mut models).unwrap();
        let modules = tree.units(&sizing);
        let fits = plan_mgm(&request(&modules, &memory, !tree.tied.is_empty())).is_ok();
        with_gpu += 1;
        if map.values().all(|device| device.gpu().is_some()) {
            fitted += 1;
            if !fits {
                lost.push(vector.clone());
            }
        } else {
            offloaded += 1;
            rescued += usize::from(fits);
        }
    }
    assert_eq!((with_gpu, offloaded, rescued), (738, 314, 26));
    // Where accelerate's map has no offload and `mgm` refuses, that map cannot be used with MGM, or it tears a
    // decoder layer apart because it was told that it may.
    assert_eq!(fitted - lost.len(), 420);
    for vector in &lost {
        let map: IndexMap<String, Device> = vector.device_map.clone().unwrap().into_iter().collect();
        let torn = vector.no_split.is_empty() && map.keys().any(|key| key.matches('.').count() > 2);
        let broken = broken_rules(&map, vector.model.as_deref() == Some("MGM-2B"));
        assert!(torn || broken.iter().any(|broken| broken.rule != "R4"), "{}", vector.id);
    }
}

#[test]
fn fits_8x7b_on_four_gpus_where_accelerate_sends_the_projector_to_disk() {
    let folder = data("models");
    let mut models = Models::new(&folder);
    let memory = MemoryTable::parse("4x24GiB").unwrap();
    for variant in ["as_loaded", "full"] {
        let (file, tree) = models.get("MGM-8x7B", variant).unwrap();
        let sizing = Sizing::at_most(16);
        let theirs = plan_accelerate(tree, &sizing, &MaxMemory::from(&memory), &file.no_split).unwrap();
        let broken = broken_rules(&theirs.map, false);
        assert!(broken.iter().any(|b| b.rule == "R1" && b.device == Some(Device::Disk)), "{broken:?}");
        let ours = plan_mgm(&request(&tree.units(&sizing), &memory, false)).unwrap();
        assert_eq!(broken_rules(&ours.map, false), []);
        assert!(ours.map.values().all(|device| device.gpu().is_some()));
    }
}

#[test]
fn fits_34b_int8_on_two_gpus_with_its_cache_and_refuses_fp16_with_the_shortfall() {
    let folder = data("models");
    let mut models = Models::new(&folder);
    let memory = MemoryTable::parse("2x24GiB").unwrap();
    let (file, tree) = models.get("MGM-34B", "full").unwrap();
    let config: ModelConfig = serde_json::from_value(file.config.clone()).unwrap();
    let workload = Workload {
        attention: Attention {
            kv_heads: config.kv_heads(),
            head_dim: config.head_dim(),
            vocab: config.vocab_size,
        },
        context: 4096,
        image_tokens: IMAGE_TOKENS,
        batch: 1,
    };
    // 245,760 bytes per token over all 60 layers.
    assert_eq!(workload.kv_per_layer() * 60, 245_760 * (4096 + 576));
    let (fp16, int8) = (tree.units(&Sizing::at_most(16)), tree.units(&Sizing::int8_bnb(tree)));
    let with = |modules| Request {
        reserves: workload.reserves(0, 0),
        alternatives: Alternatives { int8: Some(&int8), workload: Some(workload) },
        ..request(modules, &memory, false)
    };
    assert!(plan_mgm(&with(&int8)).is_ok());
    let error = plan_mgm(&with(&fp16)).unwrap_err();
    let DeviceMapError::DoesNotFit(miss) = &error else { panic!("{error}") };
    assert!(miss.shortfall > 17 << 30, "{error}");
    assert_eq!(miss.remedies.first(), Some(&Remedy::Int8));
}
