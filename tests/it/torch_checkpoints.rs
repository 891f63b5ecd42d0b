//! A model gives the same bundle from torch files as from safetensors, however the torch files hold it.
//!
//! The manifests differ in `source`, which names the files that were read, and so in seal and id; in nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use crate::torch_file::{self, Member, dict, member, members, zip_of};
use crate::world::{CONFIG, Random, Tensor, World, contents, save, tensor, write};
use safetensors::Dtype;
use serde_json::{Value, json};

fn model() -> Vec<Tensor> {
    let mut random = Random(5);
    let mut floats = |name: &str, dtype: Dtype, shape: &[usize]| {
        let values = (0..shape.iter().product::<usize>()).map(|_| random.unit() as f32);
        let bytes = values.flat_map(|value| match dtype {
            Dtype::F32 => value.to_le_bytes().to_vec(),
            Dtype::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
            _ => half::bf16::from_f32(value).to_le_bytes().to_vec(),
        });
        tensor(name, dtype, shape, bytes.collect())
    };
    vec![
        floats("model.embed_tokens.weight", Dtype::BF16, &[16, 16]),
        floats("model.layers.0.self_attn.q_proj.weight", Dtype::BF16, &[96, 1152]),
        floats("model.layers.0.self_attn.k_proj.weight", Dtype::F16, &[5, 129]),
        floats("model.layers.0.mlp.up_proj.weight", Dtype::F32, &[3, 70_016]),
        floats("model.layers.0.mlp.down_proj.weight", Dtype::F32, &[300, 300]),
        floats("model.layers.0.input_layernorm.weight", Dtype::BF16, &[16]),
        floats("model.norm.weight", Dtype::F32, &[16]),
        floats("lm_head.weight", Dtype::BF16, &[16, 16]),
        tensor("model.position_ids", Dtype::I64, &[1, 3], (0..24).collect()),
        tensor("model.mask", Dtype::BOOL, &[5], vec![1, 0, 0, 1, 1]),
        tensor("model.scalar", Dtype::F32, &[], vec![0, 0, 128, 63]),
        tensor("model.nothing", Dtype::F16, &[0, 4], Vec::new()),
    ]
}

/// A storage of that type, as torch names it.
fn kind(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "FloatStorage",
        Dtype::F16 => "HalfStorage",
        Dtype::BF16 => "BFloat16Storage",
        Dtype::I64 => "LongStorage",
        Dtype::BOOL => "BoolStorage",
        other => panic!("{other:?}"),
    }
}

