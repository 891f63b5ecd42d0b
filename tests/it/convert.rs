//! What `convert` claims: every tensor bit for bit, the same bytes always, and all or nothing.

use mgpack::Isa;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::arithmetic::{Kind, Tensors, encoded, expected, values};
use crate::world::{
    self, CONFIG, Random, Tensor, World, assert_same, contents, copy, save, save_zeros, tensor,
};
use rustix::process::{Pid, Signal, kill_process};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Weights as a model has them: small, of changing spread, with some outliers.
fn noise(random: &mut Random, dtype: Dtype, count: usize) -> Vec<u8> {
    let values: Vec<f64> = (0..count)
        .map(|_| {
            let spread = 2f64.powi(random.below(9) as i32 - 6);
            random.unit() * if random.below(500) == 0 { 40.0 } else { spread }
        })
        .collect();
    encoded(&values, dtype)
}

/// A linear of the first decoder layer.
fn linear(random: &mut Random, name: &str, dtype: Dtype, rows: usize, columns: usize) -> Tensor {
    let bytes = noise(random, dtype, rows * columns);
    tensor(&format!("model.layers.0.{name}.weight"), dtype, &[rows, columns], bytes).linear()
}

/// Rows with what rounding meets rarely: zeros, -0.0, ties, subnormals, constants, the magnitude at each end.
fn corners(dtype: Dtype, columns: usize) -> (usize, Vec<f64>) {
    let fill = |of: &dyn Fn(usize) -> f64| (0..columns).map(of).collect::<Vec<f64>>();
    let tiny = match dtype {
        Dtype::F16 => 2f64.powi(-24),
        Dtype::BF16 => 2f64.powi(-133),
        _ => 2f64.powi(-149),
    };
    let alternate = |index: usize| if index.is_multiple_of(2) { 1.0 } else { -1.0 };
    let mut rows = vec![
        fill(&|_| 0.0),
        fill(&|_| -0.0),
        fill(&|index| alternate(index) * tiny * (index % 5) as f64),
        fill(&|index| tiny * (index % 300) as f64),
        fill(&|_| 0.3),
        fill(&|_| -3.0),
        fill(&|index| if index == columns - 1 { 1000.0 } else { 0.001 }),
        fill(&|index| alternate(index) * 65504.0 / (1 + index % 7) as f64),
        fill(&|index| 2f64.powi(-(index as i32 % 30))),
    ];
    for scale in [1.0, 2f64.powi(-7), 2f64.powi(3)] {
        for end in [127.0, 127.5, -127.5] {
            // Ties: k + 0.5 steps, with a magnitude that makes the step a power of two.
            rows.push(fill(&|index| {
                scale * if index == 0 { end } else { alternate(index) * ((index % 127) as f64 + 0.5) }
            }));
        }
    }
    if dtype == Dtype::BF16 {
        // 65504 is no bf16; the next ones are 65280 and 65536, and the second overflows in f16.
        rows[7] = fill(&|index| 65280.0 / (1 + index % 7) as f64);
    }
    (rows.len(), rows.concat())
}

/// Llama-like names with every type, width and shape that needs care.
fn zoo() -> Vec<Tensor> {
    let mut random = Random(2);
    let r = &mut random;
    let mut all = vec![
        linear(r, "self_attn.q_proj", Dtype::BF16, 4, 127),
        linear(r, "self_attn.k_proj", Dtype::F16, 5, 129),
        linear(r, "self_attn.v_proj", Dtype::F32, 3, 1),
        linear(r, "self_attn.o_proj", Dtype::BF16, 7, 3),
        linear(r, "mlp.gate_proj", Dtype::F64, 6, 128),
        // Wider than a block, of every type; a block ends inside a group of none of them.
        linear(r, "mlp.up_proj", Dtype::BF16, 2, 70_016),
        linear(r, "mlp.down_proj", Dtype::F32, 3, 65_664),
        linear(r, "mlp.other_proj", Dtype::F16, 2, 65_537),
        // More rows than a block holds.
        linear(r, "mlp.parts.0.w1", Dtype::BF16, 200, 512),
        linear(r, "mlp.parts.1.w1", Dtype::F16, 130, 1024),
        linear(r, "mlp.parts.10.w1", Dtype::F32, 70, 1280),
    ];
    for (index, dtype) in [Dtype::BF16, Dtype::F16, Dtype::F32].into_iter().enumerate() {
        for columns in [128, 129, 256] {
            let (rows, values) = corners(dtype, columns);
            let name = format!("model.layers.1.corner{index}.w{columns}.weight");
            all.push(tensor(&name, dtype, &[rows, columns], encoded(&values, dtype)).linear());
        }
    }
    // All that is not a linear.
    let mut other = |name: &str, dtype: Dtype, shape: &[usize]| {
        let bytes = noise(r, dtype, shape.iter().product());
        all.push(tensor(name, dtype, shape, bytes));
    };
    other("model.embed_tokens.weight", Dtype::BF16, &[16, 16]);
    other("model.norm.weight", Dtype::F32, &[16]);
    other("lm_head.weight", Dtype::F16, &[16, 17]);
    other("model.scale", Dtype::F32, &[]);
    other("model.layers.0.self_attn.temperature", Dtype::F64, &[]);
    other("model.layers.0.input_layernorm.weight", Dtype::BF16, &[3]);
    other("model.layers.0.self_attn.q_proj.bias", Dtype::F16, &[5]);
    other("model.layers.0.mlp.experts.gate_up_proj", Dtype::BF16, &[3, 5, 7]);
    other("model.layers.1.norm_table.weight", Dtype::F64, &[33, 3]);
    other("model.layers.1.mlp.up_proj.weight", Dtype::BF16, &[0, 128]);
    other("model.layers.1.mlp.down_proj.weight", Dtype::F32, &[128, 0]);
    other("model.nothing", Dtype::F16, &[0]);
    other("model.huge", Dtype::F32, &[1_000_003]);
    let bytes = |count: usize| (0..count).map(|index| (index * 37 % 251) as u8).collect::<Vec<u8>>();
    all.push(tensor("model.position_ids", Dtype::I64, &[1, 9], bytes(72)));
    all.push(tensor("model.int32", Dtype::I32, &[3], bytes(12)));
    all.push(tensor("model.mask", Dtype::BOOL, &[7], vec![1, 0, 0, 1, 1, 0, 1]));
    all.push(tensor("model.bytes", Dtype::U8, &[13], bytes(13)));
    all.push(tensor("model.zero_d", Dtype::I64, &[], bytes(8)));
    all
}

