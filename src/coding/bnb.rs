//! int8 as bitsandbytes serializes it: signed bytes with the largest magnitude of each row, `SCB`.
//!
//! Source: bitsandbytes 0.50.2 (`int8_vectorwise_dequant`), which transformers' `dequantize` calls. Carries out
//! formats/schemes.md, "Decoding", `int8-scb`.

use super::{CodedWeight, Coding, Grid, Headers, Step, weight_name};
use crate::error::CodesError;
use crate::kernels::Isa;
use crate::tensor::Dtype;

/// 1 / 127 as bitsandbytes has it: 7.874015718698502e-3, as binary32.
const PART: f32 = 0.007_874_016;

/// Rows of signed bytes.
#[derive(Debug)]
pub(super) struct Bnb;

impl Coding for Bnb {
    fn name(&self) -> &'static str {
        "8-bit bitsandbytes"
    }

    fn arithmetic(&self) -> &'static str {
        "int8-scb"
    }

    fn find(&self, headers: &Headers<'_>, at: usize) -> Option<Result<CodedWeight, CodesError>> {
        let codes = headers.get(at);
        let module = codes.name.strip_suffix(".weight").filter(|_| codes.dtype == Dtype::I8)?;
        let place = headers.place(&format!("{module}.SCB"))?;
        let scale = headers.get(place);
        let weight = || {
            if codes.shape.len() != 2 || scale.shape.iter().product::<u64>() != codes.shape[0] {
                return Err(CodesError::PartShape {
                    tensor: codes.name.to_owned(),
                    part: scale.name.to_owned(),
                    shape: scale.shape.to_vec(),
                    expected: "one for each row of a matrix".to_owned(),
                });
            }
            let parts = vec![at, place];
            Ok(CodedWeight {
                coding: &Bnb,
                name: weight_name(codes.name.to_owned(), &codes)?,
                shape: codes.shape.to_vec(),
                rounded: None,
                beside: headers.beside(module, &parts),
                parts,
                grid: Grid::of_bytes(&codes, &scale, headers.settings)?,
                is_transposed: false,
            })
        };
        Some(weight())
    }

    fn decode(&self, isa: Isa, codes: &[u8], step: Step, row: &mut [f32]) {
        isa.decode(codes, step.scale, row);
        row.iter_mut().for_each(|value| *value *= PART);
    }
}
