//! What `mgpack report` claims: the figures are the errors, and the page stands by itself.

// clippy.toml allows these in #[test] functions only, not in the helpers beside them.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/world.rs"]
mod world;

use std::fs;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use world::{Random, Tensor, World, save, tensor};

const ROWS: usize = 24;
const COLUMNS: usize = 256;

/// A linear of f32 values and the values, all told apart by the seed.
fn linear(name: &str, seed: u64) -> (Tensor, Vec<f32>) {
    let mut random = Random(seed);
    let values: Vec<f32> = (0..ROWS * COLUMNS).map(|_| random.unit() as f32).collect();
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    (tensor(name, Dtype::F32, &[ROWS, COLUMNS], bytes).linear(), values)
}

/// SQNR, largest error and cosine in f64, by their definitions.
fn figures(before: &[f32], after: &[f64]) -> (f64, f64, f64) {
    let pairs = || before.iter().zip(after).map(|(&before, &after)| (f64::from(before), after));
    let signal: f64 = pairs().map(|(before, _)| before * before).sum();
    let noise: f64 = pairs().map(|(before, after)| (before - after).powi(2)).sum();
    let largest = pairs().map(|(before, after)| (before - after).abs()).fold(0.0, f64::max);
    let product: f64 = pairs().map(|(before, after)| before * after).sum();
    let coded: f64 = pairs().map(|(_, after)| after * after).sum();
    (10.0 * (signal / noise).log10(), largest, product / (signal * coded).sqrt())
}

/// Decodes the first linear of a bundle by schemes.md, from the files alone.
fn decoded(world: &World, bundle: &str, scheme: &str, module: &str) -> Vec<f64> {
    let bytes = fs::read(world.path(bundle).join("model-00001-of-00001.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let part = |suffix: &str| file.tensor(&format!("{module}.{suffix}")).unwrap().data().to_vec();
    let floats = |bytes: Vec<u8>| -> Vec<f64> {
        bytes.as_chunks::<4>().0.iter().map(|four| f64::from(f32::from_le_bytes(*four))).collect()
    };
    let (codes, steps, group): (Vec<f64>, Vec<f64>, usize) = match scheme {
        "bnb" => {
            let codes = part("weight").iter().map(|&code| f64::from(code as i8)).collect();
            (codes, floats(part("SCB")).iter().map(|scale| scale / 127.0).collect(), COLUMNS)
        }
        "W8A8" => {
            let codes = part("weight").iter().map(|&code| f64::from(code as i8)).collect();
            (codes, floats(part("weight_scale")), COLUMNS)
        }
        _ => {
            let codes = part("weight_packed").iter().map(|&code| f64::from(code) - 128.0).collect();
            (codes, floats(part("weight_scale")), 128)
        }
    };
    codes.iter().enumerate().map(|(at, code)| code * steps[at / group]).collect()
}

fn figure<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["tensors"].as_array().unwrap().iter().find(|tensor| tensor["name"] == name).unwrap()
}

#[test]
fn the_figures_of_every_scheme_are_the_errors_of_what_is_stored() {
    let world = World::new();
    let name = "model.layers.0.mlp.up_proj.weight";
    let (first, values) = linear(name, 1);
    let (second, _) = linear("model.layers.1.mlp.up_proj.weight", 2);
    let norm = tensor("model.norm.weight", Dtype::F32, &[4], vec![0; 16]);
    save(&world.path("checkpoint"), &[&[first, second, norm]]);
    for (scheme, options) in [
        ("bnb", &["--int8", "--format", "bnb"][..]),
        ("W8A8", &["--scheme", "W8A8"]),
        ("W8A16", &["--scheme", "W8A16"]),
    ] {
        world.good(&[&["convert", "checkpoint", "-o", scheme][..], options].concat());
        let report = world.good(&["report", scheme, "--against", "checkpoint", "--json"]).json();
        let after = decoded(&world, scheme, scheme, name.strip_suffix(".weight").unwrap());
        let (sqnr, largest, cosine) = figures(&values, &after);
        assert!(sqnr > 30.0, "{scheme}: {sqnr}");
        let found = figure(&report, name);
        let close = |key: &str, expected: f64, within: f64| {
            let found = found[key].as_f64().unwrap();
            assert!((found - expected).abs() <= within, "{scheme} {key}: {found}, expected {expected}");
        };
        // Sums are taken in binary32 over 16 values at most, then in binary64.
        close("sqnr_db", sqnr, 1e-3);
        close("max_abs_error", largest, 1e-7);
        close("cosine", cosine, 1e-9);

        let manifest: Value =
            serde_json::from_slice(&fs::read(world.path(scheme).join("mgpack.json")).unwrap()).unwrap();
        let records = manifest["tensors"].as_array().unwrap();
        let sealed = records.iter().find(|record| record["source"] == name && record["kind"] == "codes");
        let sealed = sealed.unwrap()["error"]["sqnr_db"].as_f64().unwrap();
        assert!((sealed - sqnr).abs() <= 1e-3, "{scheme}: sealed {sealed}, expected {sqnr}");

        assert!(figure(&report, "model.norm.weight")["sqnr_db"].is_null(), "exact");
    }
}

#[test]
fn histograms_count_every_value_once_before_and_after() {
    let world = World::new();
    let (first, _) = linear("model.layers.0.mlp.up_proj.weight", 1);
    save(&world.path("checkpoint"), &[&[first]]);
    world.good(&["convert", "checkpoint", "--int8", "-o", "bundle"]);
    let report = world.good(&["report", "bundle", "--against", "checkpoint", "--json"]).json();
    let worst = &report["worst"][0];
    for side in ["before", "after"] {
        let counts: Vec<u64> = serde_json::from_value(worst[side].clone()).unwrap();
        assert_eq!(counts.iter().sum::<u64>(), (ROWS * COLUMNS) as u64, "{side}");
    }
}

#[test]
fn the_page_stands_by_itself_and_is_the_same_at_any_thread_count() {
    let world = World::new();
    world.tiny();
    let checkpoint = fs::read_dir(world.path("cache/mgpack")).unwrap().next().unwrap().unwrap().path();
    let checkpoint = checkpoint.to_str().unwrap();
    for threads in ["1", "2"] {
        let file = format!("{threads}.html");
        let ran = world.good(&["report", "tiny-bundle", "--against", checkpoint, "-o", &file, "-j", threads]);
        assert_eq!(ran.out, format!("{file}\n"));
    }
    let page = fs::read_to_string(world.path("1.html")).unwrap();
    assert_eq!(page, fs::read_to_string(world.path("2.html")).unwrap());
    for foreign in ["<script", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    let addresses = page.matches("http").count();
    assert_eq!(addresses, page.matches("http://www.w3.org/2000/svg").count(), "only the name space of SVG");
    for part in ["model.layers.0.", "median SQNR", "planned for gpu 0", "Bytes before and after"] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn another_checkpoint_is_refused_by_name() {
    let world = World::new();
    let (first, _) = linear("model.layers.0.mlp.up_proj.weight", 1);
    let (other, _) = linear("model.layers.0.mlp.down_proj.weight", 1);
    save(&world.path("checkpoint"), &[&[first]]);
    save(&world.path("other"), &[&[other]]);
    world.good(&["convert", "checkpoint", "--int8", "-o", "bundle"]);
    let ran = world.run(&["report", "bundle", "--against", "other", "-o", "r.html"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("`model.layers.0.mlp.up_proj.weight` of the bundle is not so"), "{}", ran.err);
    assert!(!world.path("r.html").exists());
}