/// Saves tensors in two shards, so that reading them in the order of the files is not the order of layers.
fn save_two(dir: &Path, tensors: &[Tensor]) {
    let (odd, even): (Vec<_>, Vec<_>) =
        tensors.iter().cloned().enumerate().partition(|(index, _)| index % 2 == 1);
    let strip = |half: Vec<(usize, Tensor)>| half.into_iter().map(|(_, tensor)| tensor).collect::<Vec<_>>();
    save(dir, &[&strip(odd), &strip(even)]);
}

/// Every tensor of a bundle's shards, through the safetensors library.
fn stored(dir: &Path) -> Tensors {
    let mut found = Tensors::new();
    for (path, bytes) in contents(dir).iter().filter(|(path, _)| path.ends_with(".safetensors")) {
        for (name, view) in SafeTensors::deserialize(bytes).unwrap().iter() {
            let entry = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            assert!(found.insert(name.to_owned(), entry).is_none(), "{name} twice, again in {path}");
        }
    }
    found
}

fn assert_tensors(found: &Tensors, expected: &Tensors, what: &str) {
    let names = |tensors: &Tensors| tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}");
    for (name, (dtype, shape, bytes)) in expected {
        let (found_dtype, found_shape, found_bytes) = &found[name];
        assert_eq!((found_dtype, found_shape), (dtype, shape), "{what}: {name}");
        if found_bytes != bytes {
            let at = found_bytes.iter().zip(bytes).position(|(a, b)| a != b);
            panic!("{what}: {name} differs at byte {at:?} of {}", bytes.len());
        }
    }
}

const WAYS: [(&[&str], Kind); 5] = [
    (&["--fp16", "--on-overflow", "inf"], Kind::Cast(Dtype::F16)),
    (&["--bf16"], Kind::Cast(Dtype::BF16)),
    (&["--int8", "--format", "bnb"], Kind::Bnb),
    (&["--int8"], Kind::W8A8),
    (&["--scheme", "w8a16"], Kind::W8A16),
];

/// `mgpack convert ckpt … -o out`.
fn args<'a>(way: &[&'a str], out: &'a str) -> Vec<&'a str> {
    [&["convert", "ckpt"], way, &["-o", out]].concat()
}

#[test]
fn every_tensor_of_every_scheme_equals_its_definition() {
    let world = World::new();
    let zoo = zoo();
    save_two(&world.path("ckpt"), &zoo);
    for (way, kind) in WAYS {
        let way = [way, &["--max-shard-size", "600KiB"]].concat();
        world.good(&args(&way, "out"));
        let expected = expected(&zoo, kind);
        let codes = expected.values().filter(|(dtype, ..)| matches!(dtype, Dtype::I8)).count();
        assert_eq!(codes > 0, matches!(kind, Kind::Bnb | Kind::W8A8));
        assert_tensors(&stored(&world.path("out")), &expected, &format!("{kind:?}"));
        world.good(&["verify", "out"]);
        fs::remove_dir_all(world.path("out")).unwrap();
    }
}

#[test]
fn every_shard_is_aligned_says_pt_and_the_index_and_the_manifest_agree_with_it() {
    let world = World::new();
    save_two(&world.path("ckpt"), &zoo());
    for (way, kind) in WAYS {
        world.good(&args(&[way, &["--max-shard-size", "300KiB"]].concat(), "out"));
        let files = contents(&world.path("out"));
        let index: Value = serde_json::from_slice(&files["model.safetensors.index.json"]).unwrap();
        let manifest: Value = serde_json::from_slice(&files["mgpack.json"]).unwrap();
        let mut map = BTreeMap::new();
        let mut records = BTreeSet::new();
        let mut total = 0;
        for (path, bytes) in files.iter().filter(|(path, _)| path.ends_with(".safetensors")) {
            let (header_len, header) = SafeTensors::read_metadata(bytes).unwrap();
            assert!((header_len + 8).is_multiple_of(8), "{path}");
            assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt", "{path}");
            for (name, info) in header.tensors() {
                let (start, end) = info.data_offsets;
                let width = info.dtype.bitsize() / 8;
                assert!(start.is_multiple_of(width), "{kind:?}: {name} ({width}) at {start} in {path}");
                let head = header_len + 8;
                records.insert(format!(
                    "{name} {path} {} {} {:?} {:?}",
                    head + start,
                    head + end,
                    info.shape,
                    info.dtype
                ));
                map.insert(name, path.clone());
                total += end - start;
            }
        }
        assert!(map.len() > 30);
        assert_eq!(index["weight_map"], serde_json::to_value(&map).unwrap());
        assert_eq!(index["metadata"]["total_size"], total);
        assert_eq!(manifest["totals"]["tensor_bytes"], total);
        let listed: BTreeSet<String> = manifest["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tensor| {
                let text = |key: &str| tensor[key].as_str().unwrap();
                let shape: Vec<u64> = serde_json::from_value(tensor["shape"].clone()).unwrap();
                let (start, end) = (&tensor["range"][0], &tensor["range"][1]);
                format!("{} {} {start} {end} {shape:?} {}", text("name"), text("shard"), text("dtype"))
            })
            .collect();
        assert_eq!(listed, records);
        fs::remove_dir_all(world.path("out")).unwrap();
    }
}

