//! Replays vectors of accelerate's device map: reads them, plans each, and says what differs.
//!
//! Shared by `tests/it/device_map.rs` and `examples/replay.rs`. The form of the vectors is in
//! `tests/data/device_map/README.md`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::read::GzDecoder;
use mgpack::error::DeviceMapError;
use mgpack::internals::device_map::{
    Device, DeviceMap, MaxMemory, ModelTree, Sizes, Sizing, TensorKind, TreeModule, TreeTensor,
    plan_accelerate, torch_dtype,
};
use serde::Deserialize;

/// What can go wrong before there is anything to compare.
pub type Failure = Box<dyn std::error::Error>;

/// One tree: the form of `models/*.json.gz`, and part of a toy vector.
#[derive(Clone, Debug, Deserialize)]
pub struct TreeFile {
    pub modules: Vec<(String, String)>,
    pub tensors: Vec<TensorLine>,
    pub tied: Vec<Vec<String>>,
    /// Only toys have it; it lists shared parameters too.
    pub direct_params: Option<HashMap<String, Vec<String>>>,
}

/// One tensor of a tree.
#[derive(Clone, Debug, Deserialize)]
pub struct TensorLine {
    pub name: String,
    pub shape: Vec<u64>,
    pub dtype: String,
    pub kind: String,
    pub persistent: bool,
    #[serde(default)]
    pub linear: bool,
}

impl TreeFile {
    /// The tree as the library has it.
    pub fn tree(&self) -> Result<ModelTree, Failure> {
        let tensors: Result<Vec<_>, Failure> = self
            .tensors
            .iter()
            .map(|line| {
                let dtype =
                    torch_dtype(&line.dtype).ok_or_else(|| format!("unknown dtype {}", line.dtype))?;
                let kind = match line.kind.as_str() {
                    "param" => TensorKind::Param { linear: line.linear },
                    "buffer" => TensorKind::Buffer { persistent: line.persistent },
                    other => return Err(format!("unknown kind of tensor {other}").into()),
                };
                Ok(TreeTensor { name: line.name.clone(), shape: line.shape.clone(), dtype, kind })
            })
            .collect();
        let modules = self.modules.iter().cloned().map(|(name, class)| TreeModule { name, class }).collect();
        let tree = ModelTree { modules, tensors: tensors?, tied: self.tied.clone(), ..ModelTree::default() };
        Ok(match &self.direct_params {
            Some(direct) => ModelTree { direct_params: direct.clone(), ..tree },
            None => tree.with_direct_params(),
        })
    }
}

/// A model file: its tree and the names counted in 16 bits per type of weights.
#[derive(Clone, Debug, Deserialize)]
#[allow(dead_code)] // The example needs fewer of them than the test.
pub struct ModelFile {
    #[serde(flatten)]
    pub tree: TreeFile,
    pub cls: String,
    pub config: serde_json::Value,
    pub no_split: Vec<String>,
    pub special_fp16: HashMap<String, Vec<String>>,
}

/// One vector of either kind.
#[derive(Clone, Debug, Deserialize)]
pub struct Vector {
    pub id: String,
    pub dtype: String,
    pub max_memory: MaxMemory,
    pub no_split: Vec<String>,
    pub device_map: Option<BTreeMap<String, Device>>,
    pub error: Option<ErrorLine>,
    // MGM vectors:
    pub model: Option<String>,
    pub variant: Option<String>,
    pub module_sizes: Option<BTreeMap<String, f64>>,
    pub used: Option<BTreeMap<String, f64>>,
    pub unmapped: Option<Vec<String>>,
    // toys:
    pub modules: Option<Vec<(String, String)>>,
    pub tensors: Option<Vec<TensorLine>>,
    pub direct_params: Option<HashMap<String, Vec<String>>>,
    pub tied: Option<Vec<Vec<String>>>,
    pub special_fp16: Option<Vec<String>>,
}

/// The exception that accelerate raised.
#[derive(Clone, Debug, Deserialize)]
pub struct ErrorLine {
    #[serde(rename = "type")]
    pub kind: String,
    pub message: String,
}

/// The text of a file, unpacked if it is gzip.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    let file = BufReader::new(File::open(path).map_err(|e| format!("{}: {e}", path.display()))?);
    let mut text = String::new();
    let mut reader: Box<dyn Read> = if path.extension().is_some_and(|ext| ext == "gz") {
        Box::new(GzDecoder::new(file))
    } else {
        Box::new(file)
    };
    reader.read_to_string(&mut text).map_err(|e: io::Error| format!("{}: {e}", path.display()))?;
    Ok(text)
}

/// The vectors of a file, one a line; a line that is none is an error of its own.
pub fn read_vectors(path: &Path) -> Result<Vec<Result<Vector, Failure>>, Failure> {
    let text = read_text(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let vectors = lines.map(|(at, line)| {
        serde_json::from_str(line).map_err(|e| format!("{}:{}: {e}", path.display(), at + 1).into())
    });
    Ok(vectors.collect())
}

/// Model files by `model.variant`, read when first asked for.
pub struct Models<'a> {
    folder: &'a Path,
    read: HashMap<String, (ModelFile, ModelTree)>,
}

impl<'a> Models<'a> {
    pub fn new(folder: &'a Path) -> Self {
        Self { folder, read: HashMap::new() }
    }

