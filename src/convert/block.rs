//! One block of a tensor: from bytes of the checkpoint to bytes of the bundle.
//!
//! Blocks are cut at fixed places (see [`BLOCK_LEN`]), so the error figures, whose sums are sealed, do not
//! depend on threads or memory. What a code means is the codec's. Carries out formats/schemes.md, "Arithmetic".

use std::ops::Range;

use crate::error::{ConvertError, Result};
use crate::kernels::{Isa, Moments};
use crate::plan::{Fate, Plan, TensorPlan};
use crate::scheme::{Codec, OnOverflow, Overflow, Run, Tile};
use crate::tensor::Float;

/// Elements of a block, at most, where no tile is larger. Rows of up to this many are kept whole; part of the format,
/// because the error figures are summed block by block.
pub(super) const BLOCK_LEN: u64 = 1 << 16;

/// Elements of a cast tensor that are measured as one row; part of the format.
const CAST_ROW: usize = 4096;

/// The bits of an infinite f32: magnitudes from here on are not finite.
const INFINITE: u32 = 0x7f80_0000;

/// What a block is computed with, the same for all blocks of a conversion.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub(super) isa: Isa,
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

/// Bytes of scratch that one thread needs for a plan: the source of a block, as F64, and two f32 rows.
pub(super) fn scratch_len(plan: &Plan) -> u64 {
    largest_block(plan) * 8 + BLOCK_LEN * (4 + 4)
}

/// Elements of the largest block of a plan, and [`BLOCK_LEN`] at least.
pub(super) fn largest_block(plan: &Plan) -> u64 {
    let band = |tensor: &TensorPlan| match tensor.fate {
        Fate::Quantize { codec, .. } => {
            let (_, columns) = tensor.rows_and_columns();
            match codec.tile(columns).rows {
                // Of any width: a row that is wider than a block is cut.
                1 => 0,
                rows => rows.saturating_mul(columns),
            }
        }
        Fate::Copy | Fate::Cast { .. } => 0,
    };
    plan.tensors.iter().map(band).fold(BLOCK_LEN, u64::max)
}

/// A block's place in its tensor: elements, counted row-major, and their bytes.
pub(super) struct Block<'a> {
    pub(super) tensor: &'a TensorPlan,
    /// The elements' type in the checkpoint.
    pub(super) from: Float,
    pub(super) first: u64,
    pub(super) source: &'a [u8],
}

impl<'a> Block<'a> {
    /// The bytes of some elements of this block.
    fn bytes(&self, elements: &Range<usize>) -> &'a [u8] {
        &self.source[elements.start * self.from.byte_len()..elements.end * self.from.byte_len()]
    }

    /// The tiles that lie in this block, or the parts of one wide row's, in the order of their scales.
    fn tiles(&self, codec: &dyn Codec) -> impl Iterator<Item = Runs> + use<> {
        let (_, columns) = self.tensor.rows_and_columns();
        let elements = self.source.len() / self.from.byte_len();
        // What is narrower than a row is a part of one.
        let width = elements.min(columns as usize).max(1);
        let Tile { rows, columns } = codec.tile(columns);
        let (rows, columns) = (rows as usize, columns.min(width as u64) as usize);
        let bands = (0..elements / width).step_by(rows);
        bands.flat_map(move |row| {
            let rows = row..(row + rows).min(elements / width);
            (0..width).step_by(columns).map(move |column| Runs {
                rows: rows.clone(),
                columns: column..(column + columns).min(width),
                width,
            })
        })
    }
}

/// The runs of a tile: the parts of the block's rows that lie in it.
#[derive(Clone)]
struct Runs {
    rows: Range<usize>,
    columns: Range<usize>,
    /// Elements of a row of the block.
    width: usize,
}

impl Iterator for Runs {
    type Item = Range<usize>;

    /// The elements of the next run, counted from the first of the block.
    fn next(&mut self) -> Option<Range<usize>> {
        let start = self.rows.next()? * self.width;
        Some(start + self.columns.start..start + self.columns.end)
    }
}

/// The magnitude, as bits, of each tile of a block, or of the part of one wide row that lies in it.
pub(super) fn magnitudes(
    rules: &Rules,
    block: &Block<'_>,
    codec: &dyn Codec,
    buffers: &mut Scratch,
) -> Result<Vec<u32>> {
    block.tiles(codec).map(|runs| magnitude(rules.isa, block, runs, buffers)).collect()
}

