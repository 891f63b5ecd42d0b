//! The tiny checkpoint: an MGM-7B in structure, small enough to make anywhere.
//!
//! Owns a checkpoint of random weights that mgpack and MGM read as a real one: the class, the tensor names,
//! the sharding, the tokenizer's kind and both towers are MGM-7B's. It serves tests, examples and a first try
//! of the commands without a download. The plain files lie in src/tiny/; the weights are made here, from
//! integer and basic IEEE arithmetic only, so that a seed gives the same bytes on every machine.
//!
//! MGM builds its auxiliary tower at one size, decided by the folder's name: 196 million parameters. Its file is
//! small all the same, because every matrix in it is a view whose rows overlap: element `[i, j]` is number
//! `i + j` of a short storage. Seen: MGM 769820c, unmodified, with transformers 4.36.2 on CPU, loads the whole
//! checkpoint and generates from an image; all 340 tensors of the tower arrive as they are in the file.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use half::{bf16, f16};
use serde_json::json;

use crate::error::{IoError, OutputError, Result};
use crate::tensor::Dtype;
use crate::torch_zip::{self, NewStorage, NewTensor};

/// The alias that means this checkpoint, where no folder has that name.
pub(crate) const ALIAS: &str = "tiny";

/// Name of its bundles before the scheme's suffix: MGM takes it for Llama's class.
pub(crate) const BUNDLE_NAME: &str = "MGM-7B-tiny";

/// Its config.json.
pub(crate) const CONFIG: &str = include_str!("tiny/config.json");

/// Seed of the checkpoint that the alias means; another one would be another model.
pub(crate) const SEED: u64 = 7;

/// Folder of the CLIP tower, as config.json has it.
const CLIP_DIR: &str = "model_zoo/OpenAI/clip-vit-large-patch14-336";

/// Folder of the auxiliary tower, as config.json has it.
const AUX_DIR: &str = "model_zoo/OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup";

// Sizes of the language model; src/tiny/config.json says the same, and a test holds them together.
const HIDDEN: usize = 256;
const LAYERS: usize = 4;
const INTERMEDIATE: usize = 704;
const VOCAB: usize = 512;

// Sizes of the CLIP tower: src/tiny/clip/config.json.
const CLIP_HIDDEN: usize = 64;
const CLIP_LAYERS: usize = 4;
const CLIP_INTERMEDIATE: usize = 256;
const CLIP_PATCH: usize = 14;
const CLIP_POSITIONS: usize = 1 + (56 / CLIP_PATCH) * (56 / CLIP_PATCH);

/// Blocks and widths of the auxiliary tower's stages, those of timm's convnext_large.
const AUX_STAGES: [(usize, usize); 4] = [(3, 192), (3, 384), (27, 768), (3, 1536)];

/// Width of what the auxiliary tower gives: all stages side by side.
const AUX_HIDDEN: usize = AUX_STAGES[0].1 + AUX_STAGES[1].1 + AUX_STAGES[2].1 + AUX_STAGES[3].1;
const _: () = assert!(AUX_HIDDEN == 2880);

/// One file of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TinyFile {
    /// Its path in the checkpoint, with `/` between folders.
    pub path: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Writes the tiny checkpoint of a seed into `dir` and gives its size in bytes.
///
/// `dir` is made where it does not exist. For MGM itself, give it a name that MGM dispatches to Llama, such as
/// `MGM-7B-tiny`, and start MGM in it: the tower paths are relative.
///
/// # Errors
/// [`OutputError::NotEmpty`] where `dir` holds anything; [`IoError`] with the file that failed.
pub fn write(dir: &Path, seed: u64) -> Result<u64> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| IoError::new("writing the tiny checkpoint", path, source)
    };
    fs::create_dir_all(dir).map_err(failed(dir))?;
    if fs::read_dir(dir).map_err(failed(dir))?.next().is_some() {
        return Err(OutputError::NotEmpty { path: dir.to_owned(), content: "tiny checkpoint" }.into());
    }
    let mut byte_len = 0;
    for file in files(seed) {
        let path = dir.join(&file.path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed(folder))?;
        }
        fs::write(&path, &file.bytes).map_err(failed(&path))?;
        byte_len += file.bytes.len() as u64;
    }
    Ok(byte_len)
}

