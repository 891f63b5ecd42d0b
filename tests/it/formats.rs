//! The documents under formats/: the schema, the Rust type and the model trees say the same.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use mgpack::Isa;
use mgpack::internals::convert::{Conversion, DEFAULT_MAX_MEMORY, Options, Outcome};
use mgpack::internals::family::{Family, Shapes};
use mgpack::internals::locate::{Located, Places};
use mgpack::internals::manifest::{Manifest, SUMS_NAME, sums};
use mgpack::internals::modules::MapRequest;
use mgpack::internals::plan::{DEFAULT_MAX_SHARD_LEN, Precision, WeightOptions};
use mgpack::internals::tensor::byte_len;
use mgpack::progress::{Silent, Stop};
use mgpack::{OnOverflow, Scheme};
use serde_json::Value;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The JSON files of a folder whose names start with `prefix`, sorted.
fn files(folder: &str, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(root(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix));
    found.sort();
    found
}

fn family_schema() -> jsonschema::Validator {
    jsonschema::draft202012::new(&json(&root("formats/family.schema.json"))).unwrap()
}

fn manifest_schema() -> jsonschema::Validator {
    jsonschema::draft202012::new(&json(&root("formats/manifest.schema.json"))).unwrap()
}

/// Where a schema complains and with which keyword.
fn complaints(schema: &jsonschema::Validator, document: &Value) -> Vec<(String, String)> {
    let complaint = |error: jsonschema::ValidationError<'_>| {
        (error.instance_path().to_string(), error.kind().keyword().to_owned())
    };
    schema.iter_errors(document).map(complaint).collect()
}

/// The bytes that a manifest of this content has.
fn canonical(document: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(document).unwrap();
    bytes.push(b'\n');
    bytes
}

/// What must hold between the fields of a manifest that belongs to a bundle.
fn assert_consistent(manifest: &Manifest) {
    assert!(manifest.files.is_sorted_by(|a, b| a.path < b.path));
    assert_eq!(manifest.contradictions(), []);
    assert!(manifest.source.files.is_sorted_by(|a, b| a.path <= b.path));
    let text = String::from_utf8(manifest.to_bytes().unwrap()).unwrap();
    let seal = |digest: &str| format!("\"seal\": \"{digest}\"");
    let unsealed = text.replace(&seal(&manifest.seal.to_string()), &seal(&"0".repeat(64)));
    assert_ne!(unsealed, text);
    assert_eq!(manifest.seal, mgpack::Digest::of(unsealed.as_bytes()));
    let totals = &manifest.totals;
    assert_eq!(totals.file_bytes, manifest.files.iter().map(|file| file.size).sum::<u64>());
    assert_eq!(totals.tensors, manifest.tensors.len() as u64);
    assert_eq!(
        totals.tensor_bytes,
        manifest.tensors.iter().map(|tensor| tensor.range[1] - tensor.range[0]).sum::<u64>()
    );
    let text = sums(&manifest.files);
    let of_sums = manifest.files.iter().find(|file| file.path == SUMS_NAME).unwrap();
    assert_eq!((of_sums.size, of_sums.sha256), (text.len() as u64, mgpack::Digest::of(text.as_bytes())));
    for tensor in &manifest.tensors {
        let [start, end] = tensor.range;
        let shard = manifest.files.iter().find(|file| file.path == tensor.shard).unwrap();
        assert!(end <= shard.size, "{}", tensor.name);
        assert_eq!(byte_len(tensor.dtype, &tensor.shape), Some(end - start), "{}", tensor.name);
    }
    for map in &manifest.device_maps {
        let placed: BTreeSet<&str> = map.why.iter().map(|why| why.module.as_str()).collect();
        // The key of the root, the empty name, holds for every module.
        let has_key = |module: &str| map.map.contains_key(module) || map.map.contains_key("");
        assert!(placed.into_iter().all(has_key));
    }
}

