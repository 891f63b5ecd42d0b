//! What loading a bundle claims: the values, the form asked for, and a stop at the first stage that is wrong.
#![cfg(feature = "load")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::world::{Random, Tensor, World, save, tensor};
use candle_core::{DType, Device, Tensor as Candle};
use mgpack::Bundle;
use mgpack::Isa;
use mgpack::load::{BundleLoader, Form, LoadDevices, LoadOptions, Stored};
use mgpack::progress::{Progress, Silent, Stage, Stop};
use safetensors::Dtype;

const COLUMNS: usize = 256;
const NAME: &str = "model.layers.0.mlp.up_proj.weight";

fn linear(name: &str, columns: usize, seed: u64) -> (Tensor, Vec<f32>) {
    let mut random = Random(seed);
    let values: Vec<f32> = (0..8 * columns).map(|_| random.unit() as f32).collect();
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    (tensor(name, Dtype::F32, &[8, columns], bytes).linear(), values)
}

/// A bundle of three layers and a norm in `scheme`, and the values of the first layer.
fn bundle(world: &World, options: &[&str], columns: usize) -> (Bundle, Vec<f32>) {
    let (first, values) = linear(NAME, columns, 1);
    let (second, _) = linear("model.layers.1.mlp.up_proj.weight", columns, 2);
    let (third, _) = linear("model.layers.2.mlp.up_proj.weight", columns, 3);
    let norm = tensor("model.norm.weight", Dtype::F32, &[4], 1f32.to_le_bytes().repeat(4));
    save(&world.path("checkpoint"), &[&[first, second, third, norm]]);
    let small = ["--max-shard-size", "4KiB"];
    world.good(&[&["convert", "checkpoint", "-o", "bundle"][..], options, &small].concat());
    (Bundle::open(&world.path("bundle")).unwrap(), values)
}

fn load(bundle: &Bundle, form: Form) -> std::collections::HashMap<String, Stored> {
    let profile = &bundle.manifest().device_maps[0];
    let devices = LoadDevices::host(profile, u64::MAX);
    let options = LoadOptions { form, verify: true, isa: Isa::detect() };
    let mut loader = BundleLoader::new(bundle, profile, &devices, options);
    for stage in bundle.stages() {
        loader.load(&stage, &Silent, &Stop::new()).unwrap();
    }
    loader.finish().tensors
}