/// Every file of the tiny checkpoint of a seed, sorted by path.
pub fn files(seed: u64) -> Vec<TinyFile> {
    let mut files = plain_files();
    files.extend(shards(seed));
    files.push(file(format!("{CLIP_DIR}/model.safetensors"), to_safetensors("F32", &clip_tensors(seed))));
    files.push(file(format!("{AUX_DIR}/open_clip_pytorch_model.bin"), aux_file(seed)));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn plain_files() -> Vec<TinyFile> {
    vec![
        file("config.json", CONFIG),
        file("generation_config.json", include_bytes!("tiny/generation_config.json")),
        file("special_tokens_map.json", include_bytes!("tiny/special_tokens_map.json")),
        file("tokenizer.model", include_bytes!("tiny/tokenizer.model")),
        file("tokenizer_config.json", include_bytes!("tiny/tokenizer_config.json")),
        file(format!("{CLIP_DIR}/config.json"), include_bytes!("tiny/clip/config.json")),
        file(
            format!("{CLIP_DIR}/preprocessor_config.json"),
            include_bytes!("tiny/clip/preprocessor_config.json"),
        ),
        file(format!("{AUX_DIR}/open_clip_config.json"), include_bytes!("tiny/open_clip_config.json")),
    ]
}

fn file(path: impl Into<String>, bytes: impl AsRef<[u8]>) -> TinyFile {
    TinyFile { path: path.into(), bytes: bytes.as_ref().to_vec() }
}

/// A tensor as it is in a safetensors file.
struct Tensor {
    name: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// The language model and its projectors in three shards, in the order `save_pretrained` has, and their index.
fn shards(seed: u64) -> Vec<TinyFile> {
    let mut shards: [Vec<Tensor>; 3] = Default::default();
    shards[0].push(matrix("model.embed_tokens.weight", VOCAB, HIDDEN, 0.25, seed));
    for layer in 0..LAYERS {
        shards[layer * 2 / LAYERS].extend(layer_tensors(layer, seed));
    }
    shards[1].push(vector("model.norm.weight", HIDDEN, 1.0, 0.1, seed));
    shards[2].extend(linear("model.mm_projector.0", HIDDEN, CLIP_HIDDEN, seed));
    shards[2].extend(linear("model.mm_projector.2", HIDDEN, HIDDEN, seed));
    for (part, width) in [("query", CLIP_HIDDEN), ("aux", AUX_HIDDEN), ("val", AUX_HIDDEN)] {
        let module = format!("model.vlm_uni_{part}_projector");
        shards[2].push(vector(&format!("{module}.0.weight"), width, 1.0, 0.1, seed));
        shards[2].push(vector(&format!("{module}.0.bias"), width, 0.0, 0.05, seed));
        shards[2].extend(linear(&format!("{module}.1"), CLIP_HIDDEN, width, seed));
    }
    shards[2].push(matrix("lm_head.weight", VOCAB, HIDDEN, 1.0 / 16.0, seed));

    let mut weight_map = BTreeMap::new();
    let mut files = Vec::new();
    for (number, tensors) in shards.iter().enumerate() {
        let path = format!("model-{:05}-of-00003.safetensors", number + 1);
        weight_map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), path.clone())));
        files.push(file(path, to_safetensors("BF16", tensors)));
    }
    let total_size: usize = shards.iter().flatten().map(|tensor| tensor.bytes.len()).sum();
    // Both levels are in alphabetical order, so that serde_json's features cannot change it.
    let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    files.push(file("model.safetensors.index.json", format!("{index:#}\n")));
    files
}

