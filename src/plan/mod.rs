//! The plan: what becomes of every tensor, decided before a weight is read.
//!
//! Pure: headers and a recipe go in; fates, names, types and final offsets come out. No files and no
//! threads, so `mgpack plan` shows exactly what `convert` will do. `prepared` is the whole decision, for every command that
//! makes one; `recipe` resolves the user's options, `fate` decides tensor by tensor, `clients` knows what loaders can do,
//! `layout` lays the outputs into shards. Carries out formats/bundle.md, "Shards", and schemes.md.

mod clients;
mod fate;
mod groups;
mod layout;
mod prepared;
mod recipe;

use std::collections::HashSet;

use indexmap::IndexMap;
use serde::{Serialize, Serializer};

pub(crate) use clients::{notice as client_notice, skip_modules};
pub use fate::{Pattern, Skip};
pub use prepared::Prepared;
pub use recipe::{DEFAULT_MAX_SHARD_LEN, Precision, Recipe, WeightOptions};

use crate::checkpoint::SourceTensor;
use crate::error::{PlanError, Result};
use crate::scheme::{Codec, Layout, PartKind, Scheme, cast_arithmetic};
use crate::structure::{Role, layer_order, role_of, unit_of};
use crate::subject;
use crate::tensor::{self, Dtype, Float, TensorName};

/// What becomes of every tensor, in layer order, and of every shard.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How linears are stored.
    pub scheme: Scheme,
    /// One entry for each tensor of the checkpoint that the bundle has, in layer order.
    pub tensors: Vec<TensorPlan>,
    /// The shards, in order.
    pub shards: Vec<ShardPlan>,
}

/// What becomes of one tensor of the checkpoint. `P`: the places of what is written for it, as in
/// [`Output`].
#[derive(Clone, Debug)]
pub struct TensorPlan<P = Place> {
    /// Its name in the checkpoint.
    pub name: TensorName,
    /// Index in the checkpoint's list.
    pub source: usize,
    /// Its type in the checkpoint.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Bytes that the checkpoint stores for it.
    pub source_len: u64,
    /// What is done to it.
    pub fate: Fate,
    /// Why a tensor is not quantized where the scheme quantizes.
    pub skip: Option<Skip>,
    /// What is written for it: one tensor, or a quantized weight's parts.
    pub outputs: Vec<Output<P>>,
}

/// What is done to a tensor.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// The same bytes.
    Copy,
    /// Each value rounded to another float type.
    Cast {
        /// Its type in the checkpoint.
        from: Float,
        /// Its type in the bundle.
        to: Float,
    },
    /// Codes and scales.
    Quantize {
        /// Its type in the checkpoint.
        from: Float,
        /// What makes codes of it.
        codec: &'static dyn Codec,
    },
}

impl Fate {
    /// `copy`, `cast` or `quantize`.
    pub fn name(&self) -> &'static str {
        match self {
            Fate::Copy => "copy",
            Fate::Cast { .. } => "cast",
            Fate::Quantize { .. } => "quantize",
        }
    }

    /// True where the tensor becomes codes.
    pub fn is_quantize(&self) -> bool {
        matches!(self, Fate::Quantize { .. })
    }

    /// The arithmetic of what is stored, by its name in schemes.md.
    pub fn arithmetic(&self) -> &'static str {
        match self {
            Fate::Copy => "copy",
            Fate::Cast { to, .. } => cast_arithmetic(*to),
            Fate::Quantize { codec, .. } => codec.arithmetic(),
        }
    }
}

impl Serialize for Fate {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One tensor of the bundle. `P`: its [`Place`], or nothing before it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output<P = Place> {
    /// Its name.
    pub name: TensorName,
    /// What it holds.
    pub kind: PartKind,
    /// Element type.
    pub dtype: Dtype,
    /// Shape in elements.
    pub shape: Vec<u64>,
    /// Bytes.
    pub byte_len: u64,
    /// Its bytes, where they follow from the shape alone; empty elsewhere.
    pub constant: Vec<u8>,
    /// Where it lies.
    pub place: P,
}

/// Where a tensor of the bundle lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of its shard.
    pub shard: usize,
    /// Where it begins in the shard's data section, in bytes; a multiple of the element size.
    pub offset: u64,
}