/// Largest distance of a tensor's values from the checkpoint's.
fn distance(tensor: &Candle, values: &[f32]) -> f32 {
    let found: Vec<f32> = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(found.len(), values.len());
    found.iter().zip(values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

const SCHEMES: [&[&str]; 3] = [&["--int8", "--format", "bnb"], &["--scheme", "W8A8"], &["--scheme", "W8A16"]];

#[test]
fn codes_and_scales_are_the_bytes_of_the_bundle() {
    let world = World::new();
    let (bundle, values) = bundle(&world, SCHEMES[0], COLUMNS);
    let profile = &bundle.manifest().device_maps[0];
    let loaded = bundle.load(&LoadDevices::host(profile, u64::MAX)).unwrap().tensors;
    assert_eq!(loaded.len(), 4);
    let Stored::Codes { codes, scales } = &loaded[NAME] else { panic!("not codes") };
    assert_eq!((codes.dims(), codes.dtype()), (&[8, COLUMNS][..], DType::U8));
    let codes: Vec<u8> = codes.flatten_all().unwrap().to_vec1().unwrap();
    let scales: Vec<f32> = scales.to_vec1().unwrap();
    for (at, value) in values.iter().enumerate() {
        // Half a step, and what rounding the weight to half precision adds.
        let decoded = f32::from(codes[at] as i8) * scales[at / COLUMNS] / 127.0;
        assert!((decoded - value).abs() <= scales[at / COLUMNS] / 240.0, "element {at}");
    }
    let Stored::Values(norm) = &loaded["model.norm.weight"] else { panic!("norm is no value") };
    assert_eq!(norm.to_vec1::<f32>().unwrap(), [1.0; 4]);
}

#[test]
fn decoded_values_are_close_to_the_checkpoint_in_every_scheme_and_type() {
    for scheme in SCHEMES {
        let world = World::new();
        let (bundle, values) = bundle(&world, scheme, COLUMNS);
        for (dtype, within) in [(DType::F32, 0.006), (DType::F16, 0.0065), (DType::BF16, 0.01)] {
            let Stored::Values(tensor) = &load(&bundle, Form::Values(dtype))[NAME] else {
                panic!("no values")
            };
            assert_eq!(tensor.dtype(), dtype);
            let far = distance(tensor, &values);
            assert!(far > 0.0 && far < within, "{scheme:?} {dtype:?}: {far}");
        }
    }
}

#[test]
fn q8_0_holds_the_same_codes_and_candle_multiplies_with_it() {
    for scheme in SCHEMES {
        let world = World::new();
        let (bundle, _) = bundle(&world, scheme, COLUMNS);
        let decoded = load(&bundle, Form::Values(DType::F32));
        let Stored::Values(decoded) = &decoded[NAME] else { panic!("no values") };
        let blocks = load(&bundle, Form::Q8_0);
        let Stored::Quantized(blocks) = &blocks[NAME] else { panic!("no blocks") };
        let values = blocks.dequantize(&Device::Cpu).unwrap();
        assert_eq!(values.dims(), decoded.dims());
        let decoded: Vec<f32> = decoded.flatten_all().unwrap().to_vec1().unwrap();
        // Codes are the same; the scale is rounded to 11 bits.
        let far = distance(&values, &decoded);
        assert!(far < 1.0 / 2048.0, "{scheme:?}: {far}");
    }
}

#[test]
fn a_width_that_blocks_do_not_divide_becomes_half_precision() {
    let world = World::new();
    let (bundle, values) = bundle(&world, SCHEMES[0], 24);
    let loaded = load(&bundle, Form::Q8_0);
    let Stored::Values(tensor) = &loaded[NAME] else { panic!("no values") };
    assert_eq!(tensor.dtype(), DType::F16);
    assert!(distance(tensor, &values) < 0.0065);
}

#[test]
fn loading_goes_stage_by_stage_and_stops_where_it_is_told() {
    let world = World::new();
    world.tiny();
    let all = world.good(&["load", "tiny-bundle"]);
    for stage in ["embeddings", "layer.0", "layer.3", "norm", "projector", "head", "vlm_uni", "towers"] {
        assert!(all.out.lines().any(|line| line.starts_with(stage)), "{stage}: {}", all.out);
    }
    assert!(all.out.contains("GB/s") && all.out.contains("checked against the seal"), "{}", all.out);
    // The tiny checkpoint has 55 tensors; its auxiliary tower has MGM's 340, and CLIP the rest.
    let tensors = world.good(&["load", "tiny-bundle", "--json"]).json()["tensors"].as_u64().unwrap();
    assert!(tensors > 55 + 340, "{tensors}");
    let part = world.good(&["load", "tiny-bundle", "--until", "layer.1", "--json"]).json();
    let stages: Vec<&str> =
        part["stages"].as_array().unwrap().iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["embeddings", "layer.0", "layer.1"]);
    let used = part["stages"][2]["places"][0]["used"].as_u64().unwrap();
    let placed =
        part["stages"].as_array().unwrap().iter().map(|stage| stage["placed_bytes"].as_u64().unwrap());
    assert_eq!(used, placed.sum::<u64>());
    let wrong = world.run(&["load", "tiny-bundle", "--until", "layer.9"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("its stages are embeddings, layer.0"), "{}", wrong.err);
}

#[test]
fn a_changed_shard_stops_the_first_stage_that_reads_it_and_no_earlier_one() {
    let world = World::new();
    let (bundle, _) = bundle(&world, SCHEMES[0], COLUMNS);
    let record = bundle.manifest().tensors.iter().find(|record| record.name.as_str().contains("layers.2."));
    let record = record.unwrap();
    let file = fs::OpenOptions::new().write(true).open(world.path("bundle").join(&record.shard)).unwrap();
    file.write_all_at(&[0x55], record.range[0]).unwrap();
    let ran = world.run(&["load", "bundle"]);
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("layer.1") && !ran.out.contains("layer.2"), "{}", ran.out);
    assert!(
        ran.err.contains("a file does not match its seal") && ran.err.contains(record.shard.as_str()),
        "{}",
        ran.err
    );
    world.good(&["load", "bundle", "--no-verify"]);
}

#[test]
fn a_stage_that_does_not_fit_is_not_begun() {
    let world = World::new();
    let (bundle, _) = bundle(&world, SCHEMES[0], COLUMNS);
    let profile = &bundle.manifest().device_maps[0];
    let stages = bundle.stages();
    // Codes and scales of one layer: 8 rows.
    let layer = (8 * COLUMNS + 8 * 4) as u64;
    let devices = LoadDevices::host(profile, 2 * layer);
    let mut loader = BundleLoader::new(&bundle, profile, &devices, LoadOptions::default());
    for stage in &stages[..2] {
        assert_eq!(loader.load(stage, &Silent, &Stop::new()).unwrap().placed, layer);
    }
    let error = loader.load(&stages[2], &Silent, &Stop::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("stage layer.2 does not fit: it takes {layer} bytes and host has 0 left")
    );
    assert_eq!(loader.finish().tensors.len(), 2);
}

/// Puts another file in the place of `path` when the first bytes of a stage are reported.
struct Swap {
    path: PathBuf,
    other: PathBuf,
    done: AtomicBool,
}

impl Progress for Swap {
    fn begin(&self, _: Stage, _: u64) {}
    fn advance(&self, _: u64) {
        if !self.done.swap(true, Ordering::Relaxed) {
            fs::rename(&self.other, &self.path).unwrap();
        }
    }
    fn finish(&self) {}
}

#[test]
fn what_is_loaded_of_a_tower_is_what_was_checked() {
    // Once, a tower was hashed and then opened by its path again.
    let world = World::new();
    world.tiny();
    let bundle = Bundle::open(&world.path("tiny-bundle")).unwrap();
    let profile = &bundle.manifest().device_maps[0];
    let devices = LoadDevices::host(profile, u64::MAX);
    let stages = bundle.stages();
    let towers = stages.last().unwrap();
    let load = |progress: &dyn Progress| {
        let mut loader = BundleLoader::new(&bundle, profile, &devices, LoadOptions::default());
        loader.load(towers, progress, &Stop::new()).unwrap();
        let bytes = |stored: Stored| match stored {
            Stored::Values(tensor) => {
                let values = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
                values.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
            }
            _ => panic!("a tower is values"),
        };
        loader
            .finish()
            .tensors
            .into_iter()
            .map(|(name, stored)| (name, bytes(stored)))
            .collect::<BTreeMap<_, _>>()
    };
    let before = load(&Silent);
    let mut weights = bundle.manifest().files.iter().map(|file| file.path.as_str());
    let first = weights.find(|path| path.contains('/') && path.ends_with("model.safetensors")).unwrap();
    let (path, other) = (world.path("tiny-bundle").join(first), world.path("other"));
    let mut changed = fs::read(&path).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&other, &changed).unwrap();
    let swap = Swap { path: path.clone(), other, done: AtomicBool::new(false) };
    assert!(load(&swap) == before);
    assert!(swap.done.load(Ordering::Relaxed) && fs::read(&path).unwrap() == changed);
}