fn layer_tensors(layer: usize, seed: u64) -> Vec<Tensor> {
    let module = format!("model.layers.{layer}");
    // Deeper layers spread wider, so that no two layers have the same scales.
    let spread = 0.75 + layer as f64 * 0.125;
    let weight = |name: &str, rows: usize, columns: usize| {
        let std = spread / (columns as f64).sqrt();
        matrix(&format!("{module}.{name}.weight"), rows, columns, std, seed)
    };
    let norm = |name: &str| vector(&format!("{module}.{name}.weight"), HIDDEN, 1.0, 0.1, seed);
    vec![
        weight("self_attn.q_proj", HIDDEN, HIDDEN),
        weight("self_attn.k_proj", HIDDEN, HIDDEN),
        weight("self_attn.v_proj", HIDDEN, HIDDEN),
        weight("self_attn.o_proj", HIDDEN, HIDDEN),
        weight("mlp.gate_proj", INTERMEDIATE, HIDDEN),
        weight("mlp.up_proj", INTERMEDIATE, HIDDEN),
        weight("mlp.down_proj", HIDDEN, INTERMEDIATE),
        norm("input_layernorm"),
        norm("post_attention_layernorm"),
    ]
}

/// Weight and bias of a Linear with `columns` inputs, bfloat16.
fn linear(module: &str, rows: usize, columns: usize, seed: u64) -> [Tensor; 2] {
    let std = 1.0 / (columns as f64).sqrt();
    [
        matrix(&format!("{module}.weight"), rows, columns, std, seed),
        vector(&format!("{module}.bias"), rows, 0.0, 0.02, seed),
    ]
}

/// A bfloat16 matrix. About one row in 64 is an outlier, four to twelve times as wide as the others.
fn matrix(name: &str, rows: usize, columns: usize, std: f64, seed: u64) -> Tensor {
    let mut random = Random::of(seed, name);
    let mut bytes = Vec::with_capacity(rows * columns * 2);
    for _ in 0..rows {
        let outlier = random.next().is_multiple_of(64);
        let std = if outlier { std * (4 + random.next() % 9) as f64 } else { std };
        for _ in 0..columns {
            bytes.extend_from_slice(&bf16::from_f32(random.normal(0.0, std)).to_le_bytes());
        }
    }
    Tensor { name: name.to_owned(), shape: vec![rows, columns], bytes }
}

/// A bfloat16 vector.
fn vector(name: &str, len: usize, mean: f64, std: f64, seed: u64) -> Tensor {
    let mut random = Random::of(seed, name);
    let values = (0..len).flat_map(|_| bf16::from_f32(random.normal(mean, std)).to_le_bytes());
    Tensor { name: name.to_owned(), shape: vec![len], bytes: values.collect() }
}

/// The CLIP tower, float32 as the real one.
fn clip_tensors(seed: u64) -> Vec<Tensor> {
    let tensor = |name: &str, shape: &[usize], mean: f64, std: f64| {
        let mut random = Random::of(seed, name);
        let count = shape.iter().product();
        let values = (0..count).flat_map(|_: usize| random.normal(mean, std).to_le_bytes());
        Tensor { name: name.to_owned(), shape: shape.to_vec(), bytes: values.collect() }
    };
    let norm = |module: &str| {
        [
            tensor(&format!("{module}.weight"), &[CLIP_HIDDEN], 1.0, 0.1),
            tensor(&format!("{module}.bias"), &[CLIP_HIDDEN], 0.0, 0.05),
        ]
    };
    let linear = |module: &str, rows: usize, columns: usize| {
        let std = 1.0 / (columns as f64).sqrt();
        [
            tensor(&format!("{module}.weight"), &[rows, columns], 0.0, std),
            tensor(&format!("{module}.bias"), &[rows], 0.0, 0.02),
        ]
    };

    let embeddings = "vision_model.embeddings";
    let patch = [CLIP_HIDDEN, 3, CLIP_PATCH, CLIP_PATCH];
    let mut tensors = vec![
        tensor(&format!("{embeddings}.class_embedding"), &[CLIP_HIDDEN], 0.0, 0.5),
        tensor(&format!("{embeddings}.patch_embedding.weight"), &patch, 0.0, 0.04),
        tensor(&format!("{embeddings}.position_embedding.weight"), &[CLIP_POSITIONS, CLIP_HIDDEN], 0.0, 0.1),
    ];
    tensors.extend(norm("vision_model.pre_layrnorm")); // spelt so in CLIP
    for layer in 0..CLIP_LAYERS {
        let module = format!("vision_model.encoder.layers.{layer}");
        for part in ["k_proj", "v_proj", "q_proj", "out_proj"] {
            tensors.extend(linear(&format!("{module}.self_attn.{part}"), CLIP_HIDDEN, CLIP_HIDDEN));
        }
        tensors.extend(norm(&format!("{module}.layer_norm1")));
        tensors.extend(linear(&format!("{module}.mlp.fc1"), CLIP_INTERMEDIATE, CLIP_HIDDEN));
        tensors.extend(linear(&format!("{module}.mlp.fc2"), CLIP_HIDDEN, CLIP_INTERMEDIATE));
        tensors.extend(norm(&format!("{module}.layer_norm2")));
    }
    tensors.extend(norm("vision_model.post_layernorm"));
    tensors
}

