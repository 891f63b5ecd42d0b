//! `bf16` and `fp16`: every floating tensor rounded to one type. Nothing is quantized.

use super::Entry;
use crate::tensor::Float;

pub(super) static BF16: Entry = Entry {
    name: "bf16",
    suffix: "bf16",
    alias: None,
    summary: "Every floating tensor as bfloat16",
    rest_of_family: Some(Float::BF16),
    rest: Some(Float::BF16),
    codec: None,
};

pub(super) static FP16: Entry = Entry {
    name: "fp16",
    suffix: "fp16",
    alias: None,
    summary: "Every floating tensor as IEEE half precision",
    rest_of_family: Some(Float::F16),
    rest: Some(Float::F16),
    codec: None,
};

/// The name in schemes.md of rounding to a type; widening to F32 or F64, which no scheme does, is rounding too.
pub(crate) fn arithmetic(to: Float) -> &'static str {
    match to {
        Float::F16 => "round-f16",
        Float::BF16 => "round-bf16",
        Float::F32 => "round-f32",
        Float::F64 => "round-f64",
    }
}
