//! FP8: 8-bit floats with one scale for a tensor, a row, a group or a block, as DeepSeek, compressed-tensors, ModelOpt and others
//! write them.
//!
//! Source: compressed-tensors 0.20.0 (`fp8block_dequantizer.py`, `naive_quantized/base.py`) and transformers 5.23.0
//! (`finegrained_fp8.py`). Carries out formats/schemes.md, "Decoding", `fp8-scaled`.

use half::f16;

use super::{CodedWeight, Coding, Grid, Header, Headers, Step, module_of, weight_name};
use crate::error::CodesError;
use crate::kernels::Isa;
use crate::tensor::{Dtype, Float};

/// E4M3 codes.
#[derive(Debug)]
pub(super) struct Fp8;

/// E5M2 codes: the upper byte of half precision.
#[derive(Debug)]
struct Fp8E5M2;

impl Coding for Fp8 {
    fn name(&self) -> &'static str {
        "FP8"
    }

    fn arithmetic(&self) -> &'static str {
        "fp8-scaled"
    }

    fn find(&self, headers: &Headers<'_>, at: usize) -> Option<Result<CodedWeight, CodesError>> {
        let codes = headers.get(at);
        let coding: &'static dyn Coding = match codes.dtype {
            Dtype::F8_E4M3 => &Fp8,
            Dtype::F8_E5M2 => &Fp8E5M2,
            _ => return None,
        };
        // Scales of this type are those of NVFP4, which is refused, and are no weights.
        if codes.name.ends_with("_scale") {
            return None;
        }
        Some(weight(coding, headers, at, &codes))
    }

    fn decode(&self, isa: Isa, codes: &[u8], step: Step, row: &mut [f32]) {
        isa.decode_e4m3(codes, step.scale, row);
    }
}

impl Coding for Fp8E5M2 {
    fn name(&self) -> &'static str {
        Fp8.name()
    }

    fn arithmetic(&self) -> &'static str {
        Fp8.arithmetic()
    }

    fn find(&self, headers: &Headers<'_>, at: usize) -> Option<Result<CodedWeight, CodesError>> {
        Fp8.find(headers, at)
    }

    fn decode(&self, _isa: Isa, codes: &[u8], step: Step, row: &mut [f32]) {
        for (code, value) in codes.iter().zip(row) {
            *value = f16::from_bits(u16::from(*code) << 8).to_f32_const() * step.scale;
        }
    }
}

fn weight(
    coding: &'static dyn Coding,
    headers: &Headers<'_>,
    at: usize,
    codes: &Header<'_>,
) -> Result<CodedWeight, CodesError> {
    let (name, module) = (codes.name, module_of(codes.name));
    let scale = headers.first_of([
        format!("{name}_scale_inv"),
        format!("{name}_scale"),
        format!("{module}.scale"),
        format!("{name}_weight_scale"),
        format!("{module}.scale_weight"),
    ]);
    let missing = || CodesError::MissingPart {
        tensor: name.to_owned(),
        codes: "FP8",
        part: format!("{name}_scale_inv` or `{name}_scale"),
    };
    let place = scale.ok_or_else(missing)?;
    let scale = headers.get(place);
    let grid = Grid::of_bytes(codes, &scale, headers.settings)?;
    // compressed-tensors computes in the type of `weight_scale`, the readers of other names in binary32.
    let rounded = match Float::of(scale.dtype) {
        Some(float @ (Float::F16 | Float::BF16)) if scale.name == format!("{name}_scale") => Some(float),
        _ => None,
    };
    let parts = vec![at, place];
    Ok(CodedWeight {
        coding,
        name: weight_name(name.to_owned(), codes)?,
        shape: codes.shape.to_vec(),
        rounded,
        beside: headers.beside(module, &parts),
        parts,
        grid,
        is_transposed: false,
    })
}
