//! Claims about device maps: equal to accelerate's where that is promised, better where it matters.

// Helpers outside of #[test] functions unwrap as well: a vector that cannot be read is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "support/replay.rs"]
mod replay;

use std::path::{Path, PathBuf};

use mgpack::device_map::{
    Architecture, ModelConfig, ModelTree, Sizing, Vision, build_tree, no_split_classes,
};
use replay::{Models, differences, read_vectors};

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
    for vector in &vectors {
        for difference in differences(vector, &mut models).unwrap() {
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
