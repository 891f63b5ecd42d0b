//! Packed integers: compressed-tensors' `pack-quantized`, codes of 1 to 8 bits in words of 32, as Kimi K2.5 has its experts.
//!
//! Source: compressed-tensors 0.20.0 (`pack_quantized/`). Carries out formats/schemes.md, "Decoding", `int-scaled`.

use super::int8::{self, rounded};
use super::{CodedWeight, Coding, Grid, Header, Headers, Step, ZeroPoints, weight_name};
use crate::error::CodesError;
use crate::kernels::Isa;
use crate::tensor::Dtype;

/// Words of codes, each raised by half of their range.
#[derive(Debug)]
pub(super) struct Packed;

impl Coding for Packed {
    fn name(&self) -> &'static str {
        "packed integers"
    }

    fn arithmetic(&self) -> &'static str {
        "int-scaled"
    }

    fn find(&self, headers: &Headers<'_>, at: usize) -> Option<Result<CodedWeight, CodesError>> {
        let codes = headers.get(at);
        let module = codes.name.strip_suffix(".weight_packed")?;
        matches!(codes.dtype, Dtype::I32 | Dtype::U32).then(|| self.weight(headers, at, &codes, module))
    }

    fn unpack(&self, bits: u64, bytes: &[u8], skip: u64, codes: &mut [u8]) -> bool {
        match bits {
            8 => {
                let bytes = bytes.get((skip / 8) as usize..).unwrap_or_default();
                codes.iter_mut().zip(bytes).for_each(|(code, byte)| *code = byte ^ 0x80);
            }
            4 => unpack_nibbles(bytes, skip, codes, |nibble| nibble.wrapping_sub(8)),
            bits => {
                let half = 1u16 << bits >> 1;
                for (code, at) in codes.iter_mut().zip((skip..).step_by(bits as usize)) {
                    let byte = |at: u64| u16::from(bytes.get(at as usize).copied().unwrap_or(0));
                    let both = byte(at / 8) | byte(at / 8 + 1) << 8;
                    *code = ((both >> (at % 8)) & ((1 << bits) - 1)).wrapping_sub(half) as u8;
                }
            }
        }
        true
    }

    fn decode(&self, isa: Isa, codes: &[u8], step: Step, row: &mut [f32]) {
        int8::decode(isa, codes, step, row);
    }
}

/// Codes of four bits, the lower half of a byte first.
pub(super) fn unpack_nibbles(bytes: &[u8], skip: u64, codes: &mut [u8], code_of: impl Fn(u8) -> u8) {
    let mut bytes = bytes.get((skip / 8) as usize..).unwrap_or_default();
    // A row begins within a byte only where its first code was the lower half.
    let (half, codes) = codes.split_at_mut(usize::from(skip % 8 == 4).min(codes.len()));
    if let ([code], [first, rest @ ..]) = (half, bytes) {
        *code = code_of(first >> 4);
        bytes = rest;
    }
    let (pairs, last) = codes.as_chunks_mut::<2>();
    for ([low, high], byte) in pairs.iter_mut().zip(bytes) {
        (*low, *high) = (code_of(byte & 15), code_of(byte >> 4));
    }
    if let ([code], Some(byte)) = (last, bytes.get(pairs.len())) {
        *code = code_of(byte & 15);
    }
}

impl Packed {
    fn weight(
        &self,
        headers: &Headers<'_>,
        at: usize,
        codes: &Header<'_>,
        module: &str,
    ) -> Result<CodedWeight, CodesError> {
        let missing = |part: String| {
            let (tensor, codes) = (codes.name.to_owned(), "packed integers");
            CodesError::MissingPart { tensor, codes, part }
        };
        let scale_name = format!("{module}.weight_scale");
        let place = headers.place(&scale_name).ok_or_else(|| missing(scale_name))?;
        let scale = headers.get(place);
        let zero = headers.place(&format!("{module}.weight_zero_point"));
        let (bits, columns) = width(headers, codes, &scale, zero, module)?;
        let mut shape = codes.shape.to_vec();
        if let Some(last) = shape.last_mut() {
            *last = columns;
        }
        let mut grid = Grid::new(codes, (&shape, bits), &scale, headers.settings)?;
        let mut parts = vec![at, place];
        match zero {
            Some(zero) => {
                check_zeros(codes, &scale, &headers.get(zero), (&shape, bits))?;
                parts.push(zero);
                grid.zero = Some(ZeroPoints::Packed(bits));
            }
            None if headers.settings.has_zero_points(bits) => {
                return Err(missing(format!("{module}.weight_zero_point")));
            }
            None => {}
        }
        if headers.place(&format!("{module}.weight_g_idx")).is_some() {
            return Err(CodesError::Unread {
                tensor: codes.name.to_owned(),
                form: "groups in the order of activations (`g_idx`)",
                beside: format!("{module}.weight_g_idx"),
                way_out: "convert from the original bf16 or fp16 checkpoint",
            });
        }
        Ok(CodedWeight {
            coding: &Packed,
            name: weight_name(format!("{module}.weight"), codes)?,
            shape,
            rounded: rounded(scale.dtype),
            beside: headers.beside(module, &parts),
            parts,
            grid,
            is_transposed: false,
        })
    }
}

