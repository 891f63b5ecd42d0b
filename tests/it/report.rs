//! What `mgpack report` claims: the figures are the errors, and the page needs nothing else.

use std::fs;

use crate::world::{Random, Tensor, World, save, tensor};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

const ROWS: usize = 24;
const COLUMNS: usize = 256;

/// A linear of f32 values and the values, all made different by the seed.
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
    for part in ["model.layers.0.", "median SQNR", "No GPUs given", "Bytes before and after"] {
        assert!(page.contains(part), "{part}");
    }
    // The part of each tensor by its name, with the bytes that the report has of it.
    let report = world.good(&["report", "tiny-bundle", "--against", checkpoint, "--json"]).json();
    for (part, prefix) in
        [("layers", "model.layers."), ("embeddings", "model.embed_tokens."), ("head", "lm_head.")]
    {
        let sum = |key: &str| -> u64 {
            let tensors = report["tensors"].as_array().unwrap().iter();
            let of_part = tensors.filter(|tensor| tensor["name"].as_str().unwrap().starts_with(prefix));
            of_part.map(|tensor| tensor[key].as_u64().unwrap()).sum()
        };
        let shown = |key: &str| match sum(key) {
            bytes @ 1024..1_048_576 => format!("{:.2} KiB", bytes as f64 / 1024.0),
            bytes => format!("{:.2} MiB", bytes as f64 / 1_048_576.0),
        };
        let row = format!("<span>{part}<br><small>{} → {}</small>", shown("source_bytes"), shown("bytes"));
        assert!(page.contains(&row), "{row}");
    }
    // The worst cell of the grid has the one end of the scale, the best the other.
    for end in ["rgb(122 28 80)", "rgb(250 235 170)"] {
        assert!(page.contains(&format!("fill=\"{end}\"")), "{end}");
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
    assert!(ran.err.contains("`model.layers.0.mlp.up_proj.weight` of the bundle differs"), "{}", ran.err);
    assert!(!world.path("r.html").exists());
}

/// A checkpoint, its bundle made with `options`, and the report on both as JSON, as a page and as a drawing.
fn compared(tensors: &[Tensor], options: &[&str]) -> (Value, String, String) {
    let world = World::new();
    save(&world.path("checkpoint"), &[tensors]);
    world.good(&[&["convert", "checkpoint", "-o", "bundle"][..], options].concat());
    let report = world.good(&["report", "bundle", "--against", "checkpoint", "--json"]).json();
    world.good(&["report", "bundle", "--against", "checkpoint", "-o", "page.html", "--svg", "figure.svg"]);
    let read = |name: &str| fs::read_to_string(world.path(name)).unwrap();
    (report, read("page.html"), read("figure.svg"))
}

/// A tensor of one row of F32 values.
fn row(name: &str, values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, Dtype::F32, &[values.len()], bytes)
}

/// It said "every value of every layer is exact", of no layer and of values that were all rounded.
#[test]
fn a_model_without_layers_is_not_called_exact() {
    let (report, page, drawing) = compared(&[row("norm.weight", &[0.1, 0.2, 0.3])], &["--fp16"]);
    assert_eq!(figure(&report, "norm.weight")["changed"], 3);
    for text in [&page, &drawing] {
        assert!(text.contains("No float tensor is in a numbered layer"), "{text}");
        assert!(!text.to_lowercase().contains("every value"), "{text}");
    }
    let (_, page, drawing) = compared(&[row("model.layers.0.norm.weight", &[0.5, 2.0])], &["--fp16"]);
    assert!(drawing.contains("Every value of 1 float tensor in layers is exact."), "{drawing}");
    assert!(page.contains("Good: every value of 1 float tensor is the checkpoint"), "{page}");
    let integers = tensor("ids", Dtype::I64, &[2], vec![7; 16]);
    let (_, page, _) = compared(&[integers], &["--fp16"]);
    assert!(page.contains("Look closer: no values were compared"), "{page}");
}

