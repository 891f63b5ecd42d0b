//! What a bundle holds of MGM's towers: what MGM reads of them, as float16, under the names that it opens.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::torch_file::{dict, global, pickle, storage, tensor, text, torch_zip, tuple};
use crate::world::{World, write};
use half::{bf16, f16};
use mgpack::internals::checkpoint::Checkpoint;
use mgpack::internals::tiny;
use safetensors::Dtype;
use serde_json::Value;

const CLIP: &str = "model_zoo/OpenAI/clip-vit-large-patch14-336";
const AUX: &str = "model_zoo/OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup";
const AUX_BIN: &str = "open_clip_pytorch_model.bin";

/// The tiny checkpoint, in a folder of its own.
fn checkpoint(world: &World) -> PathBuf {
    let dir = world.path("ckpt/MGM-7B");
    tiny::write(&dir, 3).unwrap();
    dir
}

/// Bytes read of a tensor: the tiny tower's views cover 400 MB.
const MOST: u64 = 200_000;

/// Names, types, shapes and values of one file of weights; of large tensors the first values.
fn tensors(path: &Path) -> BTreeMap<String, (Dtype, Vec<u64>, Vec<u8>)> {
    let file = Checkpoint::open_file(path).unwrap();
    let read = |tensor: &mgpack::internals::checkpoint::SourceTensor| {
        let mut bytes = vec![0; tensor.byte_len.min(MOST) as usize];
        file.read(tensor, 0, &mut bytes).unwrap();
        (tensor.name.to_string(), (tensor.dtype, tensor.shape.clone(), bytes))
    };
    file.tensors().iter().map(read).collect()
}

/// The values in single precision, as float16.
fn halves(bytes: &[u8]) -> Vec<u8> {
    let values = bytes.as_chunks::<4>().0.iter();
    values.flat_map(|value| f16::from_f32(f32::from_le_bytes(*value)).to_le_bytes()).collect()
}

#[test]
fn the_auxiliary_tower_keeps_its_views_and_its_values() {
    let world = World::new();
    let source = checkpoint(&world);
    world.good(&["convert", "ckpt/MGM-7B", "--int8", "-o", "out"]);
    let written = world.path("out").join(AUX).join(AUX_BIN);
    let (ours, theirs) = (tensors(&written), tensors(&source.join(AUX).join(AUX_BIN)));
    assert_eq!(ours.len(), 340);
    assert!(ours == theirs);
    // Its matrices are views with overlapping rows, and stay so: 196 million values in less than 2 MiB.
    assert!(fs::metadata(&written).unwrap().len() < 2 << 20);
}

#[test]
fn the_clip_tower_is_its_visual_part_as_float16() {
    let world = World::new();
    let source = checkpoint(&world);
    // As openai publishes it: a torch file with the text model in it.
    let floats = |len: usize| {
        (0..len).flat_map(|number| (number as f32 / 3.0 - 1.0).to_le_bytes()).collect::<Vec<u8>>()
    };
    let (first, second) = (floats(6), floats(4));
    let of = |key: &str, len: i64, shape: &[i64], strides: &[i64]| {
        tensor(storage("FloatStorage", key, len), 0, shape, strides)
    };
    let state = dict(&[
        ("vision_model.post_layernorm.weight", of("0", 6, &[2, 3], &[1, 2])),
        ("vision_model.embeddings.position_ids", tensor(storage("LongStorage", "2", 2), 0, &[1, 2], &[2, 1])),
        ("text_model.final_layer_norm.weight", of("1", 4, &[4], &[1])),
        ("logit_scale", of("1", 4, &[], &[])),
    ]);
    let ids = [0i64, 1].map(i64::to_le_bytes).concat();
    fs::remove_file(source.join(CLIP).join("model.safetensors")).unwrap();
    write(&source.join(CLIP).join("pytorch_model.bin"), &torch_zip(&state, &[&first, &second, &ids]));
    world.good(&["convert", "ckpt/MGM-7B", "--bf16", "-o", "out"]);
    assert!(!world.path("out").join(CLIP).join("pytorch_model.bin").exists());
    let found = tensors(&world.path("out").join(CLIP).join("model.safetensors"));
    let at = |row: usize, column: usize| &first[4 * (column * 2 + row)..][..4];
    let by_rows: Vec<u8> =
        (0..2).flat_map(|row| (0..3).flat_map(move |column| at(row, column).to_vec())).collect();
    let expected = BTreeMap::from([
        ("vision_model.embeddings.position_ids".to_owned(), (Dtype::I64, vec![1, 2], ids)),
        ("vision_model.post_layernorm.weight".to_owned(), (Dtype::F16, vec![2, 3], halves(&by_rows))),
    ]);
    assert_eq!(found, expected);
    // What the manifest says about it.
    let manifest: Value = serde_json::from_slice(&fs::read(world.path("out/mgpack.json")).unwrap()).unwrap();
    let files = manifest["source"]["files"].as_array().unwrap();
    let path = format!("tower:{CLIP}/pytorch_model.bin");
    assert_eq!(files.iter().find(|file| file["path"] == path.as_str()).unwrap()["fate"], "converted");
    world.good(&["verify", "out"]);
}