/// Converts the checkpoint in `dir` into `target`.
fn convert(dir: &Path, target: &Path, precision: Precision, on_overflow: OnOverflow) -> Outcome {
    let options = Options {
        capabilities: Vec::new(),
        weights: WeightOptions { precision, ..WeightOptions::default() },
        max_shard_len: DEFAULT_MAX_SHARD_LEN,
        on_overflow,
        stats: true,
        name: None,
        max_memory: DEFAULT_MAX_MEMORY,
        keep_towers: false,
        threads: 1,
        isa: Isa::detect(),
        map: MapRequest::default(),
    };
    let located = Located { dir: dir.to_owned(), hub_id: None, revision: None };
    let conversion = Conversion::prepare(located, &Places::default(), options).unwrap();
    conversion.run(target, false, &Silent, &Stop::new()).unwrap()
}

fn model_tree(family: &Family, form: &str) -> Value {
    let stem = family.checkpoints[0].bundle_stem.as_str();
    let file = fs::File::open(root(&format!("tests/data/device_map/models/{stem}.{form}.json.gz"))).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Parameters of a tree as (name, shape, is the weight of a Linear), tied copies apart.
fn parameters(tree: &Value) -> Vec<(String, Vec<u64>, bool)> {
    let tied: Vec<Vec<String>> = serde_json::from_value(tree["tied"].clone()).unwrap();
    let is_copy =
        |name: &str| name != "model.embed_tokens.weight" && tied.iter().flatten().any(|copy| copy == name);
    let all = tree["tensors"].as_array().unwrap().iter().filter(|tensor| tensor["kind"] == "param");
    all.map(|tensor| {
        let shape = serde_json::from_value(tensor["shape"].clone()).unwrap();
        (tensor["name"].as_str().unwrap().to_owned(), shape, tensor["linear"].as_bool().unwrap())
    })
    .filter(|(name, _, _)| !is_copy(name))
    .collect()
}

#[test]
fn the_family_schema_is_a_valid_schema() {
    jsonschema::draft202012::meta::validate(&json(&root("formats/family.schema.json"))).unwrap();
}

#[test]
fn schema_and_type_accept_every_family_and_every_accepted_example() {
    let schema = family_schema();
    let mut paths = files("formats/families", "");
    assert_eq!(paths.len(), 6);
    paths.extend(files("formats/examples/accepted", "family-"));
    assert!(paths.len() >= 8);
    for path in paths {
        let document = json(&path);
        let complaints: Vec<String> = schema.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(complaints.is_empty(), "{}: {complaints:?}", path.display());
        let family: Family = serde_json::from_value(document.clone())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(serde_json::to_value(&family).unwrap(), document, "{}: lost in the type", path.display());
    }
}

#[test]
fn schema_and_type_refuse_every_refused_example_for_the_error_it_names() {
    let schema = family_schema();
    let paths = files("formats/examples/refused", "family-");
    assert!(paths.len() >= 8);
    for path in paths {
        let example = json(&path);
        let document = &example["document"];
        let (wanted, at, keyword) = (&example["error"], &example["at"], &example["keyword"]);

        let complaints: Vec<(String, String)> = schema
            .iter_errors(document)
            .map(|error| (error.instance_path().to_string(), error.kind().keyword().to_owned()))
            .collect();
        let expected = (at.as_str().unwrap().to_owned(), keyword.as_str().unwrap().to_owned());
        assert_eq!(complaints, [expected], "{}", path.display());

        let error = serde_json::from_value::<Family>(document.clone()).unwrap_err().to_string();
        assert!(error.starts_with(wanted.as_str().unwrap()), "{}: {error}", path.display());
    }
}

#[test]
fn the_manifest_schema_is_a_valid_schema() {
    jsonschema::draft202012::meta::validate(&json(&root("formats/manifest.schema.json"))).unwrap();
}

#[test]
fn schema_and_type_accept_every_accepted_manifest_and_its_bytes_are_canonical() {
    let (schema, families) = (manifest_schema(), family_schema());
    let paths = files("formats/examples/accepted", "manifest-");
    assert!(paths.len() >= 2);
    let mut arithmetics = BTreeSet::new();
    for path in paths {
        let bytes = fs::read(&path).unwrap();
        let document = json(&path);
        assert_eq!(complaints(&schema, &document), [], "{}", path.display());
        let manifest =
            Manifest::from_bytes(&bytes).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
        assert_eq!(manifest.to_bytes().unwrap(), bytes, "{}", path.display());
        assert_consistent(&manifest);
        let facts = &document["model"]["facts"];
        if !facts.is_null() {
            assert_eq!(complaints(&families, facts), [], "{}", path.display());
        }
        arithmetics.extend(manifest.tensors.into_iter().map(|tensor| tensor.arithmetic));
    }
    assert!(arithmetics.len() >= 3, "the examples show {arithmetics:?} only");
}

#[test]
fn schema_or_type_refuses_every_refused_manifest_for_the_error_it_names() {
    let schema = manifest_schema();
    let paths = files("formats/examples/refused", "manifest-");
    assert!(paths.len() >= 10);
    for path in paths {
        let example = json(&path);
        // The type sees bytes, the schema what they say.
        let (bytes, document) = match example.get("text") {
            Some(text) => {
                let text = text.as_str().unwrap();
                (text.as_bytes().to_vec(), serde_json::from_str(text).unwrap())
            }
            None => (canonical(&example["document"]), example["document"].clone()),
        };
        let (wanted, at, keyword) = (&example["error"], &example["at"], &example["keyword"]);
        assert!(!wanted.is_null() || !at.is_null(), "{}: nobody refuses it", path.display());

        let expected: Vec<(String, String)> = match (at.as_str(), keyword.as_str()) {
            (Some(at), Some(keyword)) => vec![(at.to_owned(), keyword.to_owned())],
            _ => Vec::new(),
        };
        assert_eq!(complaints(&schema, &document), expected, "{}", path.display());

        match (Manifest::from_bytes(&bytes), wanted.as_str()) {
            (Err(fault), Some(wanted)) => {
                assert!(fault.to_string().contains(wanted), "{}: {fault}", path.display());
            }
            (Ok(_), None) => {}
            (Err(fault), None) => panic!("{}: the type refuses it too: {fault}", path.display()),
            (Ok(_), Some(wanted)) => panic!("{}: accepted, not refused for {wanted}", path.display()),
        }
    }
}

#[test]
fn the_manifest_of_a_conversion_is_canonical_and_fits_the_schema() {
    let (schema, families) = (manifest_schema(), family_schema());
    let folder = tempfile::tempdir().unwrap();
    let tiny = folder.path().join("MGM-7B-tiny");
    mgpack::internals::tiny::write(&tiny, 7).unwrap();
    for (precision, on_overflow, arithmetic) in [
        (Precision::Int8, OnOverflow::Error, "int8-row-absmax"),
        (Precision::Fp16, OnOverflow::Clamp, "round-f16"),
        (Precision::Bf16, OnOverflow::Inf, "copy"),
    ] {
        let target = folder.path().join(arithmetic);
        let outcome = convert(&tiny, &target, precision, on_overflow);
        let bytes = fs::read(target.join("mgpack.json")).unwrap();
        let manifest = Manifest::from_bytes(&bytes).unwrap();
        assert_eq!(manifest, outcome.manifest);
        assert_eq!(mgpack::Digest::of(&bytes), outcome.id);
        assert!(manifest.tensors.iter().any(|tensor| tensor.arithmetic == arithmetic));
        assert_consistent(&manifest);
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(complaints(&schema, &document), [], "{arithmetic}");
        assert_eq!(complaints(&families, &document["model"]["facts"]), [], "{arithmetic}");
    }
}

#[test]
fn every_scheme_and_arithmetic_of_the_manifest_schema_has_its_text() {
    let schema = json(&root("formats/manifest.schema.json"));
    let text = fs::read_to_string(root("formats/schemes.md")).unwrap();
    let words = |pointer: &str| -> Vec<String> {
        serde_json::from_value(schema.pointer(pointer).unwrap().clone()).unwrap()
    };
    let arithmetics = words("/$defs/tensor/properties/arithmetic/enum");
    assert!(arithmetics.len() >= 6);
    for word in &arithmetics {
        let heading =
            text.lines().find(|line| line.starts_with("### ") && line.contains(&format!("`{word}`")));
        assert!(heading.is_some(), "schemes.md has no section for {word}");
    }
    let schemes: Vec<&str> = Scheme::all().map(Scheme::name).collect();
    assert!(schemes.len() >= 5);
    assert_eq!(words("/properties/scheme/properties/name/enum"), schemes);
    for scheme in Scheme::all() {
        let arithmetic = scheme.codec().map(|codec| codec.arithmetic().to_owned());
        assert!(arithmetic.is_none_or(|name| arithmetics.contains(&name)), "{}", scheme.name());
        assert!(text.contains(&format!("| `{}` |", scheme.name())), "{}", scheme.name());
    }
}

/// Sections that the code says it carries out, as (document, section).
fn cited_sections(folder: &Path, found: &mut BTreeSet<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            cited_sections(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap().replace("\n//!", "");
            for document in ["bundle.md", "schemes.md"] {
                for after in text.split(&format!("{document}, \"")).skip(1) {
                    let section = after.split('"').next().unwrap();
                    found.insert((document.to_owned(), section.to_owned()));
                }
            }
        }
    }
}

