//! Words for tensors: names, element types, shapes and sizes.
//!
//! Owns what every layer says about a tensor and nothing about where its bytes lie. The element types are
//! those of the safetensors format; their names in JSON are that format's own (`"BF16"`, `"I8"`, …).

use std::fmt;

use serde::{Deserialize, Serialize};

pub use safetensors::Dtype;

/// Longest tensor name accepted, in bytes. Real names stay below 200; the limit keeps error texts readable.
pub const MAX_NAME_LEN: usize = 1024;

/// Most dimensions accepted. Model weights have at most five (3-D convolutions).
pub const MAX_RANK: usize = 8;

/// Largest single dimension accepted when another dimension is zero (then no product bounds it).
pub const MAX_DIM: u64 = 1 << 48;

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

/// Bytes that `shape` takes at `dtype`; `None` on overflow, on a dimension above [`MAX_DIM`], or where the
/// bits do not fill whole bytes. A zero dimension gives 0 wherever it stands.
pub fn byte_len(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    if shape.iter().any(|&dim| dim > MAX_DIM) {
        return None;
    }
    let elements = element_count(shape)?;
    let bits = elements.checked_mul(dtype.bitsize() as u64)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// Product of the dimensions (1 for a 0-d tensor); `None` on overflow. Zero if any dimension is zero.
pub fn element_count(shape: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))
}

/// Bytes of one element, for types of whole bytes; `None` for the packed 4- and 6-bit types.
pub fn element_len(dtype: Dtype) -> Option<u64> {
    let bits = dtype.bitsize() as u64;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// True for the floating types mgpack casts and quantizes: F64, F32, F16 and BF16.
pub fn is_castable(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}
