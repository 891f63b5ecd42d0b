//! One block of a tensor: from bytes of the checkpoint to bytes of the bundle.
//!
//! Blocks are cut at fixed places (see [`BLOCK_LEN`]), so the error figures, whose sums are sealed, do not
//! depend on threads or memory. Carries out formats/schemes.md, "Arithmetic".

use crate::error::{ConvertError, Result};
use crate::kernels::{Isa, Moments};
use crate::plan::{Fate, TensorPlan};
use crate::scheme::{GROUP_LEN, OnOverflow, Scheme};
use crate::tensor::Dtype;

/// Elements of a block, at most. Rows of up to this many are kept whole; part of the format, because the
/// error figures are summed block by block.
pub(super) const BLOCK_LEN: u64 = 1 << 16;

/// Elements of a cast tensor that are measured as one row; part of the format.
const CAST_ROW: usize = 4096;

/// The bits of the largest finite f16.
const F16_MAX: f32 = 65504.0;
/// The bits of an infinite f32: magnitudes from here on are not finite.
const INFINITE: u32 = 0x7f80_0000;

/// What a block is computed with, the same for all blocks of a conversion.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub(super) isa: Isa,
    pub(super) scheme: Scheme,
    pub(super) on_overflow: OnOverflow,
    pub(super) stats: bool,
}

/// Figures gathered over blocks, in order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    pub(super) moments: Moments,
    pub(super) clipped: u64,
    pub(super) overflowed: u64,
    pub(super) flushed: u64,
    pub(super) non_finite: u64,
}

impl Figures {
    pub(super) fn add(&mut self, next: &Figures) {
        self.moments.add(&next.moments);
        self.clipped += next.clipped;
        self.overflowed += next.overflowed;
        self.flushed += next.flushed;
        self.non_finite += next.non_finite;
    }
}

/// Buffers that one thread uses again for every block.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) source: Vec<u8>,
    original: Vec<f32>,
    rounded: Vec<f32>,
}

/// Bytes of scratch that one thread needs: F64 source and two f32 rows.
pub(super) const SCRATCH_LEN: u64 = BLOCK_LEN * (8 + 4 + 4);

/// A block's place in its tensor: elements, counted row-major, and their bytes.
pub(super) struct Block<'a> {
    pub(super) tensor: &'a TensorPlan,
    pub(super) first: u64,
    pub(super) source: &'a [u8],
}

impl<'a> Block<'a> {
    /// The part of this block that begins `start` elements in and has the bytes `source`.
    fn part(&self, start: usize, source: &'a [u8]) -> Self {
        Self { tensor: self.tensor, first: self.first + start as u64, source }
    }
}

/// The magnitude, as bits, of each row of a block, or of the part of one row that lies in it.
pub(super) fn magnitudes(
    rules: &Rules,
    block: &Block<'_>,
    columns: usize,
    buffers: &mut Scratch,
) -> Result<Vec<u32>> {
    let width = element_width(block.tensor.dtype);
    let mut found = Vec::new();
    for (index, source) in block.source.chunks(columns * width).enumerate() {
        let row = widen(rules.isa, block.tensor.dtype, source, &mut buffers.original);
        let magnitude = rules.isa.magnitude(row);
        check_finite(block, row, magnitude, index * columns)?;
        found.push(magnitude);
    }
    Ok(found)
}