#[test]
fn every_section_that_the_code_cites_exists() {
    let mut cited = BTreeSet::new();
    cited_sections(&root("src"), &mut cited);
    assert!(cited.len() >= 9, "{cited:?}");
    for (document, section) in cited {
        let text = fs::read_to_string(root("formats").join(&document)).unwrap();
        assert!(text.lines().any(|line| line == format!("## {section}")), "{document} has no \"{section}\"");
    }
}

#[test]
fn the_embedded_families_are_the_files() {
    let of_files: BTreeSet<String> = files("formats/families", "")
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let embedded: BTreeSet<String> = Family::all().iter().map(|family| family.name.to_string()).collect();
    assert_eq!(embedded, of_files);
}

#[test]
fn shapes_equal_those_of_the_model_trees() {
    for family in Family::all() {
        let tree = model_tree(family, "as_loaded");
        let Shapes { hidden_size, num_attention_heads, .. } = &family.shapes;
        assert_eq!(tree["cls"], family.model.architecture.as_str(), "{}", family.name);
        assert_eq!(tree["no_split"], serde_json::json!(family.placement.no_split_classes), "{}", family.name);
        assert_eq!(tree["tied"], serde_json::json!(family.placement.tied), "{}", family.name);

        let shapes = serde_json::to_value(&family.shapes).unwrap();
        let mut compared = 0;
        for (key, value) in shapes.as_object().unwrap().iter().filter(|(key, _)| *key != "source") {
            let default = match key.as_str() {
                "head_dim" => (hidden_size.get() / num_attention_heads.get()).into(),
                _ => Value::Null,
            };
            let expected = tree["config"].get(key).cloned().unwrap_or(default);
            assert_eq!(*value, expected, "{} {key}", family.name);
            compared += 1;
        }
        assert_eq!(compared, 14);
    }
}