/// One shard of the bundle.
#[derive(Clone, Debug)]
pub struct ShardPlan {
    /// `model-00001-of-00004.safetensors`.
    pub name: String,
    /// The outputs as (tensor, output) indices, in order of offset.
    pub outputs: Vec<(usize, usize)>,
    /// Length of the data section in bytes.
    pub data_len: u64,
}

/// Sums over a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Tensors read.
    pub source_tensors: u64,
    /// Bytes read.
    pub source_bytes: u64,
    /// Tensors written.
    pub tensors: u64,
    /// Tensor bytes written.
    pub bytes: u64,
    /// Source tensors that become codes.
    pub quantized: u64,
    /// Source tensors cast to another type.
    pub cast: u64,
    /// Source tensors kept as they are.
    pub copied: u64,
}

impl Plan {
    /// Plans a conversion. Deterministic; reads nothing but its arguments.
    ///
    /// # Errors
    /// [`PlanError`] where a pattern matches nothing, nothing would be quantized, or two outputs clash.
    pub fn new(sources: &[SourceTensor], recipe: &Recipe) -> Result<Self> {
        if sources.is_empty() {
            return Err(PlanError::NoTensors.into());
        }
        fate::check_patterns(sources, &recipe.ignore)?;
        let transposed = fate::transposed(sources);
        let mut tensors = Vec::with_capacity(sources.len());
        for (index, source) in sources.iter().enumerate() {
            // Of the clients, only those of compressed-tensors read what was calibrated for a cache.
            if source.is_cache_scale && recipe.scheme.layout() != Some(Layout::CompressedTensors) {
                continue;
            }
            tensors.push(plan_tensor(index, source, recipe, &transposed)?);
        }
        tensors.sort_by(|a, b| layer_order(a.name.as_str(), b.name.as_str()));
        let quantized = tensors.iter().filter(|tensor| tensor.fate.is_quantize()).count();
        if recipe.scheme.is_quantized() && quantized == 0 {
            return Err(
                PlanError::NothingToQuantize { tensors: tensors.len(), reasons: reasons(&tensors) }.into()
            );
        }
        if recipe.scheme.layout() == Some(Layout::CompressedTensors) {
            groups::check(&tensors)?;
        }
        let (tensors, shards) = layout::lay_out(tensors, recipe)?;
        Ok(Self { scheme: recipe.scheme, tensors, shards })
    }

    /// Sums over the plan.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for tensor in &self.tensors {
            totals.source_tensors += 1;
            totals.source_bytes += tensor.source_len;
            totals.tensors += tensor.outputs.len() as u64;
            totals.bytes += tensor.outputs.iter().map(|output| output.byte_len).sum::<u64>();
            match tensor.fate {
                Fate::Copy => totals.copied += 1,
                Fate::Cast { .. } => totals.cast += 1,
                Fate::Quantize { .. } => totals.quantized += 1,
            }
        }
        totals
    }

    /// Modules with a two-dimensional weight that stays float although the scheme quantizes, in layer order; embeddings
    /// too, which some classes hold as linears. Single experts of a generic bundle for bitsandbytes are left out: they
    /// are one parameter when loaded. `lm_head` is always named: where it is tied to the embedding the checkpoint has no
    /// tensor of it, and clients would quantize it.
    pub fn float_modules(&self) -> Vec<&str> {
        let is_linear_like = |tensor: &&TensorPlan| {
            tensor.shape.len() == 2
                && !tensor.fate.is_quantize()
                && tensor.name.as_str().ends_with(".weight")
                && !(self.scheme.layout() == Some(Layout::Bnb)
                    && subject::is_single_expert(tensor.name.as_str()))
        };
        let mut modules: Vec<&str> =
            self.tensors.iter().filter(is_linear_like).map(|tensor| tensor.name.module()).collect();
        if !self.has_head() {
            modules.push("lm_head");
        }
        modules
    }

    /// How much of the weights stays float, in percent of their elements, where the scheme quantizes and that is most.
    pub fn mostly_float(&self) -> Option<u64> {
        let elements =
            |tensor: &TensorPlan| u128::from(tensor::element_count(&tensor.shape).unwrap_or(u64::MAX));
        let weights = || self.tensors.iter().filter(|tensor| Float::of(tensor.dtype).is_some());
        let all: u128 = weights().map(elements).sum();
        let codes: u128 = weights().filter(|tensor| tensor.fate.is_quantize()).map(elements).sum();
        let percent = (all - codes).saturating_mul(100).checked_div(all)?;
        (self.scheme.is_quantized() && percent > 50).then(|| u64::try_from(percent).unwrap_or(100))
    }

    /// The lists of decoder layers as the names have them, each with how many layers it has: `model.layers`, 32.
    pub fn layer_lists(&self) -> IndexMap<&str, usize> {
        let mut lists: IndexMap<&str, usize> = IndexMap::new();
        let mut last = "";
        for tensor in &self.tensors {
            let name = tensor.name.as_str();
            let unit = unit_of(name);
            if matches!(role_of(name), Role::Layer(_)) && unit != last {
                *lists.entry(unit.rsplit_once('.').map_or(unit, |(list, _)| list)).or_default() += 1;
                last = unit;
            }
        }
        lists
    }

    /// Whether the checkpoint has an output head of its own, and not only a tied one.
    pub fn has_head(&self) -> bool {
        let is_head = |name: &str| name.ends_with(".weight") && role_of(name) == Role::Head;
        self.tensors.iter().any(|tensor| is_head(tensor.name.as_str()))
    }
}

