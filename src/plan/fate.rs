//! What is done to one tensor, and why.

use std::collections::{HashMap, HashSet};

use regex::Regex;
use serde::Serialize;

use super::{Fate, Recipe};
use crate::checkpoint::SourceTensor;
use crate::error::{PlanError, Result};
use crate::scheme::{Codec, Layout, Unfit};
use crate::structure;
use crate::subject;
use crate::tensor::Float;

/// A name given to `--ignore`: a whole tensor or module name, or `re:` and a regular expression that must
/// match from the start of one. The meaning is that of compressed-tensors' `ignore`.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Option<Regex>,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`PlanError::BadPattern`] where the text after `re:` is no regular expression.
    pub fn new(text: &str) -> Result<Self> {
        let regex = match text.strip_prefix("re:") {
            None => None,
            Some(expression) => Some(Regex::new(&format!("^(?:{expression})")).map_err(|cause| {
                PlanError::BadPattern { pattern: text.to_owned(), source: Box::new(cause) }
            })?),
        };
        Ok(Self { text: text.to_owned(), regex })
    }

    /// The pattern as given.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn matches(&self, source: &SourceTensor) -> bool {
        [source.name.as_str(), source.name.module()].into_iter().any(|name| match &self.regex {
            Some(regex) => regex.is_match(name),
            None => self.text == name,
        })
    }
}

/// Why a tensor is not quantized.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Skip {
    /// A rule on names and shapes; what it took the tensor for.
    Rule(&'static str),
    /// A rule of the family; its reason.
    Family(String),
    /// An `--ignore` pattern.
    Ignored(String),
    /// The scheme does not take a weight of this type or shape.
    Unfit(Unfit),
}

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Skip::Rule(what) => f.write_str(what),
            Skip::Family(reason) => f.write_str(reason),
            Skip::Ignored(pattern) => write!(f, "ignored by `{pattern}`"),
            Skip::Unfit(unfit) => unfit.fmt(f),
        }
    }
}

/// A fate with its reason.
pub(super) struct Decision {
    pub(super) fate: Fate,
    pub(super) skip: Option<Skip>,
}

/// Decides what becomes of a tensor. `transposed`: what [`transposed`] found in the checkpoint.
pub(super) fn decide(source: &SourceTensor, recipe: &Recipe, transposed: &HashSet<&str>) -> Decision {
    let ignored = recipe.ignore.iter().find(|pattern| pattern.matches(source));
    let float = Float::of(source.dtype);
    let mut skip = ignored.map(|pattern| Skip::Ignored(pattern.text.clone()));
    if let Some(codec) = recipe.scheme.codec() {
        skip = skip.or_else(|| why_not_quantized(source, recipe, codec)).or_else(|| {
            let is_transposed = transposed.contains(source.name.as_str());
            is_transposed.then_some(Skip::Rule("transposed (Conv1D): its rows are inputs, not outputs"))
        });
        if let (None, Some(from)) = (&skip, float) {
            return Decision { fate: Fate::Quantize { from, codec }, skip };
        }
    }
    // An ignored tensor of a plain cast keeps its type; that of a quantized bundle follows the rest, since
    // the model is loaded in one float type.
    let is_kept =
        ignored.is_some() && !recipe.scheme.is_quantized() || structure::is_precise(source.name.as_str());
    let target = if is_kept { None } else { recipe.rest };
    let fate = match (float, target) {
        // What is decoded is rounded once, from where its values are defined.
        (Some(own), Some(to)) if own != to => Fate::Cast { from: source.defined().unwrap_or(own), to },
        _ => Fate::Copy,
    };
    Decision { fate, skip }
}

/// Weights that are stored as [in, out], as those of GPT-2's `Conv1D`: each has a bias as long as its rows. A square
/// one does not tell, so one that tells speaks for all that have a bias.
pub(super) fn transposed(sources: &[SourceTensor]) -> HashSet<&str> {
    let biases: HashMap<&str, u64> = sources
        .iter()
        .filter_map(|it| match *it.shape.as_slice() {
            [length] => Some((it.name.as_str().strip_suffix(".bias")?, length)),
            _ => None,
        })
        .collect();
    let mut with_bias = HashSet::new();
    let mut tells = false;
    for source in sources {
        let [rows, columns] = *source.shape.as_slice() else { continue };
        let module = source.name.as_str().strip_suffix(".weight");
        if let Some(&length) = module.and_then(|module| biases.get(module)) {
            let is_linear = structure::not_a_linear(source.name.as_str(), &source.shape).is_none();
            tells |= is_linear && length == columns && rows != columns;
            with_bias.insert(source.name.as_str());
        }
    }
    if tells { with_bias } else { HashSet::new() }
}

fn why_not_quantized(source: &SourceTensor, recipe: &Recipe, codec: &dyn Codec) -> Option<Skip> {
    let name = source.name.as_str();
    if let Some(rule) = recipe.family.and_then(|family| family.keeps(name)) {
        return Some(Skip::Family(rule.reason.clone()));
    }
    let of_client = || {
        let is_for_transformers = recipe.family.is_none() && codec.layout() == Layout::Bnb;
        is_for_transformers.then(|| subject::not_for_bitsandbytes(name)).flatten()
    };
    if let Some(rule) = structure::not_a_linear(name, &source.shape).or_else(of_client) {
        return Some(Skip::Rule(rule));
    }
    let columns = source.shape.last().copied().unwrap_or(0);
    codec.unfit(Float::of(source.dtype), columns).map(Skip::Unfit)
}

/// Refuses patterns that name nothing: a misspelt `--ignore` must not pass in silence.
pub(super) fn check_patterns(sources: &[SourceTensor], patterns: &[Pattern]) -> Result<()> {
    for pattern in patterns {
        if !sources.iter().any(|source| pattern.matches(source)) {
            let names = sources.iter().flat_map(|source| [source.name.module(), source.name.as_str()]);
            let nearest = names
                .map(|name| (strsim::normalized_damerau_levenshtein(name, &pattern.text), name))
                .filter(|(similarity, _)| *similarity > 0.6)
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .map(|(_, name)| name.to_owned());
            return Err(PlanError::IgnoreMatchesNothing { pattern: pattern.text.clone(), nearest }.into());
        }
    }
    Ok(())
}