#[test]
fn sizes_and_kept_tensors_equal_those_of_the_model_trees() {
    let is_tower = |name: &str| name.starts_with("model.vision_tower");
    for family in Family::all() {
        let tree = model_tree(family, "full");
        let all = parameters(&tree);
        let count = |wanted: &dyn Fn(&str) -> bool| -> u64 {
            all.iter()
                .filter(|(name, ..)| wanted(name))
                .map(|(_, shape, _)| shape.iter().product::<u64>())
                .sum()
        };
        let sizes = &family.sizes;
        let mm_projector = count(&|name| name.contains("mm_projector"));
        let vlm_uni = count(&|name| name.contains("vlm_uni"));
        let without_towers = count(&|name| !is_tower(name));
        assert_eq!(sizes.mm_projector_parameters.get(), mm_projector, "{}", family.name);
        assert_eq!(sizes.vlm_uni_parameters.get(), vlm_uni, "{}", family.name);
        assert_eq!(
            sizes.language_model_parameters.get(),
            without_towers - mm_projector - vlm_uni,
            "{}",
            family.name
        );
        assert_eq!(sizes.tensors.get(), all.iter().filter(|(name, ..)| !is_tower(name)).count() as u64);

        let quantized: Vec<_> = all.iter().filter(|(name, ..)| family.keeps(name).is_none()).collect();
        for (name, shape, linear) in &quantized {
            assert!(
                *linear && shape.len() == 2 && name.contains(".layers."),
                "{}: {name} {shape:?}",
                family.name
            );
        }
        let weights: u64 = quantized.iter().map(|(_, shape, _)| shape.iter().product::<u64>()).sum();
        let rows: u64 = quantized.iter().map(|(_, shape, _)| shape[0]).sum();
        let kept = without_towers - weights;
        assert_eq!(sizes.int8_weights.get(), weights, "{}", family.name);
        assert_eq!(sizes.int8_rows.get(), rows, "{}", family.name);
        assert_eq!(sizes.kept_parameters.get(), kept, "{}", family.name);
        assert_eq!(sizes.bytes_16_bit.get(), 2 * without_towers, "{}", family.name);
        assert_eq!(sizes.bytes_int8.get(), weights + 4 * rows + 2 * kept, "{}", family.name);

        let linears_of_layers =
            all.iter().filter(|(name, _, linear)| *linear && name.starts_with("model.layers."));
        let router = ".block_sparse_moe.gate.weight";
        assert_eq!(quantized.len(), linears_of_layers.filter(|(name, ..)| !name.ends_with(router)).count());
    }
}