/// The magnitude, as bits, of a tile. Leaves its last run widened.
fn magnitude(isa: Isa, block: &Block<'_>, runs: Runs, buffers: &mut Scratch) -> Result<u32> {
    let mut largest = 0;
    for run in runs {
        let row = widen(isa, block.from, block.bytes(&run), &mut buffers.original);
        let found = isa.magnitude(row);
        check_finite(block, row, found, run.start)?;
        largest = found.max(largest);
    }
    Ok(largest)
}

/// Computes the codes of a block of whole tiles, or of a part of one wide row. `known`: the magnitudes of its tiles, if
/// these are known.
///
/// Appends the scales to `scales` unless the magnitudes are known already.
pub(super) fn quantize(
    rules: &Rules,
    block: &Block<'_>,
    codec: &dyn Codec,
    known: Option<&[u32]>,
    buffers: &mut Scratch,
    codes: &mut [u8],
    scales: &mut Vec<u8>,
) -> Result<Figures> {
    let bits = codec.code_bits() as usize;
    let mut figures = Figures::default();
    for (index, runs) in block.tiles(codec).enumerate() {
        let magnitude = match known {
            Some(known) => known.get(index).copied().unwrap_or(0),
            None => magnitude(rules.isa, block, runs.clone(), buffers)?,
        };
        let scale = codec.scale(block.from, f32::from_bits(magnitude));
        let is_widened = known.is_none() && runs.rows.len() == 1;
        for run in runs {
            let source = block.bytes(&run);
            if !is_widened {
                widen(rules.isa, block.from, source, &mut buffers.original);
            }
            let row = &mut buffers.original;
            let mut decoded = rules.stats.then(|| resized(&mut buffers.rounded, row.len()));
            let encoded = codec.encode(
                &Run { isa: rules.isa, float: block.from, on_overflow: rules.on_overflow, row, scale },
                &mut codes[run.start * bits / 8..run.end * bits / 8],
                decoded.as_deref_mut(),
            );
            let counts = encoded.map_err(|overflow| overflows(block, run.start, overflow))?;
            figures.clipped += counts.clipped;
            figures.overflowed += counts.overflowed;
            let Some(decoded) = decoded else { continue };
            if counts.overflowed > 0 {
                for (value, decoded) in row.iter_mut().zip(decoded.iter_mut()) {
                    if decoded.abs() >= codec.overflow(block.from) {
                        (*value, *decoded) = (0.0, 0.0);
                    }
                }
            }
            figures.moments.add(&rules.isa.measure(row, decoded, f32::from_bits(magnitude)));
            figures.flushed += counts.zeros.saturating_sub(rules.isa.zeros(block.from, source));
        }
        if known.is_none() {
            codec.scale_type(block.from).write(scale.stored, scales);
        }
    }
    Ok(figures)
}

/// Rounds a block to another float type.
pub(super) fn cast(
    rules: &Rules,
    block: &Block<'_>,
    to: Float,
    buffers: &mut Scratch,
    out: &mut [u8],
) -> Result<Figures> {
    let from = block.from;
    let limit = to.overflow().to_bits();
    let mut figures = Figures::default();
    for (index, (source, out)) in block
        .source
        .chunks(CAST_ROW * from.byte_len())
        .zip(out.chunks_mut(CAST_ROW * to.byte_len()))
        .enumerate()
    {
        let row = widen(rules.isa, from, source, &mut buffers.original);
        let magnitude = rules.isa.magnitude(row);
        let special = magnitude >= limit;
        if special {
            figures.non_finite += row.iter().filter(|value| !value.is_finite()).count() as u64;
            figures.overflowed += count_overflow(rules, block, index * CAST_ROW, row, to)?;
            if rules.on_overflow == OnOverflow::Clamp {
                for value in row.iter_mut().filter(|value| value.is_finite()) {
                    *value = value.clamp(-to.largest(), to.largest());
                }
            }
        }
        rules.isa.narrow(to, row, out);
        if rules.stats {
            let decoded = resized(&mut buffers.rounded, row.len());
            rules.isa.widen(to, out, decoded);
            let mut largest = f32::from_bits(magnitude);
            if special {
                let row = widen(rules.isa, from, source, &mut buffers.original);
                for (value, decoded) in row.iter_mut().zip(decoded.iter_mut()) {
                    if !value.is_finite() || !decoded.is_finite() {
                        (*value, *decoded) = (0.0, 0.0);
                    }
                }
                largest = f32::from_bits(rules.isa.magnitude(row));
            }
            let row = buffers.original.as_slice();
            figures.moments.add(&rules.isa.measure(row, decoded, largest));
            let zeros = rules.isa.zeros(to, out);
            figures.flushed += zeros.saturating_sub(rules.isa.zeros(from, source));
        }
    }
    Ok(figures)
}