/// Computes codes for a block of whole rows, or for a part of one row whose magnitude is `known`.
///
/// Appends the scales to `scales` unless the magnitudes are known already.
pub(super) fn quantize(
    rules: &Rules,
    block: &Block<'_>,
    known: Option<&[u32]>,
    buffers: &mut Scratch,
    codes: &mut [u8],
    scales: &mut Vec<u8>,
) -> Result<Figures> {
    let dtype = block.tensor.dtype;
    let width = element_width(dtype);
    let elements = block.source.len() / width;
    let (_, columns) = block.tensor.rows_and_columns();
    let group = rules.scheme.group_len(columns).min(elements as u64) as usize;
    let mut figures = Figures::default();
    for (index, (source, codes)) in
        block.source.chunks(group * width).zip(codes.chunks_mut(group)).enumerate()
    {
        let row = widen(rules.isa, dtype, source, &mut buffers.original);
        let magnitude = match known {
            Some(known) => known.get(index).copied().unwrap_or(0),
            None => rules.isa.magnitude(row),
        };
        check_finite(block, row, magnitude, index * group)?;
        let scale = Scale::of(rules.scheme, dtype, magnitude);
        if let Scheme::BnbInt8 = rules.scheme {
            if magnitude >= 65520f32.to_bits() {
                figures.overflowed +=
                    overflow(rules, &block.part(index * group, source), row, Dtype::F16, true)?;
            }
            if magnitude >= 65520f32.to_bits() {
                // The same as clamping what they round to: from 65504 to 65520 all round to 65504.
                let within = resized(&mut buffers.rounded, row.len());
                within.copy_from_slice(row);
                within.iter_mut().for_each(|value| *value = value.clamp(-F16_MAX, F16_MAX));
                rules.isa.quantize_f16(within, scale.factor, codes);
            } else {
                rules.isa.quantize_f16(row, scale.factor, codes);
            }
        } else {
            figures.clipped += rules.isa.divide(dtype, row, scale.step, codes);
            if scale.step * 128.0 >= largest_rounded(dtype) {
                figures.overflowed += lowest_codes(rules, &block.part(index * group, source), row, codes)?;
            }
        }
        if rules.stats {
            let decoded = resized(&mut buffers.rounded, row.len());
            rules.isa.decode(codes, scale.step, decoded);
            if scale.step * 128.0 >= largest_rounded(dtype) {
                for (value, decoded) in row.iter_mut().zip(decoded.iter_mut()) {
                    if decoded.abs() >= largest_rounded(dtype) {
                        (*value, *decoded) = (0.0, 0.0);
                    }
                }
            }
            figures.moments.add(&rules.isa.measure(row, decoded, f32::from_bits(magnitude)));
            figures.flushed += flushed(rules.isa, (dtype, source), (Dtype::I8, codes));
        }
        if rules.scheme == Scheme::W8A16 {
            codes.iter_mut().for_each(|code| *code ^= 0x80);
        }
        if known.is_none() {
            scale.write(dtype, scales);
        }
    }
    Ok(figures)
}

/// Rounds a block to another float type.
pub(super) fn cast(
    rules: &Rules,
    block: &Block<'_>,
    to: Dtype,
    buffers: &mut Scratch,
    out: &mut [u8],
) -> Result<Figures> {
    let dtype = block.tensor.dtype;
    let (width, out_width) = (element_width(dtype), element_width(to));
    let limit = largest_rounded(to).to_bits();
    let mut figures = Figures::default();
    for (index, (source, out)) in
        block.source.chunks(CAST_ROW * width).zip(out.chunks_mut(CAST_ROW * out_width)).enumerate()
    {
        let row = widen(rules.isa, dtype, source, &mut buffers.original);
        let magnitude = rules.isa.magnitude(row);
        let special = magnitude >= limit;
        if special {
            figures.non_finite += row.iter().filter(|value| !value.is_finite()).count() as u64;
            figures.overflowed += overflow(rules, &block.part(index * CAST_ROW, source), row, to, false)?;
            if rules.on_overflow == OnOverflow::Clamp {
                let largest = if to == Dtype::F16 { F16_MAX } else { f32::from_bits(0x7f7f_0000) };
                for value in row.iter_mut().filter(|value| value.is_finite()) {
                    *value = value.clamp(-largest, largest);
                }
            }
        }
        rules.isa.narrow(to, row, out);
        if rules.stats {
            let decoded = resized(&mut buffers.rounded, row.len());
            rules.isa.widen(to, out, decoded);
            let mut largest = f32::from_bits(magnitude);
            if special {
                let row = widen(rules.isa, dtype, source, &mut buffers.original);
                for (value, decoded) in row.iter_mut().zip(decoded.iter_mut()) {
                    if !value.is_finite() || !decoded.is_finite() {
                        (*value, *decoded) = (0.0, 0.0);
                    }
                }
                largest = f32::from_bits(rules.isa.magnitude(row));
            }
            let row = buffers.original.as_slice();
            figures.moments.add(&rules.isa.measure(row, decoded, largest));
            figures.flushed += flushed(rules.isa, (dtype, source), (to, out));
        }
    }
    Ok(figures)
}

