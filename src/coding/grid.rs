//! Codes that lie row by row, and their scales on a grid: from stored bytes to values, a piece at a time.
//!
//! Any range of elements can be had without the rest of the tensor. Memory is [`SCRATCH_LEN`] a thread.

use std::cell::RefCell;

use super::{Coding, Header, Parts, Settings, Step};
use crate::error::{CodesError, Result};
use crate::kernels::Isa;
use crate::scheme::Tile;
use crate::tensor::{Dtype, Float, element_count, element_len};

/// Elements decoded at a time, at most: a part of one row, or whole rows.
pub(crate) const PIECE_LEN: usize = 1 << 16;

/// Bytes of buffers that a thread keeps for decoding: the codes of a piece as they are stored and one by one, its scales and
/// zero points as they are stored and as numbers, each element its own in the worst case, and the values.
pub(crate) const SCRATCH_LEN: u64 = PIECE_LEN as u64 * (2 + 2 * (8 + 4) + 4);

/// Blocks that are tried where no configuration says how large they are: rows and columns.
const LIKELY: [u64; 6] = [128, 64, 32, 16, 256, 512];

/// How codes and scales of a weight lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    /// Rows of one matrix.
    pub(crate) rows: u64,
    /// Columns.
    pub(crate) columns: u64,
    /// The rectangle of elements that share a scale.
    pub(crate) tile: Tile,
    /// One scale for all matrices, where there are several.
    pub(crate) is_shared: bool,
    /// Bits of a code.
    pub(crate) bits: u64,
    /// Bytes of a stored row of codes.
    pub(crate) row_len: u64,
    /// Bytes of an element of the stored codes.
    pub(crate) unit: u64,
    /// The type of the scales.
    pub(crate) scales: Dtype,
    /// How zero points are stored, where there are any.
    pub(crate) zero: Option<ZeroPoints>,
}

/// How zero points are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZeroPoints {
    /// Signed bytes, as the scales.
    Bytes,
    /// So many bits each, packed into words down the rows.
    Packed(u64),
}

impl Grid {
    /// Codes of one byte in `codes`, with `scale` beside them.
    ///
    /// # Errors
    /// [`CodesError::PartShape`], [`CodesError::PartType`], [`CodesError::GroupLength`].
    pub(super) fn of_bytes(
        codes: &Header<'_>,
        scale: &Header<'_>,
        settings: &Settings,
    ) -> Result<Self, CodesError> {
        Self::new(codes, (codes.shape, 8), scale, settings)
    }

    /// Codes of `bits` that are values of `shape`.
    pub(super) fn new(
        codes: &Header<'_>,
        (shape, bits): (&[u64], u64),
        scale: &Header<'_>,
        settings: &Settings,
    ) -> Result<Self, CodesError> {
        let unit = element_len(codes.dtype).unwrap_or(1);
        let wrong = |expected: String| CodesError::PartShape {
            tensor: codes.name.to_owned(),
            part: scale.name.to_owned(),
            shape: scale.shape.to_vec(),
            expected,
        };
        is_scale(scale.dtype).then_some(()).ok_or_else(|| CodesError::PartType {
            tensor: codes.name.to_owned(),
            part: scale.name.to_owned(),
            dtype: scale.dtype,
        })?;
        let (rows, columns) = match shape {
            [.., rows, columns] => (*rows, *columns),
            [columns] => (1, *columns),
            [] => (1, 1),
        };
        let stored = codes.shape.last().copied().unwrap_or(1);
        let grid = |tile: Tile, is_shared: bool| Self {
            rows: rows.max(1),
            columns: columns.max(1),
            tile: Tile { rows: tile.rows.max(1), columns: tile.columns.max(1) },
            is_shared,
            bits,
            row_len: stored.saturating_mul(unit),
            unit,
            scales: scale.dtype,
            zero: None,
        };
        let tile = |rows, columns| Tile { rows, columns };
        let outer = shape.get(..shape.len().saturating_sub(2)).unwrap_or_default();
        if element_count(scale.shape) == Some(1) {
            return Ok(grid(tile(rows, columns), true));
        }
        // The scales of one matrix, down and across.
        let (down, across) = match scale.shape {
            of if of == outer => (1, 1),
            [length] if outer.is_empty() => (*length, 1),
            [before @ .., down] if before == outer && *down == rows => (*down, 1),
            [before @ .., down, across] if before == outer => (*down, *across),
            _ => return Err(wrong(format!("scales for {shape:?}"))),
        };
        if (down, across) == (1, 1) {
            return Ok(grid(tile(rows, columns), false));
        }
        if down == rows && across == 1 {
            return Ok(grid(tile(1, columns), false));
        }
        let fits =
            |[high, wide]: &[u64; 2]| down == rows.div_ceil(*high) && across == columns.div_ceil(*wide);
        if let Some([high, wide]) = settings.blocks().iter().find(|block| fits(block)) {
            return Ok(grid(tile(*high, *wide), false));
        }
        if down == rows {
            let told = settings.groups(bits).filter_map(|group| group.len).next();
            let len = columns.checked_div(across).unwrap_or(0);
            let divides = len > 0 && len.saturating_mul(across) == columns;
            if !divides || told.is_some() && settings.groups(bits).all(|group| group.len != Some(len)) {
                return Err(CodesError::GroupLength {
                    tensor: codes.name.to_owned(),
                    part: scale.name.to_owned(),
                    groups: across,
                    len: told,
                    columns,
                });
            }
            return Ok(grid(tile(1, len), false));
        }
        let pairs = LIKELY.iter().flat_map(|high| LIKELY.iter().map(|wide| [*high, *wide]));
        let square = LIKELY.iter().map(|side| [*side, *side]);
        let likely = square.chain(pairs).find(|block| fits(block)).filter(|_| settings.blocks().is_empty());
        match (likely, settings.blocks()) {
            (Some([high, wide]), _) => Ok(grid(tile(high, wide), false)),
            (None, [[high, wide], ..]) => Err(wrong(format!(
                "[{}, {}] for blocks of {high} × {wide} in {shape:?}",
                rows.div_ceil(*high),
                columns.div_ceil(*wide)
            ))),
            (None, []) => Err(wrong(format!("scales for blocks of {shape:?}"))),
        }
    }

