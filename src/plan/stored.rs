//! Whether a checkpoint's weights are codes, judged by the tensors: names, types and what lies beside them.
//!
//! A key in config.json may be stale or missing; a code without its scale is no weight whatever a key says. Pure.

use std::collections::HashSet;

use crate::checkpoint::SourceTensor;
use crate::error::PlanError;
use crate::tensor::Dtype;

/// A way to store a weight as codes: what the code's name ends in and its types, and what else its module then has.
struct Form {
    name: &'static str,
    code: &'static str,
    dtypes: &'static [Dtype],
    beside: &'static [&'static str],
}

const FP8: &[Dtype] = &[Dtype::F8_E4M3, Dtype::F8_E5M2, Dtype::U8];
const WORDS: &[Dtype] = &[Dtype::I32, Dtype::U32];

/// The forms, the ones that others look like first. Sources: what mlx-lm, compressed-tensors, ModelOpt, transformers,
/// bitsandbytes, GPTQModel and AutoAWQ write.
const FORMS: [Form; 12] = [
    Form { name: "MLX", code: ".weight", dtypes: &[Dtype::U32], beside: &[".scales"] },
    Form { name: "NVFP4", code: ".weight", dtypes: &[Dtype::U8], beside: &[".weight_scale_2"] },
    Form { name: "NVFP4", code: ".weight_packed", dtypes: &[Dtype::U8], beside: &[".weight_global_scale"] },
    Form {
        name: "4-bit bitsandbytes",
        code: ".weight",
        dtypes: &[Dtype::U8],
        beside: &[".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4"],
    },
    Form { name: "8-bit bitsandbytes", code: ".weight", dtypes: &[Dtype::I8], beside: &[".SCB"] },
    Form {
        name: "FP8",
        code: ".weight",
        dtypes: FP8,
        beside: &[".weight_scale_inv", ".weight_scale", ".scale"],
    },
    Form { name: "int8", code: ".weight", dtypes: &[Dtype::I8], beside: &[".weight_scale"] },
    Form { name: "packed integers", code: ".weight_packed", dtypes: WORDS, beside: &[".weight_scale"] },
    Form { name: "packed floats", code: ".weight_packed", dtypes: &[Dtype::U8], beside: &[".weight_scale"] },
    Form { name: "GPTQ or AWQ", code: ".qweight", dtypes: WORDS, beside: &[".scales"] },
    Form { name: "MXFP4", code: "_blocks", dtypes: &[Dtype::U8], beside: &["_scales"] },
    Form { name: "MXFP4", code: ".blocks", dtypes: &[Dtype::U8], beside: &[".scales"] },
];

/// The refusal of the first weight that is codes.
pub(super) fn codes(sources: &[SourceTensor]) -> Option<PlanError> {
    let names: HashSet<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    let found = |source: &SourceTensor, form: &Form| {
        let module = source.name.as_str().strip_suffix(form.code)?;
        let companions = || form.beside.iter().map(|end| format!("{module}{end}"));
        let beside = companions().find(|name| names.contains(name.as_str()))?;
        form.dtypes.contains(&source.dtype).then(|| PlanError::Codes {
            form: form.name,
            tensor: source.name.to_string(),
            beside,
        })
    };
    sources.iter().find_map(|source| FORMS.iter().find_map(|form| found(source, form)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::TensorName;

    fn form_of(tensors: &[(&str, Dtype)]) -> Option<&'static str> {
        let source = |(name, dtype): &(&str, Dtype)| SourceTensor {
            name: TensorName::new(*name).unwrap(),
            dtype: *dtype,
            shape: vec![8, 8],
            file: 0,
            offset: 0,
            byte_len: 0,
            view: None,
        };
        let sources: Vec<SourceTensor> = tensors.iter().map(source).collect();
        codes(&sources).map(|error| match error {
            PlanError::Codes { form, .. } => form,
            other => panic!("{other:?}"),
        })
    }

    /// Names and types as the programs write them.
    #[test]
    fn codes_are_known_by_their_type_and_what_is_beside_them() {
        use Dtype::{BF16, F8_E4M3, F32, I8, I32, U8, U32};
        for (form, tensors) in [
            ("MLX", vec![("l.q.weight", U32), ("l.q.scales", BF16), ("l.q.biases", BF16)]),
            ("NVFP4", vec![("l.q.weight", U8), ("l.q.weight_scale", F8_E4M3), ("l.q.weight_scale_2", F32)]),
            (
                "NVFP4",
                vec![("q.weight_packed", U8), ("q.weight_scale", F8_E4M3), ("q.weight_global_scale", F32)],
            ),
            (
                "4-bit bitsandbytes",
                vec![
                    ("q.weight", U8),
                    ("q.weight.absmax", F32),
                    ("q.weight.quant_state.bitsandbytes__nf4", U8),
                ],
            ),
            ("8-bit bitsandbytes", vec![("q.weight", I8), ("q.SCB", F32)]),
            ("FP8", vec![("q.weight", F8_E4M3), ("q.weight_scale_inv", F32)]),
            ("FP8", vec![("q.weight", F8_E4M3), ("q.scale", U8)]),
            ("int8", vec![("q.weight", I8), ("q.weight_scale", BF16)]),
            ("packed integers", vec![("q.weight_packed", I32), ("q.weight_scale", BF16)]),
            ("GPTQ or AWQ", vec![("q.qweight", I32), ("q.qzeros", I32), ("q.scales", BF16)]),
            ("MXFP4", vec![("experts.gate_up_proj_blocks", U8), ("experts.gate_up_proj_scales", U8)]),
        ] {
            assert_eq!(form_of(&tensors), Some(form), "{tensors:?}");
        }
        for floats in [
            vec![("q.weight", BF16), ("q.scale", BF16)],
            vec![("q.weight", BF16), ("q.weight_scale_inv", F32)],
            vec![("q.weight", F8_E4M3)],
            vec![("mask.weight", U8), ("other.weight_scale_2", F32)],
        ] {
            assert_eq!(form_of(&floats), None, "{floats:?}");
        }
    }
}
