//! Words for tensors: names, element types, shapes and sizes.
//!
//! Owns what every layer says about a tensor and nothing about where its bytes lie. The element types are
//! those of the safetensors format; their names in JSON are that format's own (`"BF16"`, `"I8"`, …).

use std::fmt;

use serde::{Deserialize, Serialize};

pub use safetensors::Dtype;

/// Longest tensor name accepted, in bytes. Real names stay below 200; the limit keeps error texts readable.
pub(crate) const MAX_NAME_LEN: usize = 1024;

/// Most dimensions accepted. Model weights have at most five (3-D convolutions).
pub(crate) const MAX_RANK: usize = 8;

/// Largest single dimension accepted when another dimension is zero (then no product bounds it).
pub(crate) const MAX_DIM: u64 = 1 << 48;

/// The name of a tensor: not empty, no control characters, at most [`MAX_NAME_LEN`] bytes.
///
/// A name is bytes, never a path: two Unicode normal forms of one word are two names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TensorName(String);

impl TensorName {
    /// Checks a name. `None` where it is empty, too long, or holds a control character.
    pub fn new(name: impl Into<String>) -> Option<Self> {
        let name = name.into();
        let good = !name.is_empty() && name.len() <= MAX_NAME_LEN && !name.chars().any(char::is_control);
        good.then_some(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The module the tensor belongs to: the name without its last component (`""` at the root).
    pub fn module(&self) -> &str {
        self.0.rsplit_once('.').map_or("", |(module, _)| module)
    }
}

impl fmt::Display for TensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl TryFrom<String> for TensorName {
    type Error = &'static str;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(name).ok_or("a tensor name is empty, too long, or holds a control character")
    }
}

impl From<TensorName> for String {
    fn from(name: TensorName) -> Self {
        name.0
    }
}

/// Bytes that `shape` takes at `dtype`; `None` on overflow, on a dimension above `MAX_DIM`, or where the
/// bits do not fill whole bytes. A zero dimension gives 0 wherever it is.
pub fn byte_len(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    if shape.iter().any(|&dim| dim > MAX_DIM) {
        return None;
    }
    let elements = element_count(shape)?;
    let bits = elements.checked_mul(dtype.bitsize() as u64)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// Product of the dimensions (1 for a 0-d tensor); `None` on overflow. Zero if any dimension is zero.
pub(crate) fn element_count(shape: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))
}

/// Bytes of one element, for types of whole bytes; `None` for the packed 4- and 6-bit types.
pub(crate) fn element_len(dtype: Dtype) -> Option<u64> {
    let bits = dtype.bitsize() as u64;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// The floating types that mgpack casts and quantizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of binary32.
    BF16,
}

impl Float {
    /// The float type of these elements; `None` for integers, 8-bit floats and other types that are copied.
    pub fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F64 => Some(Float::F64),
            Dtype::F32 => Some(Float::F32),
            Dtype::F16 => Some(Float::F16),
            Dtype::BF16 => Some(Float::BF16),
            _ => None,
        }
    }

    /// The type in the words of safetensors.
    pub fn dtype(self) -> Dtype {
        match self {
            Float::F64 => Dtype::F64,
            Float::F32 => Dtype::F32,
            Float::F16 => Dtype::F16,
            Float::BF16 => Dtype::BF16,
        }
    }

    /// Bytes of one element.
    pub fn byte_len(self) -> usize {
        match self {
            Float::F64 => 8,
            Float::F32 => 4,
            Float::F16 | Float::BF16 => 2,
        }
    }

    /// The word for it in options and messages: `fp16`, `bf16`, `float32`, `float64`.
    pub fn word(self) -> &'static str {
        match self {
            Float::F64 => "float64",
            Float::F32 => "float32",
            Float::F16 => "fp16",
            Float::BF16 => "bf16",
        }
    }

    /// The name in torch and in a config.json: `bfloat16`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Float::F64 => "float64",
            Float::F32 => "float32",
            Float::F16 => "float16",
            Float::BF16 => "bfloat16",
        }
    }

    /// Magnitudes, as binary32, from here on round to infinity: half a step beyond the largest finite value.
    /// Infinite for F32 and F64.
    pub fn overflow(self) -> f32 {
        match self {
            Float::F64 | Float::F32 => f32::INFINITY,
            Float::F16 => 65520.0,
            Float::BF16 => f32::from_bits(0x7f7f_8000),
        }
    }

    /// The largest finite value, as binary32; of F64 the largest of binary32.
    pub fn largest(self) -> f32 {
        match self {
            Float::F64 | Float::F32 => f32::MAX,
            Float::F16 => 65504.0,
            Float::BF16 => f32::from_bits(0x7f7f_0000),
        }
    }

    /// Rounds to the type, ties to even, and back to binary32. F64 is rounded to binary32.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Float::F64 | Float::F32 => value,
            Float::F16 => half::f16::from_f32_const(value).to_f32_const(),
            Float::BF16 => half::bf16::from_f32(value).to_f32(),
        }
    }

    /// Appends a value in this type, rounded to nearest even, little-endian.
    pub fn write(self, value: f32, out: &mut Vec<u8>) {
        match self {
            Float::F64 => out.extend(f64::from(value).to_le_bytes()),
            Float::F32 => out.extend(value.to_le_bytes()),
            Float::F16 => out.extend(half::f16::from_f32_const(value).to_le_bytes()),
            Float::BF16 => out.extend(half::bf16::from_f32(value).to_le_bytes()),
        }
    }
}