/// Bits of a code and columns of the weight: from the settings where these fit the tensors, else from `weight_shape`.
fn width(
    headers: &Headers<'_>,
    codes: &Header<'_>,
    scale: &Header<'_>,
    zero: Option<usize>,
    module: &str,
) -> Result<(u64, u64), CodesError> {
    let (Some(&words), Some(&groups)) = (codes.shape.last(), scale.shape.last()) else {
        return Err(CodesError::NoWidth { tensor: codes.name.to_owned() });
    };
    let fits = |bits: u64, columns: u64| columns.checked_mul(bits).is_some_and(|it| it.div_ceil(32) == words);
    // What the settings say, where a group's length and the groups fill the words.
    let told = headers.settings.bits();
    let by_settings = told.iter().flat_map(|&bits| {
        let lens = headers.settings.groups(bits).filter_map(|group| group.len);
        lens.filter_map(move |len| Some((bits, groups.checked_mul(len)?)))
    });
    let mut by_settings: Vec<(u64, u64)> =
        by_settings.filter(|&(bits, columns)| groups > 1 && fits(bits, columns)).collect();
    by_settings.dedup();
    if let [one] = by_settings.as_slice() {
        return Ok(*one);
    }
    let likely: Vec<u64> = if told.is_empty() { vec![4, 8, 2, 3, 5, 6, 7, 1] } else { told };
    let shape = headers.place(&format!("{module}.weight_shape")).and_then(|at| (headers.numbers)(at));
    if let Some(shape) = shape {
        let mut fitting = likely.iter().copied().filter(|&bits| (1..=8).contains(&bits));
        if let Some(&columns) = shape.last()
            && shape.len() == codes.shape.len()
            && shape.split_last().map(|(_, rows)| rows) == codes.shape.split_last().map(|(_, rows)| rows)
            && let Some(bits) = fitting.find(|&bits| fits(bits, columns))
        {
            return Ok((bits, columns));
        }
        return Err(CodesError::OtherShape {
            tensor: codes.name.to_owned(),
            told: shape,
            found: codes.shape.to_vec(),
        });
    }
    // Words that are full: the zero points, or the settings, say how many codes each has.
    let rows = codes.shape.iter().rev().nth(1).copied().unwrap_or(1);
    let by_zeros = zero.and_then(|at| headers.get(at).shape.iter().rev().nth(1).copied());
    let mut full = likely.into_iter().filter(|&bits| {
        (1..=8).contains(&bits)
            && words.saturating_mul(32).is_multiple_of(bits)
            && by_zeros.is_none_or(|down| down == rows.saturating_mul(bits).div_ceil(32))
    });
    match (full.next(), full.next()) {
        (Some(bits), None) => Ok((bits, words.saturating_mul(32) / bits)),
        _ => Err(CodesError::NoWidth { tensor: codes.name.to_owned() }),
    }
}

/// Zero points lie in words down the rows, side by side as the scales.
fn check_zeros(
    codes: &Header<'_>,
    scale: &Header<'_>,
    zero: &Header<'_>,
    (shape, bits): (&[u64], u64),
) -> Result<(), CodesError> {
    if !matches!(zero.dtype, Dtype::I32 | Dtype::U32) {
        let (tensor, part) = (codes.name.to_owned(), zero.name.to_owned());
        return Err(CodesError::PartType { tensor, part, dtype: zero.dtype });
    }
    let mut expected = scale.shape.to_vec();
    let rows = shape.iter().rev().nth(1).copied().unwrap_or(1);
    if let Some(down) = expected.iter_mut().rev().nth(1) {
        *down = rows.saturating_mul(bits).div_ceil(32);
    }
    let is_for_rows = scale.shape.iter().rev().nth(1) == Some(&rows);
    if zero.shape != expected || !is_for_rows || !32u64.is_multiple_of(bits) {
        return Err(CodesError::PartShape {
            tensor: codes.name.to_owned(),
            part: zero.name.to_owned(),
            shape: zero.shape.to_vec(),
            expected: format!("{expected:?}"),
        });
    }
    Ok(())
}