#[test]
fn towers_equal_those_of_the_model_trees() {
    for family in Family::all() {
        let all = parameters(&model_tree(family, "full"));
        assert_eq!(family.towers.len(), 2);
        for tower in &family.towers {
            let module = format!("{}.", tower.module);
            let parts = all.iter().filter(|(name, ..)| name.starts_with(&module));
            let parameters: u64 = parts.map(|(_, shape, _)| shape.iter().product::<u64>()).sum();
            assert_eq!(tower.parameters.get(), parameters, "{} {}", family.name, tower.module);
            for text in &tower.path_contains {
                assert!(tower.path.to_lowercase().contains(text), "{} lacks {text}", tower.path);
            }
        }
    }
}

#[test]
fn the_skip_list_covers_every_kept_linear_and_no_other() {
    for family in Family::all() {
        let skip = &family.quantization.skip_modules;
        let mut linears = 0;
        for (name, _, linear) in parameters(&model_tree(family, "full")) {
            let skipped = skip.iter().any(|module| name.contains(module.as_str()));
            if linear {
                assert_eq!(skipped, family.keeps(&name).is_some(), "{} {name}", family.name);
                linears += 1;
            }
        }
        assert!(linears > 100);
    }
}

/// Compares dotted versions as numbers, missing parts as zero.
fn version(text: &str) -> Vec<u64> {
    let mut parts: Vec<u64> = text.split('.').map(|part| part.parse().unwrap()).collect();
    parts.resize(4, 0);
    parts
}

fn is_in_range(range: &str, wanted: &str) -> bool {
    range.split(',').all(|bound| {
        let digits = bound.find(|c: char| c.is_ascii_digit()).unwrap();
        let (operator, limit) = bound.split_at(digits);
        let (wanted, limit) = (version(wanted), version(limit));
        match operator {
            ">=" => wanted >= limit,
            "<=" => wanted <= limit,
            "<" => wanted < limit,
            "==" => wanted == limit,
            other => panic!("unknown operator {other} in {range}"),
        }
    })
}

#[test]
fn every_pin_and_every_version_that_ran_is_in_its_range() {
    for family in Family::all() {
        assert!(family.requirements.len() >= 12);
        for requirement in &family.requirements {
            for wanted in requirement.ran.iter().chain([&requirement.pin]) {
                let package = &requirement.package;
                assert!(is_in_range(&requirement.range, wanted), "{} {package} {wanted}", family.name);
            }
        }
    }
    assert!(
        !is_in_range(">=4.38.2,<=4.40.0", "4.36.2"),
        "the range of the 2B does not hold the pin of the 7B"
    );
}
