//! The same functions as `scalar.rs`, in the same order, in a form that compilers vectorise.
//!
//! No intrinsics: every function is inlined into one copy per instruction set (see `mod.rs`). Branch-free
//! conversions, reductions in lanes. Equality with `scalar.rs` is tested over every length and special value.

use super::{Moments, SUM_BLOCK, SUM_LANES};
use crate::tensor::Float;

/// Adding and taking away 1.5 * 2^23 rounds to an integer, half to even, for |x| < 2^22; the sum's low byte
/// is that integer in two's complement.
const ROUNDER: f32 = 12_582_912.0;

/// Elements whose zeros are counted in a byte.
const ZERO_RUN: usize = 224;

#[inline(always)]
pub(super) fn widen(float: Float, source: &[u8], row: &mut [f32]) {
    match float {
        Float::BF16 => {
            for (bytes, out) in source.as_chunks::<2>().0.iter().zip(row) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        Float::F16 => {
            for (bytes, out) in source.as_chunks::<2>().0.iter().zip(row) {
                *out = widen_f16(u16::from_le_bytes(*bytes));
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

/// Shifts the fields into place and rescales the exponent by a product that is exact for subnormals too.
#[inline(always)]
fn widen_f16(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let sign = u32::from(bits & 0x8000) << 16;
    let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = magnitude | 0x7f80_0000;
    let quieted = if magnitude > 0x0f80_0000 { special | 0x0040_0000 } else { special };
    f32::from_bits(sign | if magnitude >= 0x0f80_0000 { quieted } else { finite })
}

#[inline(always)]
pub(super) fn magnitude(row: &[f32]) -> u32 {
    // Magnitude bits never reach the sign bit, so a signed maximum serves; it has an instruction everywhere.
    let (blocks, rest) = row.as_chunks::<32>();
    let mut lanes = [0i32; 32];
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane = (*lane).max((value.to_bits() & 0x7fff_ffff).cast_signed());
        }
    }
    let tail = rest.iter().map(|value| (value.to_bits() & 0x7fff_ffff).cast_signed());
    lanes.into_iter().chain(tail).fold(0, i32::max).cast_unsigned()
}

#[inline(always)]
pub(super) fn narrow(float: Float, row: &[f32], out: &mut [u8]) {
    match float {
        Float::F16 => {
            for (value, bytes) in row.iter().zip(out.as_chunks_mut::<2>().0) {
                *bytes = narrow_f16(*value).to_le_bytes();
            }
        }
        Float::BF16 => {
            for (value, bytes) in row.iter().zip(out.as_chunks_mut::<2>().0) {
                *bytes = narrow_bf16(*value).to_le_bytes();
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

/// Integer rounding of the mantissa for normal results; an addition to 0.5 aligns subnormal ones.
#[inline(always)]
fn narrow_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    let odd = (magnitude >> 13) & 1;
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let special = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    (sign | if magnitude >= 0x4780_0000 { special } else { finite }) as u16
}

#[inline(always)]
fn narrow_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let nan = ((bits >> 16) & 0x8000) | 0x7fc0;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded }) as u16
}

#[inline(always)]
pub(super) fn quantize_f16(row: &[f32], factor: f32, codes: &mut [u8]) {
    for (value, code) in row.iter().zip(codes) {
        *code = (round_f16(*value) * factor + ROUNDER).to_bits() as u8;
    }
}

/// The nearest f16 of a value that is no NaN, as an f32.
#[inline(always)]
fn round_f16(value: f32) -> f32 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // Below 2^-14 an f16 is a multiple of 2^-24, the last place of 0.5; above, 13 places of the mantissa go.
    let subnormal = ((f32::from_bits(magnitude) + 0.5) - 0.5).to_bits();
    let normal = magnitude.wrapping_add(0xfff + ((magnitude >> 13) & 1)) & !0x1fff;
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    let nearest = if magnitude >= 0x477f_f000 { 0x7f80_0000 } else { finite };
    f32::from_bits(nearest | (bits & 0x8000_0000))
}

#[inline(always)]
pub(super) fn divide(float: Float, row: &[f32], scale: f32, codes: &mut [u8]) -> u64 {
    match float {
        Float::BF16 => divide_as(row, scale, codes, |x| f32::from_bits(u32::from(narrow_bf16(x)) << 16)),
        Float::F16 => divide_as(row, scale, codes, |x| widen_f16(narrow_f16(x))),
        Float::F32 | Float::F64 => divide_as(row, scale, codes, |x| x),
    }
}

#[inline(always)]
fn divide_as(row: &[f32], scale: f32, codes: &mut [u8], round: impl Fn(f32) -> f32) -> u64 {
    let mut clamped = 0;
    // The count stays in 32 bits within a run, so that it has a lane of its own beside the f32 values.
    for (run, code_run) in row.chunks(1 << 16).zip(codes.chunks_mut(1 << 16)) {
        let mut count = 0u32;
        for (value, code) in run.iter().zip(code_run) {
            let quotient = round(value / scale);
            let low = if quotient > -128.0 { quotient } else { -128.0 };
            let inside = if low < 127.0 { low } else { 127.0 };
            count += u32::from(inside != quotient);
            *code = (inside + ROUNDER).to_bits() as u8;
        }
        clamped += u64::from(count);
    }
    clamped
}

#[inline(always)]
pub(super) fn divide_e4m3(float: Float, row: &[f32], scale: f32, codes: &mut [u8]) -> u64 {
    match float {
        Float::BF16 => divide_e4m3_as(row, scale, codes, |x| f32::from_bits(u32::from(narrow_bf16(x)) << 16)),
        Float::F16 => divide_e4m3_as(row, scale, codes, |x| widen_f16(narrow_f16(x))),
        Float::F32 | Float::F64 => divide_e4m3_as(row, scale, codes, |x| x),
    }
}

#[inline(always)]
fn divide_e4m3_as(row: &[f32], scale: f32, codes: &mut [u8], round: impl Fn(f32) -> f32) -> u64 {
    let mut clamped = 0;
    for (run, code_run) in row.chunks(1 << 16).zip(codes.chunks_mut(1 << 16)) {
        let mut count = 0u32;
        for (value, code) in run.iter().zip(code_run) {
            let quotient = round(value / scale);
            let low = if quotient > -448.0 { quotient } else { -448.0 };
            let inside = if low < 448.0 { low } else { 448.0 };
            count += u32::from(inside != quotient);
            *code = narrow_e4m3(inside);
        }
        clamped += u64::from(count);
    }
    clamped
}

/// Integer rounding of the mantissa for normal results; an addition aligns subnormal ones.
#[inline(always)]
fn narrow_e4m3(value: f32) -> u8 {
    let bits = value.to_bits();
    let sign = (bits >> 24) & 0x80;
    let magnitude = bits & 0x7fff_ffff;
    let odd = (magnitude >> 20) & 1;
    let normal = magnitude.wrapping_sub(120 << 23).wrapping_add(0x7_ffff + odd) >> 20;
    // 2^14 has its last place at 2^-9, that of the subnormals.
    let subnormal = (f32::from_bits(magnitude) + 16384.0).to_bits().wrapping_sub(0x4680_0000);
    (sign | if magnitude < 0x3c80_0000 { subnormal } else { normal }) as u8
}

#[inline(always)]
pub(super) fn decode_e4m3(codes: &[u8], step: f32, row: &mut [f32]) {
    for (code, out) in codes.iter().zip(row) {
        let (sign, bits) = (u32::from(code & 0x80) << 24, u32::from(code & 0x7f));
        // The fields in their places, and the exponent's bias added; subnormals are multiples of 2^-9. (A product that
        // does both would take subnormal numbers of binary32, which cost a CPU a hundred cycles.)
        let normal = (bits << 20) + (120 << 23);
        let subnormal = (bits.cast_signed() as f32 * (1.0 / 512.0)).to_bits();
        let finite = if bits < 8 { subnormal } else { normal };
        let magnitude = if bits == 0x7f { 0x7fc0_0000 } else { finite };
        *out = f32::from_bits(sign | magnitude) * step;
    }
}

#[inline(always)]
pub(super) fn decode(codes: &[u8], step: f32, row: &mut [f32]) {
    for (code, out) in codes.iter().zip(row) {
        *out = i32::from(code.cast_signed()) as f32 * step;
    }
}

#[inline(always)]
pub(super) fn zeros(float: Float, bytes: &[u8]) -> u64 {
    match float {
        Float::F16 | Float::BF16 => {
            zeros_of(bytes.as_chunks::<2>().0, |bytes| u16::from_le_bytes(bytes) & 0x7fff == 0)
        }
        Float::F32 => {
            zeros_of(bytes.as_chunks::<4>().0, |bytes| u32::from_le_bytes(bytes) & 0x7fff_ffff == 0)
        }
        Float::F64 => {
            zeros_of(bytes.as_chunks::<8>().0, |bytes| u64::from_le_bytes(bytes) & (u64::MAX >> 1) == 0)
        }
    }
}

#[inline(always)]
pub(super) fn zero_codes(codes: &[u8], mask: u8) -> u64 {
    zeros_of(codes, |code: u8| code & mask == 0)
}

#[inline(always)]
fn zeros_of<T: Copy>(elements: &[T], is_zero: impl Fn(T) -> bool) -> u64 {
    // The count of a run stays in 8 bits, so that as many elements as there are bytes in a vector have a lane each.
    let runs = elements.chunks(ZERO_RUN);
    runs.map(|run| u64::from(run.iter().fold(0u8, |count, element| count + u8::from(is_zero(*element)))))
        .sum()
}

#[inline(always)]
pub(super) fn measure(original: &[f32], decoded: &[f32], unit: f32) -> Moments {
    let mut totals = [[0f64; SUM_LANES]; 3];
    let mut maxima = [0f32; SUM_LANES];
    let (blocks, rest) = original.as_chunks::<SUM_BLOCK>();
    let (decoded_blocks, decoded_rest) = decoded.as_chunks::<SUM_BLOCK>();
    for (block, decoded_block) in blocks.iter().zip(decoded_blocks) {
        measure_block(block, decoded_block, unit, &mut totals, &mut maxima);
    }
    if !rest.is_empty() {
        measure_block(rest, decoded_rest, unit, &mut totals, &mut maxima);
    }
    let max_error =
        maxima.into_iter().fold(0f32, |largest, error| if error > largest { error } else { largest });
    Moments::from_lanes(&totals, max_error)
}

#[inline(always)]
fn measure_block(
    original: &[f32],
    decoded: &[f32],
    unit: f32,
    totals: &mut [[f64; SUM_LANES]; 3],
    maxima: &mut [f32; SUM_LANES],
) {
    let mut sums = [[0f32; SUM_LANES]; 3];
    let (groups, rest) = original.as_chunks::<SUM_LANES>();
    let (decoded_groups, decoded_rest) = decoded.as_chunks::<SUM_LANES>();
    for (group, decoded_group) in groups.iter().zip(decoded_groups) {
        for lane in 0..SUM_LANES {
            measure_one(group[lane], decoded_group[lane], unit, lane, &mut sums, maxima);
        }
    }
    for (lane, (w, v)) in rest.iter().zip(decoded_rest).enumerate() {
        measure_one(*w, *v, unit, lane, &mut sums, maxima);
    }
    for (total, sum) in totals.iter_mut().zip(&sums) {
        for (total, sum) in total.iter_mut().zip(sum) {
            *total += f64::from(*sum);
        }
    }
}

#[inline(always)]
fn measure_one(
    w: f32,
    v: f32,
    unit: f32,
    lane: usize,
    sums: &mut [[f32; SUM_LANES]; 3],
    maxima: &mut [f32; SUM_LANES],
) {
    let (w, v) = (w * unit, v * unit);
    let error = w - v;
    sums[0][lane] += w * w;
    sums[1][lane] += v * v;
    sums[2][lane] += error * error;
    maxima[lane] = if error.abs() > maxima[lane] { error.abs() } else { maxima[lane] };
}
