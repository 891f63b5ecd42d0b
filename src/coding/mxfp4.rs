//! MXFP4: 4-bit floats E2M1, 32 of which share a power of two. gpt-oss holds its experts so, turned round; compressed-tensors
//! (`mxfp4-pack-quantized`), ModelOpt and DeepSeek-V4 hold linears so.
//!
//! Source: transformers 5.23.0 (`integrations/mxfp4.py`, `finegrained_fp8.py`), compressed-tensors 0.20.0
//! (`mxfp4/base.py`). Carries out formats/schemes.md, "Decoding", `mxfp4`.

use super::packed::unpack_nibbles;
use super::{CodedWeight, Coding, Grid, Header, Headers, Step, weight_name};
use crate::error::CodesError;
use crate::kernels::Isa;
use crate::tensor::Dtype;

/// Values of a block of gpt-oss, in 16 bytes.
const BLOCK: u64 = 32;

/// What the codes are: a sign, two bits of exponent with bias 1, one of mantissa.
const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Two codes a byte.
#[derive(Debug)]
pub(super) struct Mxfp4;

impl Coding for Mxfp4 {
    fn name(&self) -> &'static str {
        "MXFP4"
    }

    fn arithmetic(&self) -> &'static str {
        "mxfp4"
    }

    fn find(&self, headers: &Headers<'_>, at: usize) -> Option<Result<CodedWeight, CodesError>> {
        let codes = headers.get(at);
        if !matches!(codes.dtype, Dtype::U8 | Dtype::I8) {
            return None;
        }
        for (blocks, scales) in [("_blocks", "_scales"), (".blocks", ".scales")] {
            if let Some(stem) = codes.name.strip_suffix(blocks)
                && let Some(place) = headers.place(&format!("{stem}{scales}"))
            {
                return Some(experts(headers, at, place, stem));
            }
        }
        let ends = [".weight_packed", ".weight"];
        let module = ends.into_iter().find_map(|end| codes.name.strip_suffix(end))?;
        let names = [".weight_scale", ".weight_scale_inv", ".scale"].map(|end| format!("{module}{end}"));
        let place = headers.first_of(names)?;
        let is_exponent = matches!(headers.get(place).dtype, Dtype::F8_E8M0 | Dtype::U8);
        is_exponent.then(|| linear(headers, at, place, module))
    }

    fn unpack(&self, _bits: u64, bytes: &[u8], skip: u64, codes: &mut [u8]) -> bool {
        unpack_nibbles(bytes, skip, codes, |nibble| nibble);
        true
    }

    fn decode(&self, _isa: Isa, codes: &[u8], step: Step, row: &mut [f32]) {
        let values = E2M1.map(|value| value * step.scale);
        for (code, value) in codes.iter().zip(row) {
            *value = values[usize::from(code & 15)];
        }
    }
}

/// The experts of gpt-oss: `[experts, out, blocks, 16]`, `[experts, in, out]` in its class.
fn experts(headers: &Headers<'_>, at: usize, place: usize, stem: &str) -> Result<CodedWeight, CodesError> {
    let (codes, scale) = (headers.get(at), headers.get(place));
    let wrong = |part: &Header<'_>, expected: &str| CodesError::PartShape {
        tensor: codes.name.to_owned(),
        part: part.name.to_owned(),
        shape: part.shape.to_vec(),
        expected: expected.to_owned(),
    };
    let [outer @ .., rows, blocks, bytes] = codes.shape else {
        return Err(wrong(&codes, "[experts, out, blocks, 16]"));
    };
    if bytes * 2 != BLOCK || outer.is_empty() {
        return Err(wrong(&codes, "[experts, out, blocks, 16]"));
    }
    if !matches!(scale.dtype, Dtype::U8 | Dtype::F8_E8M0) {
        let (tensor, part) = (codes.name.to_owned(), scale.name.to_owned());
        return Err(CodesError::PartType { tensor, part, dtype: scale.dtype });
    }
    if codes.shape.split_last().map(|(_, shape)| shape) != Some(scale.shape) {
        return Err(wrong(&scale, "one for each block"));
    }
    let columns = blocks.saturating_mul(BLOCK);
    let mut shape = outer.to_vec();
    shape.extend([*rows, columns]);
    let flat: Vec<u64> = outer.iter().copied().chain([*rows, blocks.saturating_mul(*bytes)]).collect();
    let grid = Grid::new(&Header { shape: &flat, ..codes }, (&shape, 4), &scale, headers.settings)?;
    let parts = vec![at, place];
    Ok(CodedWeight {
        coding: &Mxfp4,
        name: weight_name(stem.to_owned(), &codes)?,
        shape,
        rounded: None,
        beside: Vec::new(),
        parts,
        grid,
        is_transposed: true,
    })
}

/// A linear, two values a byte along its rows.
fn linear(headers: &Headers<'_>, at: usize, place: usize, module: &str) -> Result<CodedWeight, CodesError> {
    let (codes, scale) = (headers.get(at), headers.get(place));
    let mut shape = codes.shape.to_vec();
    if let Some(last) = shape.last_mut() {
        *last = last.saturating_mul(2);
    }
    let grid = Grid::new(&codes, (&shape, 4), &scale, headers.settings)?;
    let parts = vec![at, place];
    Ok(CodedWeight {
        coding: &Mxfp4,
        name: weight_name(format!("{module}.weight"), &codes)?,
        shape,
        rounded: None,
        beside: headers.beside(module, &parts),
        parts,
        grid,
        is_transposed: false,
    })
}