#[test]
fn every_tensor_and_every_file_of_the_checkpoint_is_accounted_for() {
    let world = World::new();
    let zoo = zoo();
    save_two(&world.path("ckpt"), &zoo);
    world.good(&args(&["--int8"], "out"));
    let files = contents(&world.path("out"));
    let manifest: Value = serde_json::from_slice(&files["mgpack.json"]).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let array = |value: &Value| value.as_array().unwrap().clone();
    let sources: BTreeSet<String> =
        array(&manifest["tensors"]).iter().map(|tensor| text(&tensor["source"])).collect();
    assert_eq!(sources, zoo.iter().map(|tensor| tensor.name.clone()).collect());
    let fates: BTreeMap<String, String> = array(&manifest["source"]["files"])
        .iter()
        .map(|file| (text(&file["path"]), text(&file["fate"])))
        .collect();
    let of = |path: &str| fates[path].as_str();
    assert_eq!(fates.len(), contents(&world.path("ckpt")).len());
    assert_eq!(of("model-00001-of-00002.safetensors"), "converted");
    assert_eq!(of("model.safetensors.index.json"), "replaced");
    assert_eq!(of("config.json"), "replaced");
    assert_eq!(of("tokenizer.json"), "copied");
    assert_eq!(of("README.md"), "copied");
    assert_eq!(of("training_args.bin"), "left_out");
    assert_eq!(files["README.source.md"], b"# The original card\n");
    assert_eq!(files["tokenizer.json"], b"{\"model\":{}}");
    assert!(!files.contains_key("training_args.bin"));
}

/// A bundle taken as a checkpoint has both; they once met under one name and the conversion was refused.
#[test]
fn every_card_of_the_checkpoint_is_kept_under_a_name_of_its_own() {
    let world = World::new();
    save_two(&world.path("ckpt"), &zoo());
    fs::write(world.path("ckpt/README.source.md"), "The first card\n").unwrap();
    world.good(&args(&["--fp16"], "out"));
    let files = contents(&world.path("out"));
    assert_eq!(files["README.source.md"], b"# The original card\n");
    assert_eq!(files["README.source.source.md"], b"The first card\n");
    assert!(files["README.md"] != files["README.source.md"]);
    assert_eq!(world.run(&["verify", "out"]).code, 0);
}

#[test]
fn threads_memory_instruction_sets_and_places_do_not_change_a_byte() {
    let world = World::new();
    save_two(&world.path("ckpt"), &zoo());
    copy(&world.path("ckpt"), &world.path("deep/er/place/ckpt"));
    for way in [
        &["--int8", "--format", "bnb"][..],
        &["--int8"],
        &["--scheme", "W8A16"],
        &["--fp16", "--on-overflow", "clamp"],
    ] {
        let way = [way, &["--max-shard-size", "500KiB"]].concat();
        world.good(&args(&way, "base/out"));
        let mut variants: Vec<Vec<&str>> = vec![
            vec!["-j", "1"],
            vec!["-j", "2"],
            vec!["-j", "3", "--max-memory", "64MiB"],
            vec!["-j", "1", "--max-memory", "64MiB", "--isa", "scalar"],
            vec![],
        ];
        variants.extend(Isa::all().into_iter().map(|isa| vec!["--isa", isa.name()]));
        for variant in variants {
            world.good(&args(&[&way[..], &variant].concat(), "other/out"));
            assert_same(&world.path("base"), &world.path("other"), &format!("{way:?} {variant:?}"));
            fs::remove_dir_all(world.path("other")).unwrap();
        }
        // Another working directory, an absolute path, a path with links and dots in it, another umask's modes.
        let source = world.path("deep/er/../er/place/ckpt");
        let out = world.path("other/out");
        let args =
            [&["convert", source.to_str().unwrap()], &way[..], &["-o", out.to_str().unwrap()]].concat();
        let ran = world::ran(
            world.command(&args).current_dir(world.path("deep")).env("TZ", "Asia/Tokyo").env("LANG", "C"),
        );
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert_same(&world.path("base/out"), &out, "another place");
        fs::remove_dir_all(world.path("other")).unwrap();
        fs::remove_dir_all(world.path("base")).unwrap();
    }
}

#[test]
fn no_path_of_this_machine_is_in_a_bundle() {
    let world = World::new();
    save_two(&world.path("ckpt"), &zoo());
    let source = world.path("ckpt");
    let out = world.path("out");
    world.good(&["convert", source.to_str().unwrap(), "--int8", "-o", out.to_str().unwrap()]);
    let tiny = world.tiny();
    let temp = world.path("");
    let needle = temp.file_name().unwrap().to_str().unwrap();
    assert!(needle.starts_with("mgpack-test-"));
    for dir in [out, tiny] {
        for (path, bytes) in contents(&dir) {
            let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
            assert!(!has(needle.as_bytes()), "{path}");
            assert!(
                path.ends_with(".safetensors") || path.ends_with(".bin") || !has(b"/home/") && !has(b"/tmp/"),
                "{path}"
            );
        }
    }
}