/// The auxiliary tower's file.
fn aux_file(seed: u64) -> Vec<u8> {
    let (tensors, bytes) = aux_tensors(seed);
    let storages: Vec<NewStorage> =
        bytes.iter().map(|bytes| NewStorage { dtype: Dtype::F16, len: bytes.len() as u64 / 2 }).collect();
    let fill = |number: usize, out: &mut dyn Write| out.write_all(&bytes[number]);
    match torch_zip::write(Vec::new(), "open_clip_pytorch_model", &storages, &tensors, fill) {
        Ok(file) => file,
        Err(error) => unreachable!("memory takes every byte: {error}"),
    }
}

/// The auxiliary tower at its full shapes, each a view with overlapping rows, and the storages' bytes.
fn aux_tensors(seed: u64) -> (Vec<NewTensor>, Vec<Vec<u8>>) {
    let (mut tensors, mut storages) = (Vec::new(), Vec::new());
    let mut add = |name: String, shape: &[usize], mean: f64, std: f64| {
        let len = 1 + shape.iter().map(|dim| dim - 1).sum::<usize>();
        let mut random = Random::of(seed, &name);
        storages.push((0..len).flat_map(|_| f16::from_f32(random.normal(mean, std)).to_le_bytes()).collect());
        let shape = shape.iter().map(|&dim| dim as u64).collect::<Vec<_>>();
        tensors.push(NewTensor {
            storage: tensors.len(),
            start: 0,
            strides: vec![1; shape.len()],
            name,
            shape,
        });
    };

    let (_, first) = AUX_STAGES[0];
    let trunk = "visual.trunk";
    add(format!("{trunk}.stem.0.weight"), &[first, 3, 4, 4], 0.0, 0.15);
    add(format!("{trunk}.stem.0.bias"), &[first], 0.0, 0.02);
    add(format!("{trunk}.stem.1.weight"), &[first], 1.0, 0.1);
    add(format!("{trunk}.stem.1.bias"), &[first], 0.0, 0.05);
    let mut before = first;
    for (stage, (blocks, width)) in AUX_STAGES.into_iter().enumerate() {
        let module = format!("{trunk}.stages.{stage}");
        if stage > 0 {
            let std = 0.5 / (before as f64).sqrt();
            add(format!("{module}.downsample.0.weight"), &[before], 1.0, 0.1);
            add(format!("{module}.downsample.0.bias"), &[before], 0.0, 0.05);
            add(format!("{module}.downsample.1.weight"), &[width, before, 2, 2], 0.0, std);
            add(format!("{module}.downsample.1.bias"), &[width], 0.0, 0.02);
        }
        for block in 0..blocks {
            let module = format!("{module}.blocks.{block}");
            let inner = width * 4;
            add(format!("{module}.gamma"), &[width], 0.1, 0.02);
            add(format!("{module}.conv_dw.weight"), &[width, 1, 7, 7], 0.0, 0.14);
            add(format!("{module}.conv_dw.bias"), &[width], 0.0, 0.02);
            add(format!("{module}.norm.weight"), &[width], 1.0, 0.1);
            add(format!("{module}.norm.bias"), &[width], 0.0, 0.05);
            add(format!("{module}.mlp.fc1.weight"), &[inner, width], 0.0, 1.0 / (width as f64).sqrt());
            add(format!("{module}.mlp.fc1.bias"), &[inner], 0.0, 0.02);
            add(format!("{module}.mlp.fc2.weight"), &[width, inner], 0.0, 1.0 / (inner as f64).sqrt());
            add(format!("{module}.mlp.fc2.bias"), &[width], 0.0, 0.02);
        }
        before = width;
    }
    (tensors, storages)
}