impl TensorPlan {
    /// Rows and columns: a matrix as it is, anything else as one row.
    pub fn rows_and_columns(&self) -> (u64, u64) {
        match *self.shape.as_slice() {
            [rows, columns] => (rows, columns),
            _ => (1, tensor::element_count(&self.shape).unwrap_or(u64::MAX)),
        }
    }

    /// The output of that kind, if there is one.
    pub fn output(&self, kind: PartKind) -> Option<&Output> {
        self.outputs.iter().find(|output| output.kind == kind)
    }
}

/// Why tensors stay float, each reason with how many it holds for, the most frequent first.
fn reasons<P>(tensors: &[TensorPlan<P>]) -> Vec<(String, usize)> {
    let mut counted: IndexMap<String, usize> = IndexMap::new();
    for skip in tensors.iter().filter_map(|tensor| tensor.skip.as_ref()) {
        *counted.entry(skip.to_string()).or_default() += 1;
    }
    counted.sort_by(|_, a, _, b| b.cmp(a));
    counted.into_iter().collect()
}

fn plan_tensor(
    index: usize,
    source: &SourceTensor,
    recipe: &Recipe,
    transposed: &HashSet<&str>,
) -> Result<TensorPlan<()>> {
    let decision = fate::decide(source, recipe, transposed);
    let too_large = || PlanError::TooLarge { name: source.name.to_string() };
    let mut outputs = Vec::new();
    if let Fate::Quantize { from, codec } = decision.fate {
        let (rows, columns) = (source.shape[0], source.shape[1]);
        for part in codec.parts(from, rows, columns) {
            let name = format!("{}.{}", source.name.module(), part.suffix);
            outputs.push(Output {
                name: TensorName::new(name).ok_or_else(too_large)?,
                kind: part.kind,
                dtype: part.dtype,
                byte_len: tensor::byte_len(part.dtype, &part.shape).ok_or_else(too_large)?,
                shape: part.shape,
                constant: part.constant,
                place: (),
            });
        }
    } else {
        let dtype = match decision.fate {
            Fate::Cast { to, .. } => to.dtype(),
            Fate::Copy | Fate::Quantize { .. } => source.dtype,
        };
        outputs.push(Output {
            name: source.name.clone(),
            kind: PartKind::Values,
            dtype,
            shape: source.shape.clone(),
            byte_len: tensor::byte_len(dtype, &source.shape).ok_or_else(too_large)?,
            constant: Vec::new(),
            place: (),
        });
    }
    Ok(TensorPlan {
        name: source.name.clone(),
        source: index,
        dtype: source.dtype,
        shape: source.shape.clone(),
        source_len: source.stored_len(),
        fate: decision.fate,
        skip: decision.skip,
        outputs,
    })
}