/// What a cast to float16 made 0, and an infinity of the checkpoint, were called exact or close.
#[test]
fn what_became_zero_or_infinite_or_was_no_float_is_counted() {
    let small = row("a.weight", &[1e-9, -2e-9, 0.0, -0.0, 1.0, 3e-8]);
    let doubles = [1e-50f64, 0.0, 0.5].iter().flat_map(|value| value.to_le_bytes()).collect();
    let doubles = tensor("b.weight", Dtype::F64, &[3], doubles);
    let infinite = row("c.weight", &[f32::INFINITY, f32::NAN, 0.1, 0.3]);
    let integers = tensor("ids", Dtype::I64, &[2], vec![7; 16]);
    let (report, page, _) = compared(&[small, doubles, infinite, integers], &["--fp16"]);
    let counts = |name: &str| {
        let keys = ["values", "changed", "flushed", "overflowed", "non_finite"];
        keys.map(|key| figure(&report, name)[key].as_u64().unwrap())
    };
    // 3e-8 is more than half of the smallest float16 and becomes that.
    assert_eq!(counts("a.weight"), [6, 3, 2, 0, 0]);
    assert_eq!(counts("b.weight"), [3, 1, 1, 0, 0]);
    assert_eq!(counts("c.weight"), [4, 2, 0, 0, 2]);
    let sqnr = figure(&report, "c.weight")["sqnr_db"].as_f64().unwrap();
    assert!((60.0..100.0).contains(&sqnr), "{sqnr}");
    assert_eq!(
        report["others"][0],
        serde_json::json!({ "name": "ids", "dtype": "I64", "bytes": 16, "equal": true })
    );
    for part in [
        "3 values (23 %) are zero",
        "2 values are NaN or infinite",
        "<b>0 of 4</b>",
        "4 tensors before",
        "1 tensor of other types",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    let (report, page, _) = compared(&[row("a.weight", &[1e9, 1.0])], &["--fp16", "--on-overflow", "inf"]);
    assert_eq!(figure(&report, "a.weight")["overflowed"], 1);
    assert!(page.contains("Not the same: 1 finite value is beyond the range"), "{page}");
}

/// `dense` of three modules of BERT, and `q` of T5's two halves, were one row, the lowest of them.
#[test]
fn kinds_of_modules_are_kept_apart() {
    let names = [
        "encoder.layer.0.attention.output.dense",
        "encoder.layer.0.intermediate.dense",
        "encoder.layer.0.output.dense",
    ];
    let linears: Vec<Tensor> =
        names.iter().zip(1..).map(|(name, seed)| linear(&format!("{name}.weight"), seed).0).collect();
    let (_, page, drawing) = compared(&linears, &["--int8"]);
    for name in names {
        let label = name.strip_prefix("encoder.layer.0.").unwrap();
        assert!(drawing.contains(&format!(">{label}</text>")), "{label}\n{drawing}");
        assert!(page.contains(&format!("<code>{label}</code>")), "{label}\n{page}");
    }
    let names = ["encoder.block.0.layer.0.SelfAttention.q", "decoder.block.0.layer.0.SelfAttention.q"];
    let linears: Vec<Tensor> =
        names.iter().zip(1..).map(|(name, seed)| linear(&format!("{name}.weight"), seed).0).collect();
    let (_, _, drawing) = compared(&linears, &["--int8"]);
    assert!(drawing.contains(">encoder.block.*.layer.0.SelfAttention.q</text>"), "{drawing}");
    assert!(!drawing.contains("lowest of"), "{drawing}");
}

#[test]
fn the_page_begins_with_the_verdict_the_checkpoint_and_the_command() {
    let (first, _) = linear("model.layers.0.mlp.up_proj.weight", 1);
    let (_, page, _) = compared(&[first], &["--int8"]);
    let at = |part: &str| page.find(part).unwrap_or_else(|| panic!("{part}\n{page}"));
    let order = [
        "<h1>",
        "Good: 1 tensor is close to the checkpoint, model.layers.0.mlp.up_proj.weight with 4",
        "<dt>Checkpoint</dt><dd>a local one</dd>",
        "<code>mgpack report bundle --against checkpoint</code>",
        "class=\"tile\"",
        "<figure",
    ];
    assert!(order.map(at).is_sorted(), "{:?}", order.map(at));
}

#[test]
fn every_figure_is_reached_by_keyboard_and_told_in_words_and_numbers_are_plain() {
    let world = World::new();
    world.tiny();
    let checkpoint = fs::read_dir(world.path("cache/mgpack")).unwrap().next().unwrap().unwrap().path();
    world.good(&["report", "tiny-bundle", "--against", checkpoint.to_str().unwrap(), "-o", "page.html"]);
    let page = fs::read_to_string(world.path("page.html")).unwrap();
    let figures: Vec<&str> = page.split("<figure ").skip(1).collect();
    assert_eq!(figures.len(), 10, "by layer, by kind, six histograms, sizes, device map");
    for figure in figures {
        let figure = figure.split("</figure>").next().unwrap();
        let (head, rest) = figure.split_once('>').unwrap();
        let id = head.split('"').nth(1).unwrap();
        assert_eq!(head, format!("id=\"{id}\" tabindex=\"0\" aria-labelledby=\"{id}-title\""));
        assert_eq!(page.matches(&format!("id=\"{id}\"")).count(), 1, "{id}");
        assert!(rest.starts_with(&format!("<h3 id=\"{id}-title\">")), "{rest}");
        assert!(
            rest.contains("<div role=\"img\" aria-label=\"") && rest.contains("<details><summary>"),
            "{rest}"
        );
    }
    let text = regex::Regex::new(r"<style>[\s\S]*?</style>|<[^>]*>").unwrap().replace_all(&page, " ");
    let exponent = regex::Regex::new(r"\b\d(?:\.\d+)?e-?\d+\b").unwrap();
    assert_eq!(exponent.find(&text).map(|found| found.as_str()), None);
    assert!(text.contains('−') && text.contains(" dB"));
}

#[test]
fn names_of_a_hostile_checkpoint_stay_text() {
    let hostile = "model.layers.0.<img src=x onerror=alert(1)>\"'&.weight";
    let (first, _) = linear(hostile, 1);
    let (_, page, drawing) = compared(&[first], &["--int8"]);
    for text in [&page, &drawing] {
        assert!(!text.contains("<img") && !text.contains("onerror=alert(1)>\""), "{text}");
        assert!(text.contains("&lt;img src=x onerror=alert(1)&gt;&quot;&#39;&amp;"), "{text}");
    }
}
