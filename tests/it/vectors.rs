//! Every conversion gives the bits of the libraries that define them.
//!
//! The vectors in tests/vectors were written by tests/python/make_vectors.py with bitsandbytes, llm-compressor
//! and torch at the versions pinned beside it. Each test puts the inputs into a checkpoint, converts it, and
//! compares every stored tensor with what the library wrote, bit for bit.

use std::collections::BTreeMap;
use std::path::Path;

use mgpack::Isa;
use mgpack::internals::convert::{Conversion, DEFAULT_MAX_MEMORY, Options};
use mgpack::internals::locate::{Located, Places};
use mgpack::internals::modules::MapRequest;
use mgpack::internals::plan::{DEFAULT_MAX_SHARD_LEN, Precision, WeightOptions};
use mgpack::progress::{Silent, Stop};
use mgpack::{Layout, OnOverflow, Scheme};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// A tensor as a test holds it: type, shape, bytes.
type Tensor = (Dtype, Vec<usize>, Vec<u8>);

fn read(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect()
}

fn vectors(name: &str) -> BTreeMap<String, Tensor> {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name))
}

/// Writes `inputs` as a checkpoint, converts it, and reads the bundle's tensors back.
fn convert(
    inputs: &BTreeMap<String, Tensor>,
    precision: Precision,
    layout: Option<Layout>,
    isa: Isa,
) -> BTreeMap<String, Tensor> {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let views = inputs
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    std::fs::write(source.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    std::fs::write(source.join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
    let options = Options {
        capabilities: Vec::new(),
        weights: WeightOptions { precision, layout, ..WeightOptions::default() },
        max_shard_len: DEFAULT_MAX_SHARD_LEN,
        on_overflow: OnOverflow::Inf,
        stats: true,
        name: None,
        max_memory: DEFAULT_MAX_MEMORY,
        keep_towers: false,
        threads: 2,
        isa,
        map: MapRequest::default(),
    };
    let located = Located { dir: source, hub_id: None, revision: None };
    let target = dir.path().join("bundle");
    let conversion = Conversion::prepare(located, &Places::default(), options).unwrap();
    conversion.run(&target, false, &Silent, &Stop::new()).unwrap();
    let mut tensors = BTreeMap::new();
    for shard in &conversion.plan.shards {
        tensors.extend(read(&target.join(&shard.name)));
    }
    tensors
}

/// The cases of a vector file, as linears of a decoder layer; those without elements are kept, not quantized.
fn linears(vectors: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let weights = vectors.iter().filter(|(name, (_, shape, _))| {
        name.ends_with(".weight") && !name.contains(".out.") && !shape.contains(&0)
    });
    weights.map(|(name, tensor)| (layer_name(name), tensor.clone())).collect()
}

/// A case's tensor as one of a decoder layer. A module called "normal" would count as a norm.
fn layer_name(name: &str) -> String {
    format!("model.layers.0.{}", name.replace("norm", "n-rm"))
}

/// The case of a tensor that [`layer_name`] named.
fn case_of(name: &str) -> String {
    let module = name.strip_prefix("model.layers.0.").unwrap().strip_suffix(".weight").unwrap();
    module.replace("n-rm", "norm")
}

fn expect_same(got: &BTreeMap<String, Tensor>, name: &str, expected: &Tensor, isa: Isa) {
    let found = got.get(name).unwrap_or_else(|| panic!("{name} is missing"));
    assert_eq!((found.0, &found.1), (expected.0, &expected.1), "{name}");
    let differing = found.2.iter().zip(&expected.2).filter(|(a, b)| a != b).count();
    assert!(found.2 == expected.2, "{isa:?}: {name}: {differing} of {} bytes differ", expected.2.len());
}

#[test]
fn bnb_codes_and_scales_equal_bitsandbytes() {
    let vectors = vectors("bnb_int8.safetensors");
    let inputs = linears(&vectors);
    assert!(inputs.len() > 30, "{}", inputs.len());
    for isa in Isa::all() {
        let got = convert(&inputs, Precision::Int8, Some(Layout::Bnb), isa);
        for name in inputs.keys() {
            let module = name.strip_suffix(".weight").unwrap();
            let case = case_of(name);
            expect_same(&got, name, &vectors[&format!("{case}.codes")], isa);
            expect_same(&got, &format!("{module}.SCB"), &vectors[&format!("{case}.scb")], isa);
            assert_eq!(got[&format!("{module}.weight_format")], (Dtype::U8, vec![], vec![0]));
        }
    }
}

/// Every preset has vectors that llm-compressor made with the preset of the same name.
#[test]
fn the_parts_of_every_preset_equal_those_of_llm_compressor() {
    assert!(Scheme::presets().count() >= 2);
    for scheme in Scheme::presets() {
        let vectors = vectors(&format!("ct_{}.safetensors", scheme.name().to_ascii_lowercase()));
        let inputs = linears(&vectors);
        assert!(inputs.len() > 30, "{}: {}", scheme.name(), inputs.len());
        let made = |case: &str| {
            let prefix = format!("{case}.out.");
            vectors
                .iter()
                .filter_map(move |(name, tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor)))
        };
        for isa in Isa::all() {
            let got = convert(&inputs, Precision::Scheme(scheme), None, isa);
            for name in inputs.keys() {
                let module = name.strip_suffix(".weight").unwrap();
                let parts: Vec<_> = made(&case_of(name)).collect();
                assert!(parts.len() >= 2, "{name}");
                for (part, expected) in parts {
                    expect_same(&got, &format!("{module}.{part}"), expected, isa);
                }
            }
        }
    }
}

/// Weights as quantizers store them, with no key that says how: FP8, int8, packed integers, MXFP4, bitsandbytes. The vectors
/// have what compressed-tensors, transformers and bitsandbytes decode them to.
#[test]
fn what_is_decoded_equals_the_libraries_that_define_it() {
    let vectors = vectors("decoded.safetensors");
    let is_expected = |name: &&String| name.starts_with("expected.");
    let inputs: BTreeMap<String, Tensor> = vectors
        .iter()
        .filter(|(name, _)| !is_expected(name))
        .map(|(name, tensor)| (name.clone(), tensor.clone()))
        .collect();
    let got = convert(&inputs, Precision::Bf16, None, Isa::detect());
    let expected: Vec<&String> = vectors.keys().filter(is_expected).collect();
    assert!(expected.len() > 20, "{}", expected.len());
    assert_eq!(got.len(), expected.len(), "{:?}", got.keys());
    for name in expected {
        expect_same(&got, name.strip_prefix("expected.").unwrap(), &vectors[name], Isa::detect());
    }
}

#[test]
fn casts_equal_torch() {
    let vectors = vectors("casts.safetensors");
    for (precision, word) in [(Precision::Fp16, "f16"), (Precision::Bf16, "bf16")] {
        let sources = ["f64", "f32", "f16", "bf16"].into_iter().filter(|source| *source != word);
        let inputs: BTreeMap<_, _> =
            sources.map(|source| (source.to_owned(), vectors[&format!("{source}.input")].clone())).collect();
        for isa in Isa::all() {
            let got = convert(&inputs, precision, None, isa);
            for source in inputs.keys() {
                expect_same(&got, source, &vectors[&format!("{source}.to_{word}")], isa);
            }
        }
    }
}

#[test]
fn a_nan_stays_a_nan_in_every_cast() {
    let vectors = vectors("casts.safetensors");
    for (precision, infinity) in [(Precision::Fp16, 0x7c00u16), (Precision::Bf16, 0x7f80)] {
        let inputs: BTreeMap<_, _> = ["f64", "f32"]
            .into_iter()
            .map(|source| (source.to_owned(), vectors[&format!("{source}.nan_input")].clone()))
            .collect();
        for isa in Isa::all() {
            for (name, (_, _, bytes)) in convert(&inputs, precision, None, isa) {
                assert!(!bytes.is_empty());
                for code in bytes.as_chunks::<2>().0 {
                    assert!(
                        u16::from_le_bytes(*code) & 0x7fff > infinity,
                        "{isa:?}: {name} became {code:02x?}"
                    );
                }
            }
        }
    }
}
