//! Codes that are not read: known by name, with the way out, or known only to be codes.

use super::{Headers, module_of};
use crate::error::CodesError;
use crate::tensor::Dtype;

/// A way to store a weight as codes that is not read: what the code's name ends in and its types, and what else its module
/// then has.
struct Form {
    name: &'static str,
    code: &'static str,
    dtypes: &'static [Dtype],
    beside: &'static [&'static str],
    /// What to do instead.
    way_out: &'static str,
}

const ORIGINAL: &str = "convert from the original bf16 or fp16 checkpoint";
const WORDS: &[Dtype] = &[Dtype::I32, Dtype::U32];
const BYTES: &[Dtype] = &[Dtype::U8, Dtype::I8];
const SHORTS: &[Dtype] = &[Dtype::I16, Dtype::U16, Dtype::I32, Dtype::I64, Dtype::U8, Dtype::I8];

/// Sources: what mlx-lm, compressed-tensors, ModelOpt, bitsandbytes, GPTQModel, AutoAWQ, aqlm, QuIP#, exllamav2 and 3,
/// hqq, optimum-quanto and EETQ write.
const FORMS: [Form; 15] = [
    Form {
        name: "MLX",
        code: ".weight",
        dtypes: &[Dtype::U32],
        beside: &[".scales", ".biases"],
        way_out: "convert from the original checkpoint, or dequantize with mlx-lm's own converter first",
    },
    Form { name: "NVFP4", code: ".weight", dtypes: BYTES, beside: &[".weight_scale_2"], way_out: ORIGINAL },
    Form {
        name: "NVFP4",
        code: ".weight_packed",
        dtypes: BYTES,
        beside: &[".weight_global_scale"],
        way_out: ORIGINAL,
    },
    Form {
        name: "4-bit bitsandbytes",
        code: ".weight",
        dtypes: BYTES,
        beside: &[
            ".weight.quant_state.bitsandbytes__nf4",
            ".weight.quant_state.bitsandbytes__fp4",
            ".weight.quant_map",
            ".weight.absmax",
        ],
        way_out: "convert from the original checkpoint, or load it with transformers and save what `model.dequantize()` gives",
    },
    Form {
        name: "GPTQ or AWQ",
        code: ".qweight",
        dtypes: WORDS,
        beside: &[".scales", ".qzeros"],
        way_out: "convert from the original checkpoint, or dequantize with GPTQModel first",
    },
    Form { name: "AQLM", code: ".codes", dtypes: SHORTS, beside: &[".codebooks"], way_out: ORIGINAL },
    Form {
        name: "QuIP#",
        code: ".Qidxs",
        dtypes: SHORTS,
        beside: &[".SU", ".SV", ".codebook_id"],
        way_out: ORIGINAL,
    },
    Form {
        name: "EXL2",
        code: ".q_weight",
        dtypes: WORDS,
        beside: &[".q_scale", ".q_groups"],
        way_out: ORIGINAL,
    },
    Form {
        name: "EXL3",
        code: ".trellis",
        dtypes: SHORTS,
        beside: &[".svh", ".suh", ".su", ".sv"],
        way_out: ORIGINAL,
    },
    Form {
        name: "HQQ",
        code: ".W_q",
        dtypes: SHORTS,
        beside: &[".scale", ".zero", ".meta"],
        way_out: ORIGINAL,
    },
    Form {
        name: "Quanto",
        code: ".weight._data",
        dtypes: BYTES,
        beside: &[".weight._scale"],
        way_out: ORIGINAL,
    },
    Form { name: "EETQ", code: ".weight", dtypes: BYTES, beside: &[".weight_scales"], way_out: ORIGINAL },
    Form {
        name: "sparse (24) codes",
        code: ".weight_packed",
        dtypes: WORDS,
        beside: &[".meta", ".scale_packed"],
        way_out: ORIGINAL,
    },
    Form {
        name: "SmoothQuant with scaled inputs",
        code: ".weight",
        dtypes: &[Dtype::I8, Dtype::U8, Dtype::F8_E4M3],
        beside: &[".pre_quant_scale"],
        way_out: ORIGINAL,
    },
    Form { name: "VPTQ", code: ".indices", dtypes: SHORTS, beside: &[".centroids"], way_out: ORIGINAL },
];

/// The refusal of a tensor that holds codes of a form that is known and not read.
pub(super) fn refusal(headers: &Headers<'_>, at: usize) -> Option<CodesError> {
    let header = headers.get(at);
    FORMS.iter().find_map(|form| {
        let module = header.name.strip_suffix(form.code).filter(|_| form.dtypes.contains(&header.dtype))?;
        let companions = form.beside.iter().map(|end| format!("{module}{end}"));
        let beside = companions.into_iter().find(|name| headers.place(name).is_some())?;
        Some(CodesError::Unread {
            tensor: header.name.to_owned(),
            form: form.name,
            beside,
            way_out: form.way_out,
        })
    })
}

/// The last parts of names that hold codes, where they are integers.
const CODES: [&str; 10] = [
    "weight",
    "weight_packed",
    "qweight",
    "q_weight",
    "codes",
    "Qidxs",
    "trellis",
    "W_q",
    "_data",
    "packed_weight",
];

/// The refusal of a tensor that nothing is known of, and that is no float although a weight would be one.
pub(super) fn unknown(headers: &Headers<'_>, at: usize) -> Option<CodesError> {
    let header = headers.get(at);
    let unknown = || CodesError::Unknown { tensor: header.name.to_owned(), dtype: header.dtype };
    let last = header.name.rsplit('.').next().unwrap_or_default();
    match header.dtype {
        Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::BOOL | Dtype::C64 => None,
        Dtype::I8
        | Dtype::U8
        | Dtype::I16
        | Dtype::U16
        | Dtype::I32
        | Dtype::U32
        | Dtype::I64
        | Dtype::U64 => {
            let is_code = CODES.contains(&last) || last.ends_with("_blocks") || last.ends_with("_packed");
            (header.shape.len() > 1 && is_code).then(unknown)
        }
        // Types that no model computes in.
        _ if last.ends_with("scale") || last.ends_with("scale_inv") => {
            let module = module_of(header.name.rsplit_once('.').map_or("", |(module, _)| module));
            headers.place(&format!("{module}.weight")).is_none().then(unknown)
        }
        _ => Some(unknown()),
    }
}