    /// Scales side by side.
    fn across(&self) -> u64 {
        self.columns.div_ceil(self.tile.columns)
    }

    /// The row of scales that a row of all matrices, one below the other, has.
    fn scale_row(&self, row: u64) -> u64 {
        if self.is_shared {
            return 0;
        }
        row / self.rows * self.rows.div_ceil(self.tile.rows) + row % self.rows / self.tile.rows
    }

    /// The row of words with a row's zero points, and the bits before it there.
    fn zero_row(&self, row: u64, bits: u64) -> (u64, u64) {
        let (per_word, within) = (32 / bits.max(1), row % self.rows);
        (row / self.rows * self.rows.div_ceil(per_word) + within / per_word, within % per_word * bits)
    }
}

/// Whether scales may have this type.
pub(super) fn is_scale(dtype: Dtype) -> bool {
    Float::of(dtype).is_some() || matches!(dtype, Dtype::F8_E8M0 | Dtype::U8)
}

/// What one thread uses again for every piece.
#[derive(Default)]
struct Buffers {
    bytes: Vec<u8>,
    codes: Vec<u8>,
    stored: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<f32>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// Decodes elements from `first` on, as many as `row` has.
pub(super) fn decode(
    coding: &dyn Coding,
    grid: &Grid,
    parts: &dyn Parts,
    isa: Isa,
    first: u64,
    row: &mut [f32],
) -> Result<()> {
    BUFFERS.with_borrow_mut(|buffers| {
        let (mut at, mut rest) = (first, row);
        while !rest.is_empty() {
            let in_row = at % grid.columns;
            let columns = usize::try_from(grid.columns).unwrap_or(usize::MAX);
            let len = if in_row > 0 || rest.len() < columns || columns > PIECE_LEN {
                let left = usize::try_from(grid.columns - in_row).unwrap_or(usize::MAX);
                left.min(rest.len()).min(PIECE_LEN)
            } else {
                rest.len().min(PIECE_LEN) / columns * columns
            };
            let (piece, after) = rest.split_at_mut(len);
            decode_piece(coding, grid, parts, isa, at, piece, buffers)?;
            (at, rest) = (at + len as u64, after);
        }
        Ok(())
    })
}

/// Decodes a part of one row, or whole rows.
fn decode_piece(
    coding: &dyn Coding,
    grid: &Grid,
    parts: &dyn Parts,
    isa: Isa,
    first: u64,
    piece: &mut [f32],
    buffers: &mut Buffers,
) -> Result<()> {
    let (row, column) = (first / grid.columns, first % grid.columns);
    let width = (piece.len() as u64).min(grid.columns - column);
    let count = (piece.len() as u64).div_ceil(grid.columns);
    // The codes, from an element of the stored tensor to one.
    let before = column * grid.bits / 8 / grid.unit * grid.unit;
    let skip = column * grid.bits - before * 8;
    let end = if count == 1 {
        ((column + width) * grid.bits).div_ceil(8).next_multiple_of(grid.unit)
    } else {
        grid.row_len
    };
    let start = row * grid.row_len + before;
    let len = (count - 1) * grid.row_len + end - before;
    buffers.bytes.resize(len as usize, 0);
    parts.read(0, start / grid.unit, &mut buffers.bytes)?;
    // The scales of its tiles.
    let across = grid.across();
    let (top, bottom) = (grid.scale_row(row), grid.scale_row(row + count - 1));
    let tile = column / grid.tile.columns;
    let tiles = if top == bottom {
        (column + width).div_ceil(grid.tile.columns) - tile
    } else {
        (bottom - top + 1) * across
    };
    let tile = if top == bottom { tile } else { 0 };
    read_scales(grid, parts, isa, (top * across + tile, tiles), buffers)?;
    if let Some(zero) = grid.zero {
        read_zeros(grid, zero, parts, (row, count), (tile, top * across + tile, tiles), buffers)?;
    }
    buffers.codes.resize(width as usize, 0);
    for (index, values) in piece.chunks_mut(grid.columns as usize).enumerate() {
        let below = row + index as u64;
        let stored = buffers.bytes.get(index * grid.row_len as usize..).unwrap_or_default();
        let codes = buffers.codes.get_mut(..values.len()).unwrap_or_default();
        let codes = if coding.unpack(grid.bits, stored, skip, codes) {
            &*codes
        } else {
            let first = (skip / 8) as usize;
            stored.get(first..first + values.len()).unwrap_or_default()
        };
        let scale_row = (grid.scale_row(below) - top) * across;
        let zero_row = match grid.zero {
            Some(ZeroPoints::Packed(_)) if count > 1 => index as u64 * across,
            _ => scale_row,
        };
        // Dividing for every run would cost as much as decoding it.
        let mut place = (column / grid.tile.columns - tile) as usize;
        let mut len = grid.tile.columns - column % grid.tile.columns;
        let (mut codes, mut values) = (codes, values);
        while !values.is_empty() {
            let run = usize::try_from(len).unwrap_or(usize::MAX).min(values.len());
            let scale = buffers.scales.get(scale_row as usize + place).copied().unwrap_or(f32::NAN);
            let zero = match grid.zero {
                Some(_) => buffers.zeros.get(zero_row as usize + place).copied().unwrap_or(f32::NAN),
                None => 0.0,
            };
            let (these, after) = codes.split_at(run);
            let (decoded, left) = values.split_at_mut(run);
            coding.decode(isa, these, Step { scale, zero }, decoded);
            (codes, values) = (after, left);
            (place, len) = (place + 1, grid.tile.columns);
        }
    }
    Ok(())
}

/// Reads `count` scales from number `first` on, as binary32. None may be a NaN or infinite.
fn read_scales(
    grid: &Grid,
    parts: &dyn Parts,
    isa: Isa,
    (first, count): (u64, u64),
    buffers: &mut Buffers,
) -> Result<()> {
    let width = element_len(grid.scales).unwrap_or(1);
    buffers.stored.resize((count * width) as usize, 0);
    parts.read(1, first, &mut buffers.stored)?;
    buffers.scales.resize(count as usize, 0.0);
    match Float::of(grid.scales) {
        Some(float) => isa.widen(float, &buffers.stored, &mut buffers.scales),
        None => buffers
            .scales
            .iter_mut()
            .zip(&buffers.stored)
            .for_each(|(scale, byte)| *scale = power_of_two(*byte)),
    }
    match buffers.scales.iter().position(|scale| !scale.is_finite()) {
        None => Ok(()),
        Some(at) => Err(CodesError::BadScale {
            tensor: parts.name(1).to_owned(),
            number: first + at as u64,
            value: buffers.scales.get(at).copied().unwrap_or(f32::NAN),
        }
        .into()),
    }
}

/// E8M0: 2^(byte - 127), and NaN for 255.
fn power_of_two(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        byte => f32::from_bits(u32::from(byte) << 23),
    }
}