/// A row's or group's scale: what codes are made with, decoded with, and what is stored.
pub(super) struct Scale {
    /// bitsandbytes multiplies by this; 0 for a row of zeros.
    factor: f32,
    /// value = code * step; the divisor of the compressed-tensors schemes.
    step: f32,
    /// What the bundle stores: `SCB` (the magnitude) or the step.
    stored: f32,
    scheme: Scheme,
}

impl Scale {
    /// The scale that belongs to a magnitude (bits of a finite f32).
    pub(super) fn of(scheme: Scheme, dtype: Dtype, magnitude: u32) -> Self {
        let magnitude = f32::from_bits(magnitude);
        if scheme == Scheme::BnbInt8 {
            // Rounding keeps order, so the rounded magnitude is the magnitude of the rounded row.
            let largest = half::f16::from_f32_const(magnitude).to_f32_const().min(F16_MAX);
            let factor = if largest > 0.0 { (1.0 / largest) * 127.0 } else { 0.0 };
            return Self { factor, step: largest / 127.0, stored: largest, scheme };
        }
        let (step, smallest) = match dtype {
            Dtype::BF16 => (half::bf16::from_f32(magnitude / 127.5).to_f32(), 0.007_812_5),
            Dtype::F16 => (half::f16::from_f32_const(magnitude / 127.5).to_f32_const(), 0.000_976_562_5),
            _ => (magnitude / 127.5, f32::EPSILON),
        };
        let step = if step == 0.0 { smallest } else { step };
        Self { factor: 0.0, step, stored: step, scheme }
    }

    /// Appends the stored scale in its type: f32 for bitsandbytes, the weight's type otherwise.
    pub(super) fn write(&self, dtype: Dtype, out: &mut Vec<u8>) {
        match (self.scheme, dtype) {
            (Scheme::W8A8 | Scheme::W8A16, Dtype::BF16) => {
                out.extend(half::bf16::from_f32(self.stored).to_le_bytes());
            }
            (Scheme::W8A8 | Scheme::W8A16, Dtype::F16) => {
                out.extend(half::f16::from_f32_const(self.stored).to_le_bytes());
            }
            _ => out.extend(self.stored.to_le_bytes()),
        }
    }
}

/// Bytes of an element of a castable type.
pub(super) fn element_width(dtype: Dtype) -> usize {
    (dtype.bitsize() / 8).max(1)
}

fn resized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    buffer.resize(len, 0.0);
    buffer
}

/// Widens a row to f32. A finite F64 beyond f32's range becomes the largest f32 of its sign, not an infinity: it
/// overflows whatever it is converted to, and must be told apart from an infinity of the checkpoint.
fn widen<'a>(isa: Isa, dtype: Dtype, source: &[u8], buffer: &'a mut Vec<f32>) -> &'a mut [f32] {
    let row = resized(buffer, source.len() / element_width(dtype));
    isa.widen(dtype, source, row);
    if dtype == Dtype::F64 && isa.magnitude(row) >= INFINITE {
        for (value, bytes) in row.iter_mut().zip(source.as_chunks::<8>().0) {
            if f64::from_le_bytes(*bytes).is_finite() {
                *value = value.clamp(f32::MIN, f32::MAX);
            }
        }
    }
    row
}

