//! int8: signed bytes with one scale for a tensor, a row, a group or a block, and perhaps zero points: compressed-tensors'
//! `int-quantized` and `naive-quantized`.
//!
//! Source: compressed-tensors 0.20.0 (`naive_quantized/base.py`). Carries out formats/schemes.md, "Decoding", `int-scaled`.

use super::{CodedWeight, Coding, Grid, Headers, Step, ZeroPoints, module_of, weight_name};
use crate::error::CodesError;
use crate::kernels::Isa;
use crate::tensor::{Dtype, Float};

/// Signed bytes.
#[derive(Debug)]
pub(super) struct Int8;

impl Coding for Int8 {
    fn name(&self) -> &'static str {
        "int8"
    }

    fn arithmetic(&self) -> &'static str {
        "int-scaled"
    }

    fn find(&self, headers: &Headers<'_>, at: usize) -> Option<Result<CodedWeight, CodesError>> {
        let codes = headers.get(at);
        if codes.dtype != Dtype::I8 {
            return None;
        }
        let place = headers.place(&format!("{}_scale", codes.name))?;
        Some(self.weight(headers, at, place))
    }

    fn decode(&self, isa: Isa, codes: &[u8], step: Step, row: &mut [f32]) {
        decode(isa, codes, step, row);
    }
}

impl Int8 {
    fn weight(&self, headers: &Headers<'_>, at: usize, place: usize) -> Result<CodedWeight, CodesError> {
        let (codes, scale) = (headers.get(at), headers.get(place));
        let mut parts = vec![at, place];
        let mut grid = Grid::of_bytes(&codes, &scale, headers.settings)?;
        let zero = format!("{}_zero_point", codes.name);
        match headers.place(&zero) {
            Some(zero) => {
                let header = headers.get(zero);
                if header.dtype != Dtype::I8 {
                    let (tensor, part) = (codes.name.to_owned(), header.name.to_owned());
                    return Err(CodesError::PartType { tensor, part, dtype: header.dtype });
                }
                if header.shape != scale.shape {
                    return Err(CodesError::PartShape {
                        tensor: codes.name.to_owned(),
                        part: header.name.to_owned(),
                        shape: header.shape.to_vec(),
                        expected: format!("{:?}, as its scales", scale.shape),
                    });
                }
                parts.push(zero);
                grid.zero = Some(ZeroPoints::Bytes);
            }
            None if headers.settings.has_zero_points(8) => {
                let (tensor, codes) = (codes.name.to_owned(), "int8 with zero points");
                return Err(CodesError::MissingPart { tensor, codes, part: zero });
            }
            None => {}
        }
        Ok(CodedWeight {
            coding: &Int8,
            name: weight_name(codes.name.to_owned(), &codes)?,
            shape: codes.shape.to_vec(),
            rounded: rounded(scale.dtype),
            beside: headers.beside(module_of(codes.name), &parts),
            parts,
            grid,
            is_transposed: false,
        })
    }
}

/// compressed-tensors computes in the type of the scales; binary32 is then rounded to the model's.
pub(super) fn rounded(scales: Dtype) -> Option<Float> {
    Float::of(scales).filter(|float| matches!(float, Float::F16 | Float::BF16))
}

/// (code - zero point) × scale.
pub(super) fn decode(isa: Isa, codes: &[u8], step: Step, row: &mut [f32]) {
    if step.zero == 0.0 {
        return isa.decode(codes, step.scale, row);
    }
    for (code, value) in codes.iter().zip(row) {
        *value = (f32::from(code.cast_signed()) - step.zero) * step.scale;
    }
}