#[test]
fn the_auxiliary_tower_is_cast_and_loses_what_mgm_does_not_read() {
    let world = World::new();
    let source = checkpoint(&world);
    let floats: Vec<u8> = [1.0f32, 2.0, 0.1, 65519.0].map(f32::to_le_bytes).concat();
    let brains: Vec<u8> = [1.5f32, -3.0].map(|value| bf16::from_f32(value).to_le_bytes()).concat();
    let state = dict(&[
        ("visual.trunk.stem.0.weight", tensor(storage("FloatStorage", "0", 4), 1, &[3], &[1])),
        ("visual.trunk.stem.0.bias", tensor(storage("FloatStorage", "0", 4), 2, &[2], &[1])),
        ("visual.trunk.stages.0.gamma", tensor(storage("BFloat16Storage", "1", 2), 0, &[2], &[1])),
        ("visual.head.proj.weight", tensor(storage("FloatStorage", "0", 4), 0, &[4], &[1])),
        ("text.token_embedding.weight", tensor(storage("FloatStorage", "0", 4), 0, &[4], &[1])),
    ]);
    write(&source.join(AUX).join(AUX_BIN), &torch_zip(&state, &[&floats, &brains]));
    world.good(&["convert", "ckpt/MGM-7B", "--int8", "-o", "out"]);
    let found = tensors(&world.path("out").join(AUX).join(AUX_BIN));
    let expected = BTreeMap::from([
        (
            "visual.trunk.stages.0.gamma".to_owned(),
            (Dtype::F16, vec![2], [1.5, -3.0].map(|v| f16::from_f32(v).to_le_bytes()).concat()),
        ),
        ("visual.trunk.stem.0.bias".to_owned(), (Dtype::F16, vec![2], halves(&floats[8..]))),
        ("visual.trunk.stem.0.weight".to_owned(), (Dtype::F16, vec![3], halves(&floats[4..]))),
    ]);
    assert_eq!(found, expected);
}

#[test]
fn towers_are_copied_byte_for_byte_on_request() {
    let world = World::new();
    let source = checkpoint(&world);
    // Nothing that mgpack would read.
    write(&source.join(AUX).join(AUX_BIN), b"not even a torch file");
    world.good(&["convert", "ckpt/MGM-7B", "--int8", "--keep-towers", "-o", "out"]);
    for path in [format!("{AUX}/{AUX_BIN}"), format!("{CLIP}/model.safetensors")] {
        assert!(
            fs::read(source.join(&path)).unwrap() == fs::read(world.path("out").join(&path)).unwrap(),
            "{path}"
        );
    }
}

#[test]
fn a_tower_that_would_run_code_is_refused_before_anything_is_written() {
    let world = World::new();
    let source = checkpoint(&world);
    let code = [global("os", "system"), tuple(&[text("true")]), b"R".to_vec()].concat();
    write(&source.join(AUX).join(AUX_BIN), &torch_zip(&pickle(&code), &[]));
    let ran = world.run(&["convert", "ckpt/MGM-7B", "--int8", "-o", "out"]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("the pickle refers to `os.system`") && ran.err.contains(AUX_BIN), "{}", ran.err);
    assert!(!world.path("out").exists());
    let other = dict(&[("text.w", tensor(storage("FloatStorage", "0", 1), 0, &[1], &[1]))]);
    write(&source.join(AUX).join(AUX_BIN), &torch_zip(&other, &[&[0; 4]]));
    let ran = world.run(&["convert", "ckpt/MGM-7B", "--int8", "-o", "out"]);
    assert!(
        ran.err.contains("none of the tensors that MGM reads") && ran.err.contains("--keep-towers"),
        "{}",
        ran.err
    );
}