/// Elements that are not 0 in the checkpoint and 0 in the bundle: what is 0 stays 0, so it is the zeros that are new.
fn flushed(isa: Isa, source: (Dtype, &[u8]), stored: (Dtype, &[u8])) -> u64 {
    isa.zeros(stored.0, stored.1).saturating_sub(isa.zeros(source.0, source.1))
}

/// Names the first value that is not finite, if the magnitude says that there is one.
fn check_finite(block: &Block<'_>, row: &[f32], magnitude: u32, start: usize) -> Result<()> {
    if magnitude < INFINITE {
        return Ok(());
    }
    let (_, columns) = block.tensor.rows_and_columns();
    match row.iter().position(|value| !value.is_finite()) {
        Some(position) => {
            let element = block.first + (start + position) as u64;
            Err(ConvertError::NotFinite {
                tensor: block.tensor.name.to_string(),
                value: row[position],
                row: element / columns.max(1),
                column: element % columns.max(1),
            }
            .into())
        }
        // The magnitude is that of the whole row, and the culprit lies in another part of it.
        None => Ok(()),
    }
}

/// Values from here on are infinite in a type: half a step beyond its largest finite one.
fn largest_rounded(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F16 => 65520.0,
        Dtype::BF16 => f32::from_bits(0x7f7f_8000),
        _ => f32::INFINITY,
    }
}

/// Deals with the codes -128 of a row whose step makes them infinite in the weight's type; 127 never is. Counts them,
/// limits them to -127, or names the first, as the policy is.
fn lowest_codes(rules: &Rules, block: &Block<'_>, row: &[f32], codes: &mut [u8]) -> Result<u64> {
    let mut count = 0;
    for (index, (code, value)) in
        codes.iter_mut().zip(row).enumerate().filter(|(_, (code, _))| **code == 0x80)
    {
        match rules.on_overflow {
            OnOverflow::Error => {
                return Err(ConvertError::Overflow {
                    tensor: block.tensor.name.to_string(),
                    value: *value,
                    element: block.first + index as u64,
                    dtype: match block.tensor.dtype {
                        Dtype::F16 => "int8 codes of fp16",
                        Dtype::BF16 => "int8 codes of bf16",
                        _ => "int8 codes of float32",
                    },
                }
                .into());
            }
            OnOverflow::Clamp => *code = 0x81,
            OnOverflow::Inf => {}
        }
        count += 1;
    }
    Ok(count)
}

/// Counts finite values beyond the range of `to`, or names the first where the policy is to stop.
fn overflow(rules: &Rules, block: &Block<'_>, row: &[f32], to: Dtype, quantized: bool) -> Result<u64> {
    let (limit, dtype) = (largest_rounded(to), if to == Dtype::F16 { "fp16" } else { "bf16" });
    let mut count = 0;
    for (index, value) in row.iter().enumerate() {
        if value.abs() >= limit && value.is_finite() {
            if rules.on_overflow == OnOverflow::Error || (quantized && rules.on_overflow == OnOverflow::Inf) {
                return Err(ConvertError::Overflow {
                    tensor: block.tensor.name.to_string(),
                    value: *value,
                    element: block.first + index as u64,
                    dtype,
                }
                .into());
            }
            count += 1;
        }
    }
    Ok(count)
}

/// Elements from `first` that make the next block of a tensor: whole rows where they are not too wide,
/// otherwise a part of one row; for casts and copies any run.
pub(super) fn block_elements(tensor: &TensorPlan, first: u64, total: u64) -> u64 {
    let rest = total - first;
    if tensor.fate != Fate::Quantize {
        return rest.min(BLOCK_LEN);
    }
    let (_, columns) = tensor.rows_and_columns();
    if columns > BLOCK_LEN {
        let in_row = columns - first % columns;
        return in_row.min(BLOCK_LEN);
    }
    let rows = (BLOCK_LEN / columns.max(1)).max(1);
    rest.min(rows * columns)
}

const _: () = assert!(BLOCK_LEN.is_multiple_of(GROUP_LEN) && BLOCK_LEN.is_multiple_of(CAST_ROW as u64));
