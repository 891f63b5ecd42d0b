//! What the schemes of compressed-tensors have in common: the rule of the step, and the form of their configuration.
//!
//! Source: compressed-tensors 0.20.0, `quantization/utils/helpers.py` and `quantization/lifecycle/forward.py`, as
//! llm-compressor's `model_free_ptq` runs them on a CPU.

use serde_json::{Value, json};

use super::{OnOverflow, Overflow, Package, Run, Scale, Unfit};
use crate::tensor::Float;

/// Why a weight of that type is not quantized: F64 is none of torch's types for models.
pub(super) fn unfit(float: Option<Float>) -> Option<Unfit> {
    match float {
        Some(Float::F32 | Float::F16 | Float::BF16) => None,
        Some(Float::F64) | None => Some(Unfit::Dtype),
    }
}

/// The step of a tile: its magnitude over half the range of the codes, in the weight's own type; that type's epsilon
/// where this is 0.
pub(super) fn scale(float: Float, magnitude: f32, half_range: f32) -> Scale {
    let step = float.round(magnitude / half_range);
    let epsilon = match float {
        Float::BF16 => 0.007_812_5,
        Float::F16 => 0.000_976_562_5,
        Float::F32 | Float::F64 => f32::EPSILON,
    };
    let step = if step == 0.0 { epsilon } else { step };
    Scale { magnitude, step, stored: step }
}

/// Deals with the codes that clients decode to infinity: those of the largest magnitude, where the step was rounded up.
/// Counts them, puts the next smaller code in their place, or names the first, as the policy is.
///
/// `name`: what the codes are, in errors. `smaller`: what takes the place of a code of the largest magnitude; `None` for any other.
pub(super) fn largest_codes(
    run: &Run<'_>,
    codes: &mut [u8],
    name: &str,
    smaller: impl Fn(u8) -> Option<u8>,
) -> Result<u64, Overflow> {
    let mut count = 0;
    for (index, (code, value)) in codes.iter_mut().zip(run.row).enumerate() {
        let Some(smaller) = smaller(*code) else { continue };
        match run.on_overflow {
            OnOverflow::Error => {
                let into = format!("{name} of {}", run.float.word());
                return Err(Overflow { index, value: *value, into });
            }
            OnOverflow::Clamp => *code = smaller,
            OnOverflow::Inf => {}
        }
        count += 1;
    }
    Ok(count)
}

/// `quantization_config` as compressed-tensors 0.20 writes it. `name`: of the group; `skip`: modules that stay float.
pub(super) fn config(
    name: &str,
    format: &str,
    weights: &Value,
    activations: &Value,
    skip: &[String],
) -> Value {
    json!({
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "ignore": skip,
        "kv_cache_scheme": null,
        "config_groups": { name: {
            "format": format,
            "targets": ["Linear"],
            "weights": weights,
            "input_activations": activations,
            "output_activations": null,
        }},
    })
}

/// The package, and what it reads of a scheme.
pub(super) fn package(reason: &'static str) -> Package {
    Package { name: "compressed-tensors", pin: "0.20.0", range: ">=0.20.0", reason }
}
