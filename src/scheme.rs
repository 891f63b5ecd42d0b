//! Schemes as numbers: what a scheme stores for a weight, under which names, in which types and sizes.
//!
//! A recipe's scheme says how the linears of a model are stored. The arithmetic itself is in `kernels` and
//! `convert`; the normative text is formats/schemes.md.

use serde::{Deserialize, Serialize};

use crate::tensor::Dtype;

/// Columns that share one scale in [`Scheme::W8A16`].
pub const GROUP_LEN: u64 = 128;

/// How the linears of a bundle are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scheme {
    /// Every floating tensor as bfloat16.
    #[serde(rename = "bf16")]
    Bf16,
    /// Every floating tensor as IEEE half precision.
    #[serde(rename = "fp16")]
    Fp16,
    /// bitsandbytes' LLM.int8 rows: codes, `SCB`, `weight_format`.
    #[serde(rename = "bnb-int8")]
    BnbInt8,
    /// compressed-tensors `int-quantized`, one scale a row, dynamic activations per token.
    #[serde(rename = "W8A8")]
    W8A8,
    /// compressed-tensors `pack-quantized`, one scale for [`GROUP_LEN`] columns, float activations.
    #[serde(rename = "W8A16")]
    W8A16,
}

/// The names under which clients know a quantized layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Layout {
    /// bitsandbytes: MGM's stack and transformers.
    Bnb,
    /// compressed-tensors: transformers 5 and vLLM.
    CompressedTensors,
}

impl Scheme {
    /// The scheme's name in plans, manifests and schemes.md.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Bf16 => "bf16",
            Scheme::Fp16 => "fp16",
            Scheme::BnbInt8 => "bnb-int8",
            Scheme::W8A8 => "W8A8",
            Scheme::W8A16 => "W8A16",
        }
    }

    /// The word that ends a bundle's default name.
    pub fn suffix(self) -> &'static str {
        match self {
            Scheme::Bf16 => "bf16",
            Scheme::Fp16 => "fp16",
            Scheme::BnbInt8 | Scheme::W8A8 => "int8",
            Scheme::W8A16 => "w8a16",
        }
    }

    /// The layout of the quantized schemes; `None` for casts.
    pub fn layout(self) -> Option<Layout> {
        match self {
            Scheme::Bf16 | Scheme::Fp16 => None,
            Scheme::BnbInt8 => Some(Layout::Bnb),
            Scheme::W8A8 | Scheme::W8A16 => Some(Layout::CompressedTensors),
        }
    }

    /// True if linears become integer codes.
    pub fn is_quantized(self) -> bool {
        self.layout().is_some()
    }

    /// Columns that share a scale: a whole row, or [`GROUP_LEN`].
    pub fn group_len(self, columns: u64) -> u64 {
        if self == Scheme::W8A16 { GROUP_LEN } else { columns }
    }

    /// What is stored in place of `<module>.weight` of `[rows, columns]` in `dtype`, in this order.
    ///
    /// Sizes in elements; the codes of [`Scheme::W8A16`] are words of four codes.
    pub fn parts(self, dtype: Dtype, rows: u64, columns: u64) -> Vec<Part> {
        let codes =
            Part { suffix: "weight", kind: PartKind::Codes, dtype: Dtype::I8, shape: vec![rows, columns] };
        match self {
            Scheme::Bf16 | Scheme::Fp16 => Vec::new(),
            Scheme::BnbInt8 => vec![
                codes,
                Part { suffix: "SCB", kind: PartKind::Scales, dtype: Dtype::F32, shape: vec![rows] },
                Part { suffix: "weight_format", kind: PartKind::Format, dtype: Dtype::U8, shape: vec![] },
            ],
            Scheme::W8A8 => vec![
                codes,
                Part { suffix: "weight_scale", kind: PartKind::Scales, dtype, shape: vec![rows, 1] },
            ],
            Scheme::W8A16 => vec![
                Part {
                    suffix: "weight_packed",
                    kind: PartKind::Codes,
                    dtype: Dtype::I32,
                    shape: vec![rows, columns.div_ceil(4)],
                },
                Part {
                    suffix: "weight_scale",
                    kind: PartKind::Scales,
                    dtype,
                    shape: vec![rows, columns.div_ceil(GROUP_LEN)],
                },
                Part { suffix: "weight_shape", kind: PartKind::Shape, dtype: Dtype::I64, shape: vec![2] },
            ],
        }
    }
}

/// One tensor stored for a quantized weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Takes the place of `weight` in the tensor's name.
    pub suffix: &'static str,
    /// What it holds.
    pub kind: PartKind,
    /// Element type.
    pub dtype: Dtype,
    /// Shape in elements.
    pub shape: Vec<u64>,
}

/// What a stored tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// The values themselves, copied or cast.
    Values,
    /// Integer codes of a quantized weight.
    Codes,
    /// The scales of a quantized weight.
    Scales,
    /// bitsandbytes' row-format marker, the byte 0.
    Format,
    /// compressed-tensors' original shape of a packed weight.
    Shape,
}

/// What happens to a finite value that the output type cannot hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum OnOverflow {
    /// Stop and name the tensor
    #[default]
    Error,
    /// Take the largest finite value
    Clamp,
    /// Take infinity (not for quantized tensors)
    Inf,
}