/// A checkpoint of one linear of `[4, columns]` with one value set, and an embedding.
fn with_value(dir: &Path, dtype: Dtype, columns: usize, at: usize, value: f64) {
    let _ = fs::remove_dir_all(dir);
    let mut weights = vec![0.5; 4 * columns];
    weights[at] = value;
    let bytes = match (dtype, value.is_nan()) {
        (Dtype::F32, _) => weights.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect(),
        (Dtype::BF16, true) => {
            let mut bytes = encoded(&vec![0.5; 4 * columns], dtype);
            bytes[at * 2..at * 2 + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
            bytes
        }
        _ => encoded(&weights, dtype),
    };
    let weight = tensor("model.layers.0.mlp.up_proj.weight", dtype, &[4, columns], bytes);
    let embed = tensor("model.embed_tokens.weight", dtype, &[2, 2], encoded(&[0.5; 4], dtype));
    save(dir, &[&[weight, embed]]);
}

#[test]
fn a_nan_or_an_infinity_in_a_linear_is_refused_with_its_place_and_leaves_nothing() {
    let world = World::new();
    let cases = [
        (Dtype::BF16, 8, 2 * 8 + 5, f64::NAN, "NaN at row 2, column 5"),
        (Dtype::F32, 129, 3 * 129 + 128, f64::INFINITY, "inf at row 3, column 128"),
        (Dtype::F16, 256, 0, f64::NEG_INFINITY, "-inf at row 0, column 0"),
        // In the second block of a row wider than a block.
        (Dtype::BF16, 70_016, 70_016 + 66_000, f64::NAN, "NaN at row 1, column 66000"),
    ];
    for (dtype, columns, at, value, place) in cases {
        if value.is_nan() || dtype != Dtype::BF16 {
            with_value(&world.path("ckpt"), dtype, columns, at, value);
        }
        for way in [&["--int8"][..], &["--int8", "--format", "bnb"], &["--scheme", "W8A16"]] {
            if way[0] == "--scheme" && !columns.is_multiple_of(128) {
                continue;
            }
            let ran = world.run(&args(way, "out"));
            assert_eq!(ran.code, 1, "{way:?}: {ran:?}");
            let message = format!("error: tensor `model.layers.0.mlp.up_proj.weight` holds {place}\n");
            assert!(ran.err.contains(&message), "{way:?}: {}", ran.err);
            assert!(ran.err.contains("--ignore model.layers.0.mlp.up_proj"), "{}", ran.err);
            assert_eq!(world.names(), ["ckpt"], "nothing is left");
        }
        // A cast keeps it, and counts it.
        world.good(&args(&["--bf16"], "out"));
        let manifest: Value =
            serde_json::from_slice(&fs::read(world.path("out/mgpack.json")).unwrap()).unwrap();
        let record = manifest["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .find(|tensor| tensor["name"] == "model.layers.0.mlp.up_proj.weight")
            .unwrap();
        assert!(dtype == Dtype::BF16 || record["error"]["non_finite"] == 1, "{record}");
        let (_, _, bytes) = &stored(&world.path("out"))["model.layers.0.mlp.up_proj.weight"];
        let kept = values(Dtype::BF16, bytes)[at];
        assert!(kept == value || kept.is_nan() && value.is_nan(), "{kept}");
        fs::remove_dir_all(world.path("out")).unwrap();
    }
}

#[test]
fn a_value_beyond_f16_is_an_error_clamped_or_infinite_as_asked() {
    let world = World::new();
    let name = "model.layers.0.mlp.up_proj.weight";
    for (dtype, value) in [
        (Dtype::F32, 65520.0),
        (Dtype::F32, -1e30),
        (Dtype::BF16, 65536.0),
        (Dtype::F64, 7e4),
        (Dtype::F64, -1e300),
    ] {
        with_value(&world.path("ckpt"), dtype, 8, 19, value);
        for way in [&["--fp16"][..], &["--fp16", "--on-overflow", "error"], &["--int8", "--format", "bnb"]] {
            let ran = world.run(&args(way, "out"));
            assert_eq!(ran.code, 1, "{way:?}: {ran:?}");
            assert!(ran.err.contains(&format!("error: tensor `{name}` holds ")), "{}", ran.err);
            assert!(ran.err.contains("at element 19, beyond the range of fp16"), "{}", ran.err);
            assert_eq!(world.names(), ["ckpt"], "nothing is left");
        }
        // A quantized row cannot hold an infinity.
        let refused = world.run(&args(&["--int8", "--format", "bnb", "--on-overflow", "inf"], "out"));
        assert_eq!(refused.code, 1);
        assert!(refused.err.contains("beyond the range of fp16"), "{}", refused.err);
        for (policy, end) in [("clamp", 65504.0), ("inf", f64::INFINITY)] {
            world.good(&args(&["--fp16", "--on-overflow", policy], "out"));
            let (stored_dtype, _, bytes) = &stored(&world.path("out"))[name];
            assert_eq!(*stored_dtype, Dtype::F16);
            let found = values(Dtype::F16, bytes);
            assert_eq!(found[19], end.copysign(value), "{policy}");
            assert!(found.iter().enumerate().all(|(index, value)| index == 19 || *value == 0.5));
            let manifest: Value =
                serde_json::from_slice(&fs::read(world.path("out/mgpack.json")).unwrap()).unwrap();
            let record =
                manifest["tensors"].as_array().unwrap().iter().find(|tensor| tensor["name"] == name).unwrap();
            assert_eq!(record["error"]["overflowed"], 1, "{policy}: {record}");
            fs::remove_dir_all(world.path("out")).unwrap();
        }
        world.good(&args(&["--int8", "--format", "bnb", "--on-overflow", "clamp"], "out"));
        let tensors = stored(&world.path("out"));
        assert_eq!(
            values(Dtype::F32, &tensors["model.layers.0.mlp.up_proj.SCB"].2),
            [0.5, 0.5, 65504.0, 0.5]
        );
        assert_eq!(tensors[name].2[19] as i8, if value > 0.0 { 127 } else { -127 });
        fs::remove_dir_all(world.path("out")).unwrap();
    }
    // The last value that rounds to the largest finite f16 is none of these cases.
    with_value(&world.path("ckpt"), Dtype::F32, 8, 19, 65519.996);
    world.good(&args(&["--fp16"], "out"));
    assert_eq!(values(Dtype::F16, &stored(&world.path("out"))[name].2)[19], 65504.0);
}

/// Bundles of such rows did not verify: the difference of a finite weight and an infinite one went into the figures.
#[test]
fn a_code_that_decodes_to_infinity_is_an_error_limited_or_kept_as_asked() {
    let world = World::new();
    let name = "model.layers.0.mlp.up_proj.weight";
    for (dtype, value) in
        [(Dtype::BF16, -3.3895313892515355e38), (Dtype::F32, -f64::from(f32::MAX)), (Dtype::F16, -65472.0)]
    {
        with_value(&world.path("ckpt"), dtype, 128, 131, value);
        for scheme in ["W8A8", "W8A16"] {
            let way = |policy| args(&["--scheme", scheme, "--on-overflow", policy], "out");
            let ran = world.run(&way("error"));
            assert_eq!(ran.code, 1, "{scheme} {dtype:?}: {ran:?}");
            assert!(ran.err.contains("at element 131, beyond the range of int8 codes of "), "{}", ran.err);
            assert_eq!(world.names(), ["ckpt"], "nothing is left");
            for (policy, code) in [("clamp", -127_i8), ("inf", -128)] {
                world.good(&way(policy));
                assert_eq!(world.good(&["verify", "out"]).code, 0);
                let tensors = stored(&world.path("out"));
                let found = match scheme {
                    "W8A8" => tensors[name].2[131].cast_signed(),
                    _ => (tensors[&format!("{name}_packed")].2[131] ^ 0x80).cast_signed(),
                };
                assert_eq!(found, code, "{scheme} {dtype:?} {policy}");
                let manifest: Value =
                    serde_json::from_slice(&fs::read(world.path("out/mgpack.json")).unwrap()).unwrap();
                let records = manifest["tensors"].as_array().unwrap();
                let error = &records.iter().find(|tensor| tensor["source"] == name).unwrap()["error"];
                assert_eq!(error["overflowed"], 1, "{scheme} {dtype:?} {policy}: {error}");
                assert!(error["max_abs_error"].is_number(), "{scheme} {dtype:?} {policy}: {error}");
                fs::remove_dir_all(world.path("out")).unwrap();
            }
        }
    }
}

#[test]
fn ignored_modules_stay_float_and_the_configuration_says_so() {
    let world = World::new();
    let mut random = Random(3);
    let names = ["self_attn.q_proj", "mlp.gate_proj", "mlp.down_proj"];
    let tensors = names.map(|name| linear(&mut random, name, Dtype::BF16, 8, 128));
    save(&world.path("ckpt"), &[&tensors]);
    let cases: [(&[&str], &[&str]); 5] = [
        (&["model.layers.0.mlp.gate_proj"], &["mlp.gate_proj"]),
        (&["model.layers.0.mlp.gate_proj.weight"], &["mlp.gate_proj"]),
        (&["re:.*mlp"], &["mlp.gate_proj", "mlp.down_proj"]),
        (&["re:model\\.layers\\.0\\.mlp\\.d"], &["mlp.down_proj"]),
        (&["re:.*q_proj", "model.layers.0.mlp.down_proj"], &["self_attn.q_proj", "mlp.down_proj"]),
    ];
    for (patterns, kept) in cases {
        let ignore: Vec<&str> = patterns.iter().flat_map(|pattern| ["--ignore", pattern]).collect();
        world.good(&args(&[&["--int8"], &ignore[..]].concat(), "out"));
        let stored = stored(&world.path("out"));
        let config: Value =
            serde_json::from_slice(&fs::read(world.path("out/config.json")).unwrap()).unwrap();
        let listed: Vec<String> =
            serde_json::from_value(config["quantization_config"]["ignore"].clone()).unwrap();
        for (name, source) in names.iter().zip(&tensors) {
            let (dtype, _, bytes) = &stored[&source.name];
            let is_kept = kept.contains(name);
            assert_eq!(*dtype, if is_kept { Dtype::BF16 } else { Dtype::I8 }, "{patterns:?}: {name}");
            assert!(!is_kept || *bytes == source.bytes);
            assert_eq!(
                listed.contains(&format!("model.layers.0.{name}")),
                is_kept,
                "{patterns:?}: {listed:?}"
            );
        }
        fs::remove_dir_all(world.path("out")).unwrap();
    }
}

#[test]
fn a_pattern_that_matches_nothing_is_an_error_that_names_the_nearest() {
    let world = World::new();
    save(&world.path("ckpt"), &[&[linear(&mut Random(3), "mlp.gate_proj", Dtype::BF16, 8, 128)]]);
    let ran = world.run(&args(&["--int8", "--ignore", "model.layers.0.mlp.gate_prj"], "out"));
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("the pattern `model.layers.0.mlp.gate_prj` matches no tensor"), "{}", ran.err);
    assert!(ran.err.contains("did you mean `model.layers.0.mlp.gate_proj`?"), "{}", ran.err);
    // From the start: compressed-tensors matches so.
    for (pattern, message) in [
        ("re:gate_proj", "matches no tensor and no module"),
        ("gate_proj", "matches no tensor and no module"),
        ("re:(", "is not a regular expression"),
    ] {
        let ran = world.run(&args(&["--int8", "--ignore", pattern], "out"));
        assert_eq!(ran.code, 2, "{pattern}");
        assert!(
            ran.err.contains(&format!("error: the pattern `{pattern}` {message}\nwhere: --ignore\n")),
            "{}",
            ran.err
        );
    }
    let unclosed = world.run(&args(&["--int8", "--ignore", "re:("], "out"));
    assert!(unclosed.err.contains("\n  why: unclosed group\n"), "{}", unclosed.err);
    assert_eq!(world.names(), ["ckpt"]);
}

#[test]
fn an_existing_target_is_refused_and_replaced_only_by_force() {
    let world = World::new();
    let zoo = zoo();
    save(&world.path("ckpt"), &[&zoo[..4]]);
    world.good(&args(&["--int8"], "out"));
    let before = contents(&world.path("out"));
    let ran = world.run(&args(&["--bf16"], "out"));
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("error: the target already exists\nwhere: out\n"), "{}", ran.err);
    assert!(contents(&world.path("out")) == before, "untouched");
    assert_eq!(world.names(), ["ckpt", "out"]);
    world.good(&args(&["--bf16", "--force"], "out"));
    world.good(&args(&["--bf16"], "fresh/out"));
    assert_same(&world.path("out"), &world.path("fresh/out"), "replaced as if nothing had been there");
    assert_eq!(world.names(), ["ckpt", "fresh", "out"], "the old bundle is gone");
    // A failure with --force leaves the old one.
    with_value(&world.path("bad"), Dtype::F32, 8, 3, f64::NAN);
    let bad = world.run(&["convert", "bad", "--int8", "-o", "out", "--force"]);
    assert_eq!(bad.code, 1);
    assert!(bad.err.contains(" holds NaN"), "{}", bad.err);
    assert_same(&world.path("out"), &world.path("fresh/out"), "the old bundle is whole");
    assert_eq!(world.names(), ["bad", "ckpt", "fresh", "out"]);

    fs::write(world.path("file"), "mine").unwrap();
    let over = world.run(&args(&["--bf16"], "file"));
    assert_eq!(over.code, 1);
    assert!(over.err.contains("error: the target already exists\nwhere: file\n"), "{}", over.err);
    assert_eq!(fs::read_to_string(world.path("file")).unwrap(), "mine");
    let below = world.run(&args(&["--bf16"], "file/out"));
    assert_eq!(below.code, 2, "{below:?}");
    assert!(below.err.contains("Not a directory"), "{}", below.err);
    assert_eq!(fs::read_to_string(world.path("file")).unwrap(), "mine");
    world.good(&args(&["--bf16"], "new/folders/out"));
}