fn width(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

/// Each tensor in a storage of its own.
fn plain(tensors: &[Tensor]) -> Vec<Member> {
    views(tensors, |_| (1, 0))
}

/// Each tensor in a storage of its own. `how` gives the order of a matrix (1: by rows, 2: by columns, 3: rows with
/// gaps) and the elements before its first.
fn views(tensors: &[Tensor], how: impl Fn(&Tensor) -> (u8, usize)) -> Vec<Member> {
    let (mut entries, mut storages) = (Vec::new(), Vec::new());
    for (key, tensor) in tensors.iter().enumerate() {
        let (order, start) = how(tensor);
        let (shape, width) = (&tensor.shape, width(tensor.dtype));
        let mut storage = vec![0xaa; start * width];
        let mut strides: Vec<i64> = Vec::new();
        match (order, shape.as_slice()) {
            (2, &[rows, columns]) => {
                strides.extend([1, rows as i64]);
                for column in 0..columns {
                    for row in 0..rows {
                        let at = (row * columns + column) * width;
                        storage.extend(&tensor.bytes[at..at + width]);
                    }
                }
            }
            // Every row in twice the room that it needs.
            (3, &[rows, columns]) => {
                strides.extend([2 * columns as i64, 1]);
                for row in 0..rows {
                    storage.extend(&tensor.bytes[row * columns * width..(row + 1) * columns * width]);
                    storage.extend(vec![0xbb; columns * width]);
                }
            }
            _ => {
                strides = vec![1; shape.len()];
                for dim in (1..shape.len()).rev() {
                    strides[dim - 1] = strides[dim] * shape[dim] as i64;
                }
                storage.extend(&tensor.bytes);
            }
        }
        let shape: Vec<i64> = shape.iter().map(|dim| *dim as i64).collect();
        let of = torch_file::storage(kind(tensor.dtype), &key.to_string(), (storage.len() / width) as i64);
        entries.push((tensor.name.as_str(), torch_file::tensor(of, start as i64, &shape, &strides)));
        storages.push(storage);
    }
    members(&dict(&entries), &storages.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// All tensors of a type in one storage.
fn shared(tensors: &[Tensor]) -> Vec<Member> {
    let mut storages: BTreeMap<&str, (usize, Vec<u8>)> = BTreeMap::new();
    let mut starts = Vec::new();
    for tensor in tensors {
        let next = storages.len();
        let (key, storage) = storages.entry(kind(tensor.dtype)).or_insert((next, Vec::new()));
        starts.push((*key, storage.len() / width(tensor.dtype)));
        storage.extend(&tensor.bytes);
    }
    let mut entries = Vec::new();
    for (tensor, (key, start)) in tensors.iter().zip(starts) {
        let mut strides = vec![1; tensor.shape.len()];
        for dim in (1..tensor.shape.len()).rev() {
            strides[dim - 1] = strides[dim] * tensor.shape[dim] as i64;
        }
        let shape: Vec<i64> = tensor.shape.iter().map(|dim| *dim as i64).collect();
        let len = storages[kind(tensor.dtype)].1.len() / width(tensor.dtype);
        let of = torch_file::storage(kind(tensor.dtype), &key.to_string(), len as i64);
        entries.push((tensor.name.as_str(), torch_file::tensor(of, start as i64, &shape, &strides)));
    }
    let mut in_order: Vec<&(usize, Vec<u8>)> = storages.values().collect();
    in_order.sort();
    members(&dict(&entries), &in_order.iter().map(|(_, bytes)| bytes.as_slice()).collect::<Vec<_>>())
}

fn deflated(mut all: Vec<Member>) -> Vec<Member> {
    for member in &mut all {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&member.content).unwrap();
        member.content = encoder.finish().unwrap();
        member.method = 8;
    }
    all
}

fn big_endian(tensors: &[Tensor]) -> Vec<Member> {
    let turned = tensors.iter().cloned().map(|mut tensor| {
        tensor.bytes.chunks_exact_mut(width(tensor.dtype)).for_each(<[u8]>::reverse);
        tensor
    });
    let mut all = plain(&turned.collect::<Vec<_>>());
    all[1] = member("a/byteorder", "big");
    all
}

/// A checkpoint of torch files, with what is beside the weights the same as `save` writes.
fn save_torch(dir: &Path, files: &[(&str, Vec<Member>)]) {
    save(dir, &[]);
    for (name, all) in files {
        write(&dir.join(name), &zip_of(all, false));
    }
}

/// Every file but the manifest is the same, and the manifest but for what names the source.
fn assert_same_bundle(torch: &Path, safetensors: &Path, what: &str) {
    let (mut ours, mut theirs) = (contents(torch), contents(safetensors));
    let manifest = |files: &mut BTreeMap<String, Vec<u8>>| {
        let mut manifest: Value = serde_json::from_slice(&files.remove("mgpack.json").unwrap()).unwrap();
        let object = manifest.as_object_mut().unwrap();
        let (source, seal) = (object.remove("source"), object.remove("seal"));
        assert!(source.is_some() && seal.is_some());
        manifest
    };
    assert_eq!(manifest(&mut ours), manifest(&mut theirs), "{what}");
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{what}");
    for (name, bytes) in &ours {
        assert!(bytes == &theirs[name], "{what}: {name} differs");
    }
    assert!(ours.keys().any(|name| name.ends_with(".safetensors")), "{what}");
}

#[test]
fn a_torch_checkpoint_gives_the_bundle_of_the_same_safetensors() {
    let world = World::new();
    let tensors = model();
    save(&world.path("st/m"), &[&tensors]);
    let (first, second) = tensors.split_at(4);
    let names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
    type Files = Vec<(&'static str, Vec<Member>)>;
    let variants: Vec<(&str, Files)> = vec![
        ("plain", vec![("pytorch_model.bin", plain(&tensors))]),
        ("another name", vec![("weights.pth", plain(&tensors))]),
        ("sharded", vec![(names[0], plain(first)), (names[1], plain(second))]),
        ("one storage a type", vec![("pytorch_model.bin", shared(&tensors))]),
        ("transposed", vec![("pytorch_model.bin", views(&tensors, |_| (2, 0)))]),
        ("offset and padded rows", vec![("pytorch_model.bin", views(&tensors, |_| (3, 5)))]),
        ("deflated", vec![("pytorch_model.bin", deflated(plain(&tensors)))]),
        ("deflated, one storage a type", vec![("pytorch_model.bin", deflated(shared(&tensors)))]),
        ("deflated and transposed", vec![("pytorch_model.bin", deflated(views(&tensors, |_| (2, 1))))]),
        ("big-endian", vec![("pytorch_model.bin", big_endian(&tensors))]),
    ];
    for (what, files) in &variants {
        let dir = world.path("bin/m");
        save_torch(&dir, files);
        if *what == "sharded" {
            let of = |tensors: &[Tensor], file: &str| {
                tensors.iter().map(|t| (t.name.clone(), json!(file))).collect::<Vec<_>>()
            };
            let map: serde_json::Map<_, _> =
                [of(first, names[0]), of(second, names[1])].concat().into_iter().collect();
            let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
            write(&dir.join("pytorch_model.bin.index.json"), index.to_string().as_bytes());
        }
        for options in [&["--int8"][..], &["--int8", "--format", "bnb"], &["--bf16", "-j", "1"]] {
            for (source, target) in [("st/m", "from-st/out"), ("bin/m", "from-bin/out")] {
                let line = [&["convert", source, "-o", target], options].concat();
                world.good(&line);
            }
            assert_same_bundle(
                &world.path("from-bin/out"),
                &world.path("from-st/out"),
                &format!("{what} {options:?}"),
            );
            fs::remove_dir_all(world.path("from-bin")).unwrap();
            fs::remove_dir_all(world.path("from-st")).unwrap();
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}

/// transformers leaves the tied head out of safetensors; a torch file has both names of one storage.
#[test]
fn a_tied_head_is_left_out_unless_the_configuration_says_that_it_is_not_tied() {
    let world = World::new();
    let mut tensors = model();
    let head = tensors.iter().position(|tensor| tensor.name == "lm_head.weight").unwrap();
    tensors.remove(head);
    save(&world.path("st/m"), &[&tensors]);
    let mut all = plain(&tensors);
    let pickle = all[0].content.clone();
    let embedding =
        torch_file::tensor(torch_file::storage("BFloat16Storage", "0", 256), 0, &[16, 16], &[16, 1]);
    let more = [torch_file::text("lm_head.weight"), embedding, b"s.".to_vec()].concat();
    all[0] = member("a/data.pkl", [&pickle[..pickle.len() - 1], &more].concat());
    save_torch(&world.path("bin/m"), &[("pytorch_model.bin", all)]);
    world.good(&["convert", "st/m", "--int8", "-o", "from-st/out"]);
    let ran = world.good(&["convert", "bin/m", "--int8", "-o", "from-bin/out"]);
    assert!(
        ran.err.contains("`lm_head.weight` is `model.embed_tokens.weight` under another name"),
        "{}",
        ran.err
    );
    assert_same_bundle(&world.path("from-bin/out"), &world.path("from-st/out"), "tied");

    let untied = CONFIG.replace("\"hidden_size\"", "\"tie_word_embeddings\": false,\n  \"hidden_size\"");
    write(&world.path("bin/m/config.json"), untied.as_bytes());
    let plan = world.good(&["plan", "bin/m", "--bf16", "--json"]).json();
    let names: Vec<&str> =
        plan["tensors"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"lm_head.weight") && names.contains(&"model.embed_tokens.weight"), "{names:?}");
}

#[test]
fn a_damaged_storage_stops_the_conversion_and_leaves_nothing() {
    let world = World::new();
    let mut all = plain(&model());
    all[3].content[70_000] ^= 4;
    save_torch(&world.path("bin/m"), &[("pytorch_model.bin", all)]);
    let ran = world.run(&["convert", "bin/m", "--int8", "-o", "out"]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("the content of member `data/1` does not have its CRC"), "{}", ran.err);
    assert_eq!(world.names(), ["bin"]);
}

#[test]
fn a_trainers_archive_is_read_whatever_its_ending() {
    let world = World::new();
    save_torch(&world.path("bin/m"), &[("pytorch_model.bin", plain(&model()))]);
    world.good(&["convert", "bin/m", "--int8", "-o", "a/out"]);
    for (place, name) in [("ckpt", "last.ckpt"), ("tar", "best.pth.tar")] {
        save_torch(&world.path(&format!("{place}/m")), &[(name, plain(&model()))]);
        world.good(&["convert", &format!("{place}/m"), "--int8", "-o", &format!("{place}/out")]);
        assert_same_bundle(&world.path("a/out"), &world.path(&format!("{place}/out")), name);
    }
}

#[test]
fn says_which_part_of_a_training_checkpoint_is_read() {
    let world = World::new();
    let inner = plain(&model());
    let body = &inner[0].content[2..inner[0].content.len() - 1];
    let wrapped = [
        b"}(".to_vec(),
        torch_file::text("epoch"),
        b"K\x07".to_vec(),
        torch_file::text("model"),
        body.to_vec(),
        b"u".to_vec(),
    ];
    let mut all = inner.clone();
    all[0] = member("a/data.pkl", torch_file::pickle(&wrapped.concat()));
    save_torch(&world.path("bin/m"), &[("pytorch_model.bin", all)]);
    save_torch(&world.path("bare/m"), &[("pytorch_model.bin", inner)]);
    let ran = world.good(&["convert", "bin/m", "--int8", "-o", "a/out"]);
    assert!(
        ran.err.contains("`pytorch_model.bin`: the state dict is `model`; not read: `epoch`"),
        "{}",
        ran.err
    );
    world.good(&["convert", "bare/m", "--int8", "-o", "b/out"]);
    assert_same_bundle(&world.path("a/out"), &world.path("b/out"), "wrapped");
}
