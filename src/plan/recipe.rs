//! The recipe: what to make of a checkpoint, from the user's wish and the family's rules.

use super::fate::Pattern;
use crate::error::{PlanError, Result};
use crate::family::Family;
use crate::scheme::{Layout, Scheme};
use crate::tensor::Float;

/// How the user wants the weights stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// `--bf16`.
    Bf16,
    /// `--fp16`.
    Fp16,
    /// `--int8`: the layout decides the scheme.
    Int8,
    /// `--scheme`.
    Scheme(Scheme),
}

impl Precision {
    /// Those that have a word of their own; presets have their names.
    const PLAIN: [(&str, Self); 3] = [("int8", Self::Int8), ("fp16", Self::Fp16), ("bf16", Self::Bf16)];

    /// The one of that name: `int8`, `fp16`, `bf16` or a preset of compressed-tensors.
    pub fn named(word: &str) -> Option<Self> {
        let plain = Self::PLAIN.into_iter().find(|(name, _)| *name == word).map(|(_, precision)| precision);
        plain.or_else(|| Scheme::presets().find(|preset| preset.name() == word).map(Self::Scheme))
    }

    /// Every name.
    pub fn words() -> Vec<&'static str> {
        Self::PLAIN.into_iter().map(|(name, _)| name).chain(Scheme::presets().map(Scheme::name)).collect()
    }
}

/// How the weights of a checkpoint are to be stored, as the user says it.
#[derive(Clone, Debug)]
pub struct WeightOptions {
    /// `--int8`, `--fp16`, …
    pub precision: Precision,
    /// `--format`; `None` is the one that goes with the model.
    pub layout: Option<Layout>,
    /// `--ignore`.
    pub ignore: Vec<String>,
}

impl Default for WeightOptions {
    /// int8, in the layout that goes with the model.
    fn default() -> Self {
        Self { precision: Precision::Int8, layout: None, ignore: Vec::new() }
    }
}

/// What to make of a checkpoint: the user's choices, resolved against the family.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// How linears are stored, or the type all floating tensors are cast to.
    pub scheme: Scheme,
    /// Names left as they are.
    pub ignore: Vec<Pattern>,
    /// The family, whose rules say what is never quantized; `None` for generic checkpoints.
    pub family: Option<&'static Family>,
    /// The type that floating tensors are cast to when they are not quantized; `None` keeps each one's own.
    pub rest: Option<Float>,
    /// Payload bytes after which a new shard begins. A single larger tensor has a shard of its own.
    pub max_shard_len: u64,
    /// True where MGM's loader re-reads shards: `vlm_uni_*` and tower tensors then share one shard.
    pub together: bool,
}

/// Largest shard by default: 2 GiB of payload.
pub const DEFAULT_MAX_SHARD_LEN: u64 = 2 << 30;

impl Recipe {
    /// Resolves options.
    ///
    /// # Errors
    /// [`PlanError::SchemeInLayout`], [`PlanError::LayoutForFamily`], [`PlanError::BadPattern`].
    pub fn choose(
        options: &WeightOptions,
        max_shard_len: u64,
        family: Option<&'static Family>,
    ) -> Result<Self> {
        let scheme = choose_scheme(options.precision, options.layout, family)?;
        let rest = scheme.rest(family.is_some());
        let ignore = options.ignore.iter().map(|text| Pattern::new(text)).collect::<Result<_>>()?;
        Ok(Self { scheme, ignore, family, rest, max_shard_len, together: family.is_some() })
    }
}

fn choose_scheme(precision: Precision, layout: Option<Layout>, family: Option<&Family>) -> Result<Scheme> {
    let default_layout = if family.is_some() { Layout::Bnb } else { Layout::CompressedTensors };
    let scheme = match precision {
        Precision::Bf16 => Scheme::BF16,
        Precision::Fp16 => Scheme::FP16,
        Precision::Scheme(scheme) => scheme,
        Precision::Int8 => layout.unwrap_or(default_layout).int8(),
    };
    if layout.is_some_and(|layout| scheme.layout().is_some_and(|of_scheme| of_scheme != layout)) {
        return Err(PlanError::SchemeInLayout { scheme: scheme.name() }.into());
    }
    match family {
        Some(family) if scheme.layout() == Some(Layout::CompressedTensors) => {
            Err(PlanError::LayoutForFamily { family: family.name.to_string() }.into())
        }
        _ => Ok(scheme),
    }
}