#[test]
fn force_replaces_a_bundle_or_an_empty_folder_and_nothing_else() {
    // Once, --force removed whatever stood at the target: a folder with one text file was lost.
    let world = World::new();
    let zoo = zoo();
    save(&world.path("ckpt"), &[&zoo[..4]]);
    fs::create_dir(world.path("folder")).unwrap();
    fs::write(world.path("folder/thesis.txt"), "mine").unwrap();
    fs::write(world.path("file"), "mine").unwrap();
    std::os::unix::fs::symlink("folder", world.path("link")).unwrap();
    for target in ["folder", "file", "link"] {
        let ran = world.run(&args(&["--bf16", "--force"], target));
        assert_eq!(ran.code, 1, "{target}: {ran:?}");
        assert!(ran.err.contains("error: the target is not replaced: mgpack did not make it"), "{}", ran.err);
    }
    assert_eq!(fs::read_to_string(world.path("folder/thesis.txt")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(world.path("file")).unwrap(), "mine");
    assert_eq!(world.names(), ["ckpt", "file", "folder", "link"], "nothing half-made is left");
    fs::create_dir(world.path("empty")).unwrap();
    world.good(&args(&["--bf16", "--force"], "empty"));
}

#[test]
fn a_target_inside_the_checkpoint_or_around_it_is_refused() {
    let world = World::new();
    let zoo = zoo();
    save(&world.path("models/ckpt"), &[&zoo[..4]]);
    std::os::unix::fs::symlink("models/ckpt", world.path("link")).unwrap();
    let before = contents(&world.path("models/ckpt"));
    for target in [
        "models/ckpt",
        "models/ckpt/out",
        "models/ckpt/new/deep/out",
        "link/out",
        "link/new/out",
        "models",
        "models/../models/ckpt/out",
        "models/ckpt/../ckpt",
    ] {
        for force in [&[][..], &["--force"]] {
            let args = [&["convert", "models/ckpt", "--bf16", "-o", target], force].concat();
            let ran = world.run(&args);
            assert!(ran.code == 1 || ran.code == 2, "{target} {force:?}: {ran:?}");
            let read = ["error: the target lies inside what is read", "error: the target holds what is read"];
            let inside = read.iter().any(|error| ran.err.contains(error));
            let there = force.is_empty() && ran.err.contains("error: the target already exists");
            assert!(inside || there, "{target} {force:?}: {}", ran.err);
            assert!(contents(&world.path("models/ckpt")) == before, "{target} {force:?}");
        }
    }
}

/// Starts a conversion and waits until its staging folder holds bytes.
fn start(world: &World, args: &[&str]) -> std::process::Child {
    let mut child = world.interruptible(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    let is_begun = || {
        let staging = world.names().into_iter().find(|name| name.starts_with('.'));
        let files = staging.and_then(|name| fs::read_dir(world.path(&name)).ok()).into_iter().flatten();
        files.flatten().any(|file| file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() > 0))
    };
    while !is_begun() {
        assert!(child.try_wait().unwrap().is_none(), "it was over before it could be stopped");
        assert!(started.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

fn signal(child: &std::process::Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_signal_ends_a_conversion_with_130_and_leaves_nothing() {
    let world = World::new();
    save_zeros(&world.path("ckpt"), 48, 4096, 4096);
    for kind in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let child = start(&world, &["convert", "ckpt", "--int8", "-o", "out"]);
        signal(&child, kind);
        let stopped = Instant::now();
        let output = child.wait_with_output().unwrap();
        assert!(stopped.elapsed() < Duration::from_secs(10));
        assert_eq!(output.status.code(), Some(130), "{kind:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap().lines().last(), Some("error: interrupted"));
        assert_eq!(world.names(), ["ckpt"], "{kind:?}");
    }
}

#[test]
fn a_kill_leaves_no_bundle_and_the_next_run_is_as_if_it_had_not_been() {
    let world = World::new();
    save_zeros(&world.path("ckpt"), 3, 4096, 4096);
    let args = ["convert", "ckpt", "--int8", "--no-stats", "-o", "out"];
    let mut child = start(&world, &args);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!world.path("out").exists());
    world.good(&args);
    world.good(&["convert", "ckpt", "--int8", "--no-stats", "-o", "undisturbed/out"]);
    assert_same(&world.path("out"), &world.path("undisturbed/out"), "after a kill");
    world.good(&["verify", "out"]);
}

#[test]
fn config_json_keeps_every_byte_that_need_not_change() {
    let world = World::new();
    save(&world.path("ckpt"), &[&[linear(&mut Random(3), "mlp.gate_proj", Dtype::BF16, 8, 128)]]);
    let config = |way: &[&str]| {
        world.good(&args(way, "out"));
        let text = fs::read_to_string(world.path("out/config.json")).unwrap();
        fs::remove_dir_all(world.path("out")).unwrap();
        text
    };
    assert_eq!(
        config(&["--bf16"]),
        CONFIG.replace("\"torch_dtype\": \"float32\"", "\"torch_dtype\": \"bfloat16\"")
    );
    assert_eq!(
        config(&["--fp16"]),
        CONFIG.replace("\"torch_dtype\": \"float32\"", "\"torch_dtype\": \"float16\"")
    );
    for way in [&["--int8"][..], &["--int8", "--format", "bnb"], &["--scheme", "W8A16"]] {
        let text = config(way);
        let (kept, added) = text.split_once(",\n  \"quantization_config\": ").unwrap();
        assert_eq!(kept, CONFIG.strip_suffix("\n}\n").unwrap(), "{way:?}");
        let added: Value = serde_json::from_str(added.trim_end().strip_suffix('}').unwrap()).unwrap();
        let method = if way.contains(&"bnb") { "bitsandbytes" } else { "compressed-tensors" };
        assert_eq!(added["quant_method"], method);
    }
}

#[test]
fn the_plan_tells_exactly_what_is_written() {
    let world = World::new();
    save_two(&world.path("ckpt"), &zoo());
    for (way, kind) in WAYS {
        let way = [way, &["--max-shard-size", "400KiB"]].concat();
        let plan = world.good(&[&["plan", "ckpt", "--json"], &way[..]].concat()).json();
        let dry = world.good(&[&["convert", "ckpt", "--dry-run", "--json"], &way[..]].concat());
        assert_eq!(dry.json(), plan);
        assert_eq!(world.names(), ["ckpt"], "a plan writes nothing");
        world.good(&args(&way, "out"));
        let mut written = BTreeSet::new();
        let mut shards = Vec::new();
        for (path, bytes) in
            contents(&world.path("out")).iter().filter(|(path, _)| path.ends_with(".safetensors"))
        {
            let (header_len, header) = SafeTensors::read_metadata(bytes).unwrap();
            for (name, info) in header.tensors() {
                let (start, end) = info.data_offsets;
                written.insert(format!(
                    "{name} {} {:?} {path} {start} {}",
                    info.dtype,
                    info.shape,
                    end - start
                ));
            }
            shards.push(format!("{path} {}", bytes.len() - 8 - header_len));
        }
        let mut planned = BTreeSet::new();
        for tensor in plan["tensors"].as_array().unwrap() {
            for output in tensor["outputs"].as_array().unwrap() {
                let shape: Vec<u64> = serde_json::from_value(output["shape"].clone()).unwrap();
                let text = |key: &str| output[key].as_str().unwrap();
                planned.insert(format!(
                    "{} {} {shape:?} {} {} {}",
                    text("name"),
                    text("dtype"),
                    text("shard"),
                    output["offset"],
                    output["bytes"]
                ));
            }
        }
        assert_eq!(planned, written, "{kind:?}");
        let planned: Vec<String> = plan["shards"]
            .as_array()
            .unwrap()
            .iter()
            .map(|shard| format!("{} {}", shard["name"].as_str().unwrap(), shard["bytes"]))
            .collect();
        assert_eq!(planned, shards);
        let total: usize = contents(&world.path("out")).values().map(Vec::len).sum();
        let predicted = plan["bundle_bytes"].as_u64().unwrap() as f64;
        assert!((predicted / total as f64 - 1.0).abs() < 0.02, "{predicted} for {total}");
        fs::remove_dir_all(world.path("out")).unwrap();
    }
}

/// Peak of a process's resident memory in bytes, watched until it ends.
fn peak(world: &World, args: &[&str]) -> u64 {
    let mut child = world.command(args).stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let (mut peak, mut samples) = (0, 0);
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(kib) = line.and_then(|line| line.trim().strip_suffix(" kB")) {
            peak = peak.max(kib.trim().parse::<u64>().unwrap() * 1024);
            samples += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(child.wait().unwrap().success());
    assert!(samples > 5, "{samples}");
    peak
}

/// bitsandbytes fails in `forward` with the input of this module; compressed-tensors does not.
#[test]
fn what_bitsandbytes_cannot_run_stays_float_for_it_and_for_no_other() {
    let world = World::new();
    let mut random = Random(7);
    let tensors =
        ["self_attn.kv_b_proj", "mlp.up_proj"].map(|name| linear(&mut random, name, Dtype::BF16, 128, 128));
    save(&world.path("ckpt"), &[&tensors]);
    for (way, kept) in [
        (&["--int8", "--format", "bnb"][..], true),
        (&["--scheme", "W8A8"], false),
        (&["--scheme", "W8A16"], false),
    ] {
        world.good(&[&["convert", "ckpt", "-o", "out", "--force"][..], way].concat());
        let stored = stored(&world.path("out"));
        let is_float = |name: &str| {
            let weight = stored.get(&format!("model.layers.0.{name}.weight"));
            weight.is_some_and(|(dtype, ..)| !matches!(dtype, Dtype::I8))
        };
        assert_eq!(is_float("self_attn.kv_b_proj"), kept, "{way:?}");
        assert!(!is_float("mlp.up_proj"), "{way:?}");
    }
}

/// ARCHITECTURE.md, "The pipeline and its memory".
#[test]
fn the_plan_names_the_sum_of_the_shares_of_memory() {
    const MIB: u64 = 1 << 20;
    let world = World::new();
    save_zeros(&world.path("ckpt"), 12, 2048, 2048);
    let planned = |more: &[&str]| {
        let line = [&["plan", "ckpt", "--max-shard-size", "16MiB", "--json"][..], more].concat();
        let resources = world.good(&line).json()["resources"].clone();
        ["threads", "lanes", "batch_bytes", "peak_memory_bytes"].map(|key| resources[key].as_u64().unwrap())
    };
    // Process, records, scratch of each thread; each lane has two batches and a block as F64 with each.
    let sum = |tensors: u64, threads: u64, lanes: u64, batch: u64, scales: u64| {
        let lane = 2 * (batch + batch / 8 + MIB / 2) + 4 * scales;
        24 * MIB + tensors * 4096 + threads * MIB + lanes * lane
    };
    let peak = |threads, lanes, batch| sum(12, threads, lanes, batch, 0);
    assert_eq!(planned(&["--bf16", "-j", "2"]), [2, 2, 8 * MIB, peak(2, 2, 8 * MIB)]);
    assert_eq!(planned(&["--bf16", "-j", "4"]), [4, 4, 4 * MIB, peak(4, 4, 4 * MIB)]);
    // bitsandbytes has three tensors for each, of which one has an F32 a row.
    let int8 = planned(&["--int8", "--format", "bnb", "-j", "2"]);
    assert_eq!(int8, [2, 2, 8 * MIB, sum(36, 2, 2, 8 * MIB, 2048 * 4)]);
    // Where less may be taken, batches are smaller, down to 1 MiB, and lanes fewer.
    assert_eq!(
        planned(&["--bf16", "-j", "2", "--max-memory", "48MiB"]),
        [2, 2, 4 * MIB, peak(2, 2, 4 * MIB)]
    );
    assert_eq!(planned(&["--bf16", "-j", "2", "--max-memory", "30MiB"]), [2, 1, MIB, peak(2, 1, MIB)]);
    let least = peak(2, 1, MIB);
    assert_eq!(least % 1024, 0);
    let within =
        |kib: u64| world.run(&["plan", "ckpt", "--bf16", "-j", "2", "--max-memory", &format!("{kib}KiB")]);
    assert_eq!(within(least / 1024).code, 0);
    let refused = within(least / 1024 - 1);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains(&format!("needs {least} bytes of memory")), "{}", refused.err);
}

#[test]
#[cfg(target_os = "linux")]
fn memory_stays_below_what_the_plan_says() {
    let world = World::new();
    save_zeros(&world.path("ckpt"), 12, 4096, 3072);
    let len = fs::metadata(world.path("ckpt/model.safetensors")).unwrap().len();
    assert!(len > 300_000_000);
    let way = ["--int8", "--no-stats", "--max-shard-size", "32MiB", "-j", "2"];
    for budget in ["64MiB", "512MiB"] {
        let way = [&way[..], &["--max-memory", budget]].concat();
        let plan = world.good(&[&["plan", "ckpt", "--json"], &way[..]].concat()).json();
        let predicted = plan["resources"]["peak_memory_bytes"].as_u64().unwrap();
        let real = peak(&world, &args(&way, "out"));
        assert!(real <= predicted, "{real} is more than {predicted} with {budget}");
        assert!(real > 4 << 20, "{real}");
        fs::remove_dir_all(world.path("out")).unwrap();
    }
}

#[test]
fn a_model_that_does_not_fit_the_devices_is_refused_with_the_shortfall() {
    let world = World::new();
    save(&world.path("ckpt"), &[&zoo()]);
    for command in ["plan", "convert"] {
        let ran = world.run(&[command, "ckpt", "--int8", "--gpus", "1x1MiB", "--reserve", "1"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        let digits =
            ran.err.split(|c: char| !c.is_ascii_digit() && c != ',').filter(|word| word.len() >= 6).count();
        assert!(ran.err.contains("bytes") && digits > 0, "{}", ran.err);
    }
    assert_eq!(world.names(), ["ckpt"]);
}

#[test]
fn what_programs_leave_beside_a_checkpoint_changes_nothing_in_its_bundle() {
    // Once, `.28512.config.json`, which a killed download had left in a snapshot, was sealed into the bundle.
    let world = World::new();
    let weight = tensor("model.layers.0.mlp.up_proj.weight", Dtype::F32, &[2, 8], vec![0; 64]).linear();
    save(&world.path("checkpoint"), &[&[weight]]);
    fs::create_dir(world.path("clean")).unwrap();
    fs::create_dir(world.path("left")).unwrap();
    world.good(&["convert", "checkpoint", "--bf16", "-o", "clean/bundle"]);
    for name in [
        ".28512.config.json",
        ".model.safetensors",
        ".cache/huggingface/download/config.json.metadata",
        ".git/HEAD",
        ".ipynb_checkpoints/config.json",
        ".tokenizer.lock",
        "tmpabc.incomplete",
        "model-00002-of-00002.safetensors.part",
        "config.json~",
    ] {
        world::write(&world.path("checkpoint").join(name), b"{");
    }
    let ran = world.good(&["convert", "checkpoint", "--bf16", "-o", "left/bundle"]);
    assert!(ran.err.contains("not read: `config.json~`, "), "{ran:?}");
    world::assert_same(&world.path("clean"), &world.path("left"), "what was left beside the checkpoint");
}