    pub fn get(&mut self, model: &str, variant: &str) -> Result<&(ModelFile, ModelTree), Failure> {
        let name = format!("{model}.{variant}");
        if !self.read.contains_key(&name) {
            let file: ModelFile =
                serde_json::from_str(&read_text(&self.folder.join(format!("{name}.json.gz")))?)?;
            let tree = file.tree.tree()?;
            self.read.insert(name.clone(), (file, tree));
        }
        self.read.get(&name).ok_or_else(|| "a model file vanished".into())
    }
}

/// How accelerate was asked to count: `float16`, `none`, `int8`, or transformers' `int8_hf`, `int8_bnb`, `int4_hf`.
pub fn sizing(dtype: &str, listed: &[String]) -> Result<Sizing, Failure> {
    let target = match dtype.split('_').next().unwrap_or_default() {
        "none" => None,
        "float64" => Some(64),
        "float32" => Some(32),
        "float16" | "bfloat16" => Some(16),
        "int8" | "fp8" => Some(8),
        "int4" => Some(4),
        other => return Err(format!("unknown type of weights {other}").into()),
    };
    Ok(Sizing { target, ..Sizing::default() }.with_special(listed, 16))
}

/// The tree and the sizing of a vector.
pub fn prepare(vector: &Vector, models: &mut Models<'_>) -> Result<(ModelTree, Sizing), Failure> {
    if let (Some(modules), Some(tensors)) = (&vector.modules, &vector.tensors) {
        let file = TreeFile {
            modules: modules.clone(),
            tensors: tensors.clone(),
            tied: vector.tied.clone().unwrap_or_default(),
            direct_params: vector.direct_params.clone(),
        };
        let listed = vector.special_fp16.clone().unwrap_or_default();
        return Ok((file.tree()?, sizing(&vector.dtype, &listed)?));
    }
    let (Some(model), Some(variant)) = (&vector.model, &vector.variant) else {
        return Err(format!("{} has neither a tree nor a model", vector.id).into());
    };
    let (file, tree) = models.get(model, variant)?;
    let listed = match vector.dtype.as_str() {
        "int4_hf" => file.special_fp16.get("int8_hf"),
        other => file.special_fp16.get(other),
    };
    Ok((tree.clone(), sizing(&vector.dtype, listed.map_or(&[], Vec::as_slice))?))
}

/// What differs between a vector and the planner; empty if nothing does.
pub fn differences(vector: &Vector, models: &mut Models<'_>) -> Result<Vec<String>, Failure> {
    let (tree, sizing) = prepare(vector, models)?;
    let sizes = tree.sizes(&sizing);
    let mut found = Vec::new();
    for (name, &bytes) in vector.module_sizes.iter().flatten() {
        if sizes.bits(name) as f64 != bytes * 8.0 {
            found
                .push(format!("size of `{name}`: expected {bytes}, found {}", sizes.bits(name) as f64 / 8.0));
        }
    }
    match (
        &vector.device_map,
        &vector.error,
        plan_accelerate(&tree, &sizing, &vector.max_memory, &vector.no_split),
    ) {
        (Some(expected), _, Ok(plan)) => compare_maps(vector, expected, &plan, &tree, &sizes, &mut found),
        (None, Some(error), Err(DeviceMapError::Accelerate { exception, .. })) => {
            if format!("{exception:?}") != error.kind {
                found.push(format!("expected {} ({}), found {exception:?}", error.kind, error.message));
            }
        }
        (_, Some(error), Ok(plan)) => {
            found.push(format!("expected {} ({}), found {:?}", error.kind, error.message, plan.map));
        }
        (_, _, Err(error)) => found.push(format!("expected a map, found: {error}")),
        (None, None, _) => found.push("the vector has neither a map nor an error".to_owned()),
    }
    Ok(found)
}

fn compare_maps(
    vector: &Vector,
    expected: &BTreeMap<String, Device>,
    plan: &DeviceMap,
    tree: &ModelTree,
    sizes: &Sizes,
    found: &mut Vec<String>,
) {
    for (name, device) in expected {
        match plan.map.get(name) {
            Some(other) if other == device => {}
            Some(other) => found.push(format!("`{name}`: expected {device}, found {other}")),
            None => found.push(format!("`{name}`: expected {device}, found nothing")),
        }
    }
    for (name, device) in plan.map.iter().filter(|(name, _)| !expected.contains_key(*name)) {
        found.push(format!("`{name}`: expected nothing, found {device}"));
    }
    if let Some(used) = &vector.used {
        let mut bits: BTreeMap<String, u128> = BTreeMap::new();
        for (name, device) in &plan.map {
            let key = device.gpu().map_or_else(|| device.to_string(), |id| id.to_string());
            *bits.entry(key).or_default() += sizes.bits(name);
        }
        let expected: BTreeMap<String, u128> =
            used.iter().map(|(device, bytes)| (device.clone(), (bytes * 8.0) as u128)).collect();
        if bits != expected {
            found.push(format!("used bits: expected {expected:?}, found {bits:?}"));
        }
    }
    if let Some(expected) = &vector.unmapped {
        let covered = |name: &str| {
            plan.map.keys().any(|key| {
                key.is_empty()
                    || name == key
                    || name.strip_prefix(key.as_str()).is_some_and(|r| r.starts_with('.'))
            })
        };
        let mut lost: Vec<&str> =
            tree.tensors.iter().map(|tensor| tensor.name.as_str()).filter(|name| !covered(name)).collect();
        lost.sort_unstable();
        let mut expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        expected.sort_unstable();
        if lost != expected {
            found.push(format!("tensors without a device: expected {expected:?}, found {lost:?}"));
        }
    }
}