fn resized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    buffer.resize(len, 0.0);
    buffer
}

/// Widens a row to f32. A finite F64 beyond f32's range becomes the largest f32 of its sign, not an infinity: it
/// overflows whatever it is converted to, and must differ from an infinity of the checkpoint.
fn widen<'a>(isa: Isa, from: Float, source: &[u8], buffer: &'a mut Vec<f32>) -> &'a mut [f32] {
    let row = resized(buffer, source.len() / from.byte_len());
    isa.widen(from, source, row);
    if from == Float::F64 && isa.magnitude(row) >= INFINITE {
        for (value, bytes) in row.iter_mut().zip(source.as_chunks::<8>().0) {
            if f64::from_le_bytes(*bytes).is_finite() {
                *value = value.clamp(f32::MIN, f32::MAX);
            }
        }
    }
    row
}

/// Names the first value that is not finite, if the magnitude says that there is one. `start`: the first element of the
/// row in the block.
fn check_finite(block: &Block<'_>, row: &[f32], magnitude: u32, start: usize) -> Result<()> {
    if magnitude < INFINITE {
        return Ok(());
    }
    let (_, columns) = block.tensor.rows_and_columns();
    let Some(position) = row.iter().position(|value| !value.is_finite()) else { return Ok(()) };
    let element = block.first + (start + position) as u64;
    Err(ConvertError::NotFinite {
        tensor: block.tensor.name.to_string(),
        value: row[position],
        row: element / columns.max(1),
        column: element % columns.max(1),
    }
    .into())
}

/// Counts finite values beyond the range of `to`, or names the first where the policy is to stop.
fn count_overflow(rules: &Rules, block: &Block<'_>, start: usize, row: &[f32], to: Float) -> Result<u64> {
    let is_beyond = |value: &f32| value.abs() >= to.overflow() && value.is_finite();
    if rules.on_overflow == OnOverflow::Error
        && let Some(index) = row.iter().position(is_beyond)
    {
        let overflow = Overflow { index, value: row[index], into: to.word().to_owned() };
        return Err(overflows(block, start, overflow));
    }
    Ok(row.iter().filter(|value| is_beyond(value)).count() as u64)
}

/// The error for a value that does not fit. `start`: the first element of its run in the block.
fn overflows(block: &Block<'_>, start: usize, overflow: Overflow) -> crate::Error {
    ConvertError::Overflow {
        tensor: block.tensor.name.to_string(),
        value: overflow.value,
        element: block.first + (start + overflow.index) as u64,
        dtype: overflow.into,
    }
    .into()
}

/// Elements from `first` that make the next block of a tensor: whole bands of tiles where they are not too wide,
/// otherwise one band, or a part of one row; for casts and copies any run.
pub(super) fn block_elements(tensor: &TensorPlan, first: u64, total: u64) -> u64 {
    let rest = total - first;
    let Fate::Quantize { codec, .. } = tensor.fate else { return rest.min(BLOCK_LEN) };
    let (_, columns) = tensor.rows_and_columns();
    let band = codec.tile(columns).rows;
    if columns > BLOCK_LEN && band == 1 {
        let in_row = columns - first % columns;
        return in_row.min(BLOCK_LEN);
    }
    let bands = (BLOCK_LEN / columns.saturating_mul(band).max(1)).max(1);
    rest.min(bands.saturating_mul(band).saturating_mul(columns))
}

/// The number of the tile that the element `first` lies in.
pub(super) fn tile_at(tensor: &TensorPlan, codec: &dyn Codec, first: u64) -> usize {
    let (_, columns) = tensor.rows_and_columns();
    let tile = codec.tile(columns);
    let across = columns.div_ceil(tile.columns);
    (first / columns.max(1) / tile.rows * across + first % columns.max(1) / tile.columns) as usize
}

/// Tiles of a tensor.
pub(super) fn tile_count(tensor: &TensorPlan, codec: &dyn Codec) -> usize {
    let (rows, columns) = tensor.rows_and_columns();
    let tile = codec.tile(columns);
    (rows.div_ceil(tile.rows) * columns.div_ceil(tile.columns)) as usize
}

const _: () = assert!(BLOCK_LEN.is_multiple_of(CAST_ROW as u64));
