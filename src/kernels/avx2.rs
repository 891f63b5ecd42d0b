//! The kernels for AVX2 with F16C: `lanes.rs` compiled with these instructions, and by hand what gains by it.
//!
//! F16C converts between f32 and f16 in one instruction; compilers do not find it, nor that an E4M3 is an f16 of another
//! bias. Packing 32-bit codes into bytes and into halves, and counting compares, are by hand too. Every function equals `scalar.rs` bit for bit, by the test in `mod.rs`.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _CMP_NEQ_UQ, _CMP_UNORD_Q, _MM_FROUND_TO_NEAREST_INT, _mm_loadu_si128,
    _mm_storeu_si128, _mm256_add_epi32, _mm256_and_si256, _mm256_castps_si256, _mm256_castsi256_ps,
    _mm256_castsi256_si128, _mm256_cmp_ps, _mm256_cmpeq_epi16, _mm256_cvtepu8_epi16, _mm256_cvtph_ps,
    _mm256_cvtps_epi32, _mm256_cvtps_ph, _mm256_div_ps, _mm256_extracti128_si256, _mm256_loadu_ps,
    _mm256_max_epi32, _mm256_max_ps, _mm256_min_ps, _mm256_movemask_epi8, _mm256_movemask_ps, _mm256_mul_ps,
    _mm256_or_si256, _mm256_packs_epi16, _mm256_packs_epi32, _mm256_packus_epi32, _mm256_permute4x64_epi64,
    _mm256_permutevar8x32_epi32, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32,
    _mm256_setzero_si256, _mm256_slli_epi16, _mm256_srli_epi32, _mm256_storeu_ps, _mm256_storeu_si256,
    _mm256_sub_epi32,
};

use super::{Moments, lanes};
use crate::tensor::Float;

/// Codes made at a time: one vector of bytes.
const RUN: usize = 32;