/// A safetensors file of tensors of one type, sorted by name as the format's own library sorts them.
fn to_safetensors(dtype: &str, tensors: &[Tensor]) -> Vec<u8> {
    let mut tensors: Vec<&Tensor> = tensors.iter().collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));

    // Written by hand because serde_json's order of keys depends on its features. No name needs escaping.
    // MGM's loader refuses a file whose metadata does not say that it is for torch.
    let mut header = r#"{"__metadata__":{"format":"pt"}"#.to_owned();
    let mut offset = 0;
    for Tensor { name, shape, bytes } in &tensors {
        let end = offset + bytes.len();
        let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        header +=
            &format!(r#","{name}":{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{offset},{end}]}}"#);
        offset = end;
    }
    header.push('}');
    let mut header = header.into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&header);
    tensors.iter().for_each(|tensor| bytes.extend_from_slice(&tensor.bytes));
    bytes
}

/// A stream of random numbers that belongs to one tensor: splitmix64 from the seed and the tensor's name.
///
/// A tensor's values depend on no other tensor, so a new one changes no old one.
struct Random(u64);

impl Random {
    fn of(seed: u64, name: &str) -> Self {
        // FNV-1a of the name, mixed with the seed by one step of the generator.
        let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let name = name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
        Self(Random(seed).next() ^ name)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Close to normal: the sum of eight 16-bit numbers, which needs no logarithm (Irwin-Hall). No value is
    /// farther than 4.9 standard deviations from the mean.
    fn normal(&mut self, mean: f64, std: f64) -> f32 {
        const MEAN: i64 = 8 * 65535 / 2;
        const STD: f64 = 53_509.919_921_450_08; // sqrt(8 * (65536^2 - 1) / 12)
        let words = |bits: u64| (0..4).map(move |word| (bits >> (16 * word)) & 0xffff);
        let sum: u64 = words(self.next()).chain(words(self.next())).sum();
        (mean + std * ((sum as i64 - MEAN) as f64 / STD)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_gives_its_published_sequence() {
        // Seed 1234567, from the reference implementation by Sebastiano Vigna.
        let mut random = Random(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([random.next(), random.next(), random.next()], expected);
    }

    #[test]
    fn normal_numbers_have_the_mean_and_spread_asked_for() {
        let mut random = Random::of(7, "w");
        let numbers: Vec<f64> = (0..100_000).map(|_| f64::from(random.normal(2.0, 0.5))).collect();
        let mean = numbers.iter().sum::<f64>() / 1e5;
        let variance = numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / 1e5;
        assert!((mean - 2.0).abs() < 0.01, "{mean}");
        assert!((variance.sqrt() - 0.5).abs() < 0.01, "{variance}");
    }

    #[test]
    fn seeds_and_names_give_different_streams() {
        let first = |seed, name| Random::of(seed, name).next();
        assert_ne!(first(0, "a"), first(1, "a"));
        assert_ne!(first(0, "a"), first(0, "b"));
    }

    #[test]
    fn some_rows_are_outliers_and_most_are_not() {
        let tensor = matrix("w", 704, 256, 0.05, 0);
        let magnitude = |row: &[u8]| {
            let values =
                row.chunks_exact(2).map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f32().abs());
            values.fold(0.0, f32::max)
        };
        let outliers = tensor.bytes.chunks_exact(512).filter(|row| magnitude(row) > 0.3).count();
        assert!((3..30).contains(&outliers), "{outliers}");
    }
}
