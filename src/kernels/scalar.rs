//! The meaning of every kernel: plain loops over one row. `lanes.rs` must equal this bit for bit.

use half::{bf16, f16};

use super::{Moments, SUM_BLOCK, SUM_LANES};
use crate::tensor::Float;

/// Widens little-endian elements to f32. F64 rounds to nearest even; a NaN becomes quiet.
pub(super) fn widen(float: Float, source: &[u8], row: &mut [f32]) {
    match float {
        Float::BF16 => {
            for (bytes, out) in source.as_chunks::<2>().0.iter().zip(row) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        Float::F16 => {
            for (bytes, out) in source.as_chunks::<2>().0.iter().zip(row) {
                *out = f16::from_le_bytes(*bytes).to_f32_const();
            }
        }
        Float::F32 => {
            for (bytes, out) in source.as_chunks::<4>().0.iter().zip(row) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        Float::F64 => {
            for (bytes, out) in source.as_chunks::<8>().0.iter().zip(row) {
                *out = f64::from_le_bytes(*bytes) as f32;
            }
        }
    }
}

/// The largest magnitude in a row, as the bits of an f32 without its sign; 0 for an empty row.
pub(super) fn magnitude(row: &[f32]) -> u32 {
    let mut largest = 0;
    for value in row {
        largest = largest.max(value.to_bits() & 0x7fff_ffff);
    }
    largest
}

/// Rounds each value to nearest even in `float`, little-endian; F32 and F64 hold each as it is.
pub(super) fn narrow(float: Float, row: &[f32], out: &mut [u8]) {
    match float {
        Float::F16 => {
            for (value, bytes) in row.iter().zip(out.as_chunks_mut::<2>().0) {
                let narrowed = f16::from_f32_const(*value);
                *bytes = if value.is_nan() { quiet(*value, 0x7e00) } else { narrowed.to_le_bytes() };
            }
        }
        Float::BF16 => {
            for (value, bytes) in row.iter().zip(out.as_chunks_mut::<2>().0) {
                let narrowed = bf16::from_f32(*value);
                *bytes = if value.is_nan() { quiet(*value, 0x7fc0) } else { narrowed.to_le_bytes() };
            }
        }
        Float::F32 => {
            for (value, bytes) in row.iter().zip(out.as_chunks_mut::<4>().0) {
                *bytes = value.to_le_bytes();
            }
        }
        Float::F64 => {
            for (value, bytes) in row.iter().zip(out.as_chunks_mut::<8>().0) {
                *bytes = f64::from(*value).to_le_bytes();
            }
        }
    }
}

/// The one NaN that narrowing writes: quiet, without payload, the sign kept.
fn quiet(value: f32, canonical: u16) -> [u8; 2] {
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    (canonical | sign).to_le_bytes()
}

/// Rounds to the nearest f16, ties to even, multiplies by `factor` and rounds half to even; the codes are two's
/// complement bytes.
///
/// Requires |f16(value) * factor| < 128 for every value (the caller's factor comes from the row's magnitude).
pub(super) fn quantize_f16(row: &[f32], factor: f32, codes: &mut [u8]) {
    for (value, code) in row.iter().zip(codes) {
        let rounded = f16::from_f32_const(*value).to_f32_const();
        *code = (rounded * factor).round_ties_even() as i32 as u8;
    }
}

/// Divides by `scale`, rounds the quotient to `float`, clamps it to -128..=127 and rounds half to even.
/// Returns how many quotients were clamped.
pub(super) fn divide(float: Float, row: &[f32], scale: f32, codes: &mut [u8]) -> u64 {
    let mut clamped = 0;
    for (value, code) in row.iter().zip(codes) {
        let quotient = match float {
            Float::BF16 => bf16::from_f32(value / scale).to_f32(),
            Float::F16 => f16::from_f32_const(value / scale).to_f32_const(),
            Float::F32 | Float::F64 => value / scale,
        };
        if !(-128.0..=127.0).contains(&quotient) {
            clamped += 1;
        }
        *code = quotient.clamp(-128.0, 127.0).round_ties_even() as i32 as u8;
    }
    clamped
}

/// Divides by `scale`, rounds the quotient to `float`, clamps it to -448..=448 and rounds it to the nearest E4M3, ties to
/// even. Returns how many quotients were clamped.
pub(super) fn divide_e4m3(float: Float, row: &[f32], scale: f32, codes: &mut [u8]) -> u64 {
    let mut clamped = 0;
    for (value, code) in row.iter().zip(codes) {
        let quotient = float.round(value / scale);
        if !(-448.0..=448.0).contains(&quotient) {
            clamped += 1;
        }
        *code = narrow_e4m3(quotient.clamp(-448.0, 448.0));
    }
    clamped
}

/// The nearest E4M3 of a value within -448..=448, ties to even: a sign, four bits of exponent with bias 7, three of mantissa.
fn narrow_e4m3(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = value.abs();
    // The smallest normal is 2^-6; below, values are multiples of 2^-9.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-6);
    // In units of the last of three places: below 8 a subnormal, at 16 the next power of two.
    let units = (magnitude * 2f32.powi(3 - exponent)).round_ties_even() as u8;
    sign | ((exponent + 6) as u8 * 8 + units)
}

/// E4M3 * step, in f32. The codes 0x7f and 0xff are NaN.
pub(super) fn decode_e4m3(codes: &[u8], step: f32, row: &mut [f32]) {
    for (code, out) in codes.iter().zip(row) {
        let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
        let magnitude = match exponent {
            0 => mantissa * 2f32.powi(-9),
            15 if mantissa == 7.0 => f32::NAN,
            _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
        };
        *out = if code & 0x80 == 0 { magnitude } else { -magnitude } * step;
    }
}

/// code * step, in f32.
pub(super) fn decode(codes: &[u8], step: f32, row: &mut [f32]) {
    for (code, out) in codes.iter().zip(row) {
        *out = f32::from(code.cast_signed()) * step;
    }
}

/// How many elements are 0, of either sign.
pub(super) fn zeros(float: Float, bytes: &[u8]) -> u64 {
    let mut count = 0;
    match float {
        Float::F16 | Float::BF16 => {
            for bytes in bytes.as_chunks::<2>().0 {
                count += u64::from(u16::from_le_bytes(*bytes) & 0x7fff == 0);
            }
        }
        Float::F32 => {
            for bytes in bytes.as_chunks::<4>().0 {
                count += u64::from(u32::from_le_bytes(*bytes) & 0x7fff_ffff == 0);
            }
        }
        Float::F64 => {
            for bytes in bytes.as_chunks::<8>().0 {
                count += u64::from(u64::from_le_bytes(*bytes) & (u64::MAX >> 1) == 0);
            }
        }
    }
    count
}

/// How many bytes have no bit in common with `mask`.
pub(super) fn zero_codes(codes: &[u8], mask: u8) -> u64 {
    let mut count = 0;
    for code in codes {
        count += u64::from(*code & mask == 0);
    }
    count
}

/// Sums for the error figures of one row, both rows first multiplied by `unit`.
///
/// The order of the sums is part of the format: element `i` goes to lane `i % SUM_LANES`, in f32 over each
/// run of `SUM_BLOCK` elements, then in f64 over the runs, and the lanes are added in order at the end.
pub(super) fn measure(original: &[f32], decoded: &[f32], unit: f32) -> Moments {
    let mut totals = [[0f64; SUM_LANES]; 3];
    let mut max_error = 0f32;
    for (block, decoded_block) in original.chunks(SUM_BLOCK).zip(decoded.chunks(SUM_BLOCK)) {
        let mut sums = [[0f32; SUM_LANES]; 3];
        for (index, (w, v)) in block.iter().zip(decoded_block).enumerate() {
            let (w, v) = (w * unit, v * unit);
            let error = w - v;
            sums[0][index % SUM_LANES] += w * w;
            sums[1][index % SUM_LANES] += v * v;
            sums[2][index % SUM_LANES] += error * error;
            if error.abs() > max_error {
                max_error = error.abs();
            }
        }
        for (total, sum) in totals.iter_mut().zip(&sums) {
            for (total, sum) in total.iter_mut().zip(sum) {
                *total += f64::from(*sum);
            }
        }
    }
    Moments::from_lanes(&totals, max_error)
}