#[target_feature(enable = "avx2,f16c")]
pub(super) fn widen(float: Float, source: &[u8], row: &mut [f32]) {
    if float != Float::F16 {
        return lanes::widen(float, source, row);
    }
    let len = row.len().min(source.len() / 2);
    let (runs, rest) = row[..len].as_chunks_mut::<8>();
    let (halves, rest_halves) = source[..len * 2].as_chunks::<16>();
    for (bytes, out) in halves.iter().zip(runs) {
        // SAFETY: 16 bytes are read and 8 values written, which is what the two arrays hold.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(bytes.as_ptr().cast())))
        };
    }
    lanes::widen(float, rest_halves, rest);
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn magnitude(row: &[f32]) -> u32 {
    let (runs, rest) = row.as_chunks::<RUN>();
    let mut largest = [_mm256_setzero_si256(); 4];
    // Without the sign bit a signed maximum serves.
    let unsigned = _mm256_set1_epi32(0x7fff_ffff);
    for run in runs {
        for (largest, values) in largest.iter_mut().zip(run.as_chunks::<8>().0) {
            *largest =
                _mm256_max_epi32(*largest, _mm256_and_si256(_mm256_castps_si256(load(values)), unsigned));
        }
    }
    let [a, b, c, d] = largest;
    let most = _mm256_max_epi32(_mm256_max_epi32(a, b), _mm256_max_epi32(c, d));
    integers(most).into_iter().map(i32::cast_unsigned).fold(lanes::magnitude(rest), u32::max)
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn narrow(float: Float, row: &[f32], out: &mut [u8]) {
    match float {
        Float::F16 => {}
        Float::BF16 => return narrow_bf16(row, out),
        Float::F32 | Float::F64 => return lanes::narrow(float, row, out),
    }
    let len = row.len().min(out.len() / 2);
    let (runs, rest) = row[..len].as_chunks::<8>();
    let (halves, rest_halves) = out[..len * 2].as_chunks_mut::<16>();
    for (values, bytes) in runs.iter().zip(halves) {
        let row = load(values);
        if _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(row, row)) != 0 {
            // The instruction keeps a NaN's payload; here NaNs have none.
            lanes::narrow(float, values, bytes);
            continue;
        }
        let narrowed = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(row);
        // SAFETY: 16 bytes are written, which is what the array holds.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast::<__m128i>(), narrowed) };
    }
    lanes::narrow(float, rest, rest_halves);
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn narrow_bf16(row: &[f32], out: &mut [u8]) {
    let len = row.len().min(out.len() / 2);
    let (runs, rest) = row[..len].as_chunks::<16>();
    let (halves, rest_halves) = out[..len * 2].as_chunks_mut::<32>();
    for (run, bytes) in runs.iter().zip(halves) {
        let values = run.as_chunks::<8>().0;
        let (low, high) = (load(&values[0]), load(&values[1]));
        if _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(low, high)) != 0 {
            lanes::narrow(Float::BF16, run, bytes);
            continue;
        }
        let low = _mm256_srli_epi32::<16>(_mm256_castps_si256(round_bf16(low)));
        let high = _mm256_srli_epi32::<16>(_mm256_castps_si256(round_bf16(high)));
        // Packing works on halves of vectors: this puts the groups of eight bytes back in order.
        let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
        // SAFETY: 32 bytes are written, which is what the array holds.
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), packed) };
    }
    lanes::narrow(Float::BF16, rest, rest_halves);
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn quantize_f16(row: &[f32], factor: f32, codes: &mut [u8]) {
    let len = row.len().min(codes.len());
    let (runs, rest) = row[..len].as_chunks::<RUN>();
    let (code_runs, rest_codes) = codes[..len].as_chunks_mut::<RUN>();
    let by = _mm256_set1_ps(factor);
    for (run, codes) in runs.iter().zip(code_runs) {
        let of = |place: usize| {
            let rounded = round_f16(load(&run.as_chunks::<8>().0[place]));
            _mm256_cvtps_epi32(_mm256_mul_ps(rounded, by))
        };
        pack([of(0), of(1), of(2), of(3)], codes);
    }
    lanes::quantize_f16(rest, factor, rest_codes);
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn divide(float: Float, row: &[f32], scale: f32, codes: &mut [u8]) -> u64 {
    match float {
        Float::BF16 => divide_as(float, row, scale, codes, |x| round_bf16(x)),
        Float::F16 => divide_as(float, row, scale, codes, |x| round_f16(x)),
        Float::F32 | Float::F64 => divide_as(float, row, scale, codes, |x| x),
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn divide_as(
    float: Float,
    row: &[f32],
    scale: f32,
    codes: &mut [u8],
    round: impl Fn(__m256) -> __m256,
) -> u64 {
    let len = row.len().min(codes.len());
    let (runs, rest) = row[..len].as_chunks::<RUN>();
    let (code_runs, rest_codes) = codes[..len].as_chunks_mut::<RUN>();
    let (by, low, high) = (_mm256_set1_ps(scale), _mm256_set1_ps(-128.0), _mm256_set1_ps(127.0));
    let mut clamped = 0;
    // A count of one lane stays in 32 bits within so many runs.
    for (runs, code_runs) in runs.chunks(1 << 16).zip(code_runs.chunks_mut(1 << 16)) {
        let mut counts = _mm256_setzero_si256();
        for (run, codes) in runs.iter().zip(code_runs) {
            let mut made = [_mm256_setzero_si256(); 4];
            for (made, values) in made.iter_mut().zip(run.as_chunks::<8>().0) {
                let quotient = round(_mm256_div_ps(load(values), by));
                let inside = _mm256_min_ps(_mm256_max_ps(quotient, low), high);
                // All ones, which is -1, where a quotient was clamped.
                let outside = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_NEQ_UQ>(inside, quotient));
                counts = _mm256_sub_epi32(counts, outside);
                *made = _mm256_cvtps_epi32(inside);
            }
            pack(made, codes);
        }
        clamped += integers(counts).into_iter().map(|count| u64::from(count.cast_unsigned())).sum::<u64>();
    }
    clamped + lanes::divide(float, rest, scale, rest_codes)
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn divide_e4m3(float: Float, row: &[f32], scale: f32, codes: &mut [u8]) -> u64 {
    lanes::divide_e4m3(float, row, scale, codes)
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn decode_e4m3(codes: &[u8], step: f32, row: &mut [f32]) {
    let len = row.len().min(codes.len());
    let (runs, rest) = row[..len].as_chunks_mut::<16>();
    let (code_runs, rest_codes) = codes[..len].as_chunks::<16>();
    // The fields of a code in those of an f16, whose exponent has another bias.
    let (fields, sign) = (_mm256_set1_epi16(0x3f80), _mm256_set1_epi16(i16::MIN));
    let (bias, step_of_all) = (_mm256_set1_ps(256.0), _mm256_set1_ps(step));
    for (run, bytes) in runs.iter_mut().zip(code_runs) {
        // SAFETY: 16 bytes are read, which is what the array holds.
        let wide = _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) });
        let magnitude = _mm256_and_si256(_mm256_slli_epi16::<7>(wide), fields);
        if _mm256_movemask_epi8(_mm256_cmpeq_epi16(magnitude, fields)) != 0 {
            lanes::decode_e4m3(bytes, step, run);
            continue;
        }
        let halves = _mm256_or_si256(magnitude, _mm256_and_si256(_mm256_slli_epi16::<8>(wide), sign));
        let parts = [_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves)];
        for (half, out) in parts.into_iter().zip(run.as_chunks_mut::<8>().0) {
            let values = _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtph_ps(half), bias), step_of_all);
            // SAFETY: 8 values are written, which is what the array holds.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values) };
        }
    }
    lanes::decode_e4m3(rest_codes, step, rest);
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn decode(codes: &[u8], step: f32, row: &mut [f32]) {
    lanes::decode(codes, step, row);
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn zeros(float: Float, bytes: &[u8]) -> u64 {
    lanes::zeros(float, bytes)
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn zero_codes(codes: &[u8], mask: u8) -> u64 {
    lanes::zero_codes(codes, mask)
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn measure(original: &[f32], decoded: &[f32], unit: f32) -> Moments {
    lanes::measure(original, decoded, unit)
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load(values: &[f32; 8]) -> __m256 {
    // SAFETY: 8 values are read, which is what the array holds.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn integers(vector: __m256i) -> [i32; 8] {
    let mut out = [0; 8];
    // SAFETY: 32 bytes are written, which is what the array holds.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), vector) };
    out
}

/// The nearest f16, ties to even, of values that are no NaN.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn round_f16(values: __m256) -> __m256 {
    _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values))
}

/// The nearest bf16, ties to even, of values that are no NaN.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn round_bf16(values: __m256) -> __m256 {
    let bits = _mm256_castps_si256(values);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    _mm256_castsi256_ps(_mm256_and_si256(rounded, _mm256_set1_epi32(0xffff_0000_u32.cast_signed())))
}

/// Four vectors of codes, each within -128..=127, as bytes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn pack([a, b, c, d]: [__m256i; 4], codes: &mut [u8; RUN]) {
    let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    // Packing works on halves of vectors: this puts the groups of four bytes back in order.
    let ordered = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    // SAFETY: 32 bytes are written, which is what the array holds.
    unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), ordered) };
}