/// Reads the zero points of `count` rows from `row` on: as the scales lie, or a row of them for each row.
fn read_zeros(
    grid: &Grid,
    zero: ZeroPoints,
    parts: &dyn Parts,
    (row, count): (u64, u64),
    (tile, first, tiles): (u64, u64, u64),
    buffers: &mut Buffers,
) -> Result<()> {
    let bits = match zero {
        ZeroPoints::Bytes => {
            buffers.stored.resize(tiles as usize, 0);
            parts.read(2, first, &mut buffers.stored)?;
            buffers.zeros.clear();
            buffers.zeros.extend(buffers.stored.iter().map(|byte| f32::from(byte.cast_signed())));
            return Ok(());
        }
        ZeroPoints::Packed(bits) => bits,
    };
    let across = grid.across();
    let (top, _) = grid.zero_row(row, bits);
    let (bottom, _) = grid.zero_row(row + count - 1, bits);
    let words = if count == 1 { tiles } else { (bottom - top + 1) * across };
    buffers.stored.resize(words as usize * 4, 0);
    parts.read(2, top * across + if count == 1 { tile } else { 0 }, &mut buffers.stored)?;
    let words = buffers.stored.as_chunks::<4>().0;
    let (mask, half) = ((1u64 << bits) - 1, (1u64 << bits >> 1) as f32);
    buffers.zeros.clear();
    for below in row..row + count {
        let (word_row, shift) = grid.zero_row(below, bits);
        let from = ((word_row - top) * across) as usize;
        let len = if count == 1 { tiles } else { across } as usize;
        for word in words.get(from..).unwrap_or_default().iter().take(len) {
            let code = u64::from(u32::from_le_bytes(*word)) >> shift & mask;
            buffers.zeros.push(code as f32 - half);
        }
    }
    Ok(())
}
