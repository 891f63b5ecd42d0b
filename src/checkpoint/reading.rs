//! How the elements of a tensor are had: as they are stored, decoded from codes, or turned round.
//!
//! A reading may lie within another. Any range of elements can be read from any number of threads, in bounded memory:
//! [`Checkpoint::scratch_len`] a thread, and panels of a turned matrix ([`Checkpoint::panels_len`]).

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::awaited::Held;
use super::{Checkpoint, SourceTensor, torch};
use crate::coding::{self, CodedWeight, Parts};
use crate::error::{CheckpointError, Error, IoError, Result};
use crate::tensor::{Float, element_count, element_len};

/// How the elements of a tensor are had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reading {
    /// They lie in a file.
    Stored(Span),
    /// They are decoded from other tensors.
    Coded(Box<Coded>),
    /// They are those of a tensor whose last two dimensions stand the other way round.
    Transposed(Box<SourceTensor>),
}

/// Where a file has a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The file it is in: a place in [`Checkpoint::files`].
    pub file: usize,
    /// Its first byte, from the start of that file; no alignment is promised. Where the file is compressed, the
    /// first byte of the compressed storage.
    pub offset: u64,
    /// How a torch file has it; `None` for the row-major, little-endian bytes of safetensors.
    pub view: Option<Box<torch::View>>,
}

/// A weight and the tensors that it is decoded from, as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Coded {
    /// How.
    pub weight: CodedWeight,
    /// In the order of its parts.
    pub parts: Vec<SourceTensor>,
    /// What else is stored for it, and is not read.
    pub beside: Vec<SourceTensor>,
}

impl SourceTensor {
    /// Where it lies, if it is stored as it is.
    pub fn span(&self) -> Option<&Span> {
        match &self.reading {
            Reading::Stored(span) => Some(span),
            Reading::Coded(_) | Reading::Transposed(_) => None,
        }
    }

    /// The weight that it is decoded from.
    pub(crate) fn coded(&self) -> Option<&Coded> {
        match &self.reading {
            Reading::Stored(_) => None,
            Reading::Coded(coded) => Some(coded),
            Reading::Transposed(of) => of.coded(),
        }
    }

    /// Every stored tensor that it is read from: itself, or codes and scales.
    pub fn stored(&self) -> Vec<&SourceTensor> {
        match self.coded() {
            None => vec![self],
            Some(coded) => coded.parts.iter().flat_map(Self::stored).collect(),
        }
    }

    /// Where these lie.
    pub fn spans(&self) -> impl Iterator<Item = &Span> {
        self.stored().into_iter().filter_map(Self::span)
    }

    /// Bytes that are stored for it, in all.
    pub fn stored_len(&self) -> u64 {
        let beside = self.coded().into_iter().flat_map(|coded| &coded.beside);
        let stored = self.stored();
        let lengths = stored.into_iter().chain(beside).map(|tensor| tensor.byte_len);
        lengths.fold(0, u64::saturating_add)
    }

    /// The type that its values are defined in, where it is a float: binary32 where they are decoded and nothing rounds them
    /// before the tensor's own type does.
    pub fn defined(&self) -> Option<Float> {
        let is_exact = self.coded().is_some_and(|coded| coded.weight.rounded.is_none());
        if is_exact { Some(Float::F32) } else { Float::of(self.dtype) }
    }
}

/// Bytes of a panel of a turned matrix: so many of its rows lie together as this holds.
const PANEL_LEN: u64 = 8 << 20;
/// Elements that are decoded before they are rounded, so that they are in the CPU's cache still.
const VALUES_LEN: usize = 1 << 13;
/// Panels that are kept where nobody said how many are in use.
const PANELS: usize = 4;

/// What a panel is of: the place of the first stored tensor, the matrix, the panel's number there, the type.
type PanelKey = ((usize, u64), u64, u64, Float);

/// A panel, empty until somebody needs it.
type Panel = Arc<Mutex<Vec<u8>>>;

/// Parts of turned matrices that were read last.
#[derive(Debug)]
pub(super) struct Panels {
    held: Mutex<Vec<(PanelKey, Panel)>>,
    most: AtomicUsize,
}

impl Default for Panels {
    fn default() -> Self {
        Self { held: Mutex::default(), most: AtomicUsize::new(PANELS) }
    }
}

impl Panels {
    /// The panel of this key; the one that was not used for longest goes.
    fn get(&self, key: PanelKey) -> Panel {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let found = held.iter().position(|(of, _)| *of == key);
        let entry = found.map_or_else(|| (key, Panel::default()), |at| held.remove(at));
        let panel = entry.1.clone();
        held.push(entry);
        let over = held.len().saturating_sub(self.most.load(Ordering::Relaxed).max(1));
        held.drain(..over);
        panel
    }
}

thread_local! {
    static VALUES: RefCell<Vec<f32>> = RefCell::default();
}

impl Checkpoint {
    /// Fills `buf` with elements of a tensor of this checkpoint, row-major and little-endian, from its element
    /// number `first` on. Any number of threads may.
    ///
    /// A torch file's storage is held against its CRC before the first of its bytes is given out.
    ///
    /// # Errors
    /// [`CheckpointError::ReadPastEnd`] where the file or the tensor ends before `buf` is full;
    /// [`CheckpointError::Torch`] where a storage is damaged; [`CheckpointError::NotHere`] where the file is
    /// awaited or was let go; [`crate::error::CodesError`] where codes cannot be decoded.
    pub fn read(&self, tensor: &SourceTensor, first: u64, buf: &mut [u8]) -> Result<()> {
        match Float::of(tensor.dtype) {
            Some(float) => self.read_as(tensor, float, first, buf),
            None => self.read_stored(tensor, first, buf),
        }
    }

    /// The same, each element as a `float`: the tensor's type, or the one that its values are defined in
    /// ([`SourceTensor::defined`]).
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn read_as(&self, tensor: &SourceTensor, float: Float, first: u64, buf: &mut [u8]) -> Result<()> {
        let width = float.byte_len() as u64;
        match &tensor.reading {
            Reading::Stored(_) => self.read_stored(tensor, first, buf),
            Reading::Coded(coded) => {
                self.check_range(tensor, first, buf.len() as u64 / width)?;
                self.read_coded(coded, float, first, buf)
            }
            Reading::Transposed(of) => {
                self.check_range(tensor, first, buf.len() as u64 / width)?;
                self.read_turned(of, float, first, buf)
            }
        }
    }

    /// Refuses a range that the tensor does not have.
    fn check_range(&self, tensor: &SourceTensor, first: u64, len: u64) -> Result<()> {
        let elements = element_count(&tensor.shape).unwrap_or(0);
        if first.checked_add(len).is_some_and(|end| end <= elements) {
            return Ok(());
        }
        let path = self.root.shown(tensor.name.as_str());
        Err(CheckpointError::ReadPastEnd { path, offset: first, byte_len: len }.into())
    }

    fn read_coded(&self, coded: &Coded, float: Float, first: u64, buf: &mut [u8]) -> Result<()> {
        let parts = OfCheckpoint { checkpoint: self, parts: &coded.parts };
        let mut values = VALUES.take();
        let mut at = first;
        for out in buf.chunks_mut(VALUES_LEN * float.byte_len()) {
            values.resize(out.len() / float.byte_len(), 0.0);
            coded.weight.decode(&parts, self.isa, at, &mut values)?;
            self.isa.narrow(float, &values, out);
            at += values.len() as u64;
        }
        VALUES.set(values);
        Ok(())
    }

    /// Reads elements of `of` with its last two dimensions exchanged, panel by panel.
    fn read_turned(&self, of: &SourceTensor, float: Float, first: u64, buf: &mut [u8]) -> Result<()> {
        let [.., rows, columns] = of.shape.as_slice() else { return self.read_as(of, float, first, buf) };
        let (rows, columns) = ((*rows).max(1), (*columns).max(1));
        let width = float.byte_len() as u64;
        let wide = panel_columns(rows, columns, width);
        let origin = of.spans().next().map_or((0, 0), |span| (span.file, span.offset));
        let (mut at, mut rest) = (first, buf);
        while !rest.is_empty() {
            let (matrix, within) = (at / (rows * columns), at % (rows * columns));
            let number = within / rows / wide;
            let start = number * wide;
            let count = wide.min(columns - start);
            let offset = (within - start * rows) * width;
            let len = (count * rows * width - offset).min(rest.len() as u64) as usize;
            let panel = self.panels.get((origin, matrix, number, float));
            let mut panel = panel.lock().unwrap_or_else(PoisonError::into_inner);
            if panel.is_empty() {
                let filled = self.fill_panel(of, float, matrix * rows * columns + start, count, &mut panel);
                filled.inspect_err(|_| panel.clear())?;
            }
            let (out, after) = rest.split_at_mut(len);
            if let Some(bytes) = panel.get(offset as usize..offset as usize + len) {
                out.copy_from_slice(bytes);
            }
            drop(panel);
            (at, rest) = (at + len as u64 / width, after);
        }
        Ok(())
    }

    /// Reads `count` columns of one matrix, from the element `first` on, and lays each out as a row.
    fn fill_panel(
        &self,
        of: &SourceTensor,
        float: Float,
        first: u64,
        count: u64,
        panel: &mut Vec<u8>,
    ) -> Result<()> {
        /// Rows turned together: what is written of a column is then a cache line or two.
        const TOGETHER: u64 = 64;
        let [.., rows, columns] = of.shape.as_slice() else { return Ok(()) };
        let (rows, columns, width) = (*rows, *columns, float.byte_len());
        panel.resize((rows * count) as usize * width, 0);
        let mut band = vec![0; (TOGETHER.min(rows) * count) as usize * width];
        for top in (0..rows).step_by(TOGETHER as usize) {
            let high = TOGETHER.min(rows - top);
            for row in 0..high {
                let from = (row * count) as usize * width;
                let segment = band.get_mut(from..from + count as usize * width).unwrap_or_default();
                self.read_as(of, float, first + (top + row) * columns, segment)?;
            }
            let shape = (high as usize, count as usize);
            let (to, below) = (panel.get_mut(top as usize * width..).unwrap_or_default(), rows as usize);
            match width {
                2 => turn::<2>(&band, shape, to, below),
                4 => turn::<4>(&band, shape, to, below),
                _ => turn::<8>(&band, shape, to, below),
            }
        }
        Ok(())
    }

    /// Elements as they are stored.
    fn read_stored(&self, tensor: &SourceTensor, first: u64, buf: &mut [u8]) -> Result<()> {
        let start = first.saturating_mul(element_len(tensor.dtype).unwrap_or(1));
        let past_end = |path: &str, offset: u64| CheckpointError::ReadPastEnd {
            path: self.root.shown(path),
            offset,
            byte_len: buf.len() as u64,
        };
        let span = tensor.span().and_then(|span| Some((span, self.files.get(span.file)?)));
        let Some((span, source)) = span else { return Err(past_end("", start).into()) };
        if start.checked_add(buf.len() as u64).is_none_or(|end| end > tensor.byte_len) {
            return Err(past_end(&source.path, start).into());
        }
        let end_told = past_end(&source.path, span.offset + start);
        let failed = |error: io::Error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                Error::from(end_told)
            } else {
                IoError::new("reading a file of the checkpoint", self.root.shown(&source.path), error).into()
            }
        };
        let held = source.handle.get();
        let Held::Open(file, _) = &*held else {
            return Err(CheckpointError::NotHere { path: self.root.shown(&source.path) }.into());
        };
        let file: &File = file;
        let storage = span.view.as_ref().and_then(|view| Some((view, source.storages.get(view.storage)?)));
        let Some((view, storage)) = storage else {
            return file.read_exact_at(buf, span.offset + start).map_err(failed);
        };
        storage.read(file, view, (tensor.dtype, &tensor.shape), first, buf).map_err(|fault| match fault {
            torch::TorchReadFault::Io(error) => failed(error),
            fault => fault.at(&self.root.shown(&source.path)),
        })
    }

    /// True where a tensor's bytes can only be had by reading its storage from the start: blocks are then best
    /// read one after the other.
    pub fn is_compressed(&self, tensor: &SourceTensor) -> bool {
        tensor.spans().any(|span| {
            let storage = |view: &torch::View| self.files.get(span.file)?.storages.get(view.storage);
            span.view.as_deref().and_then(storage).is_some_and(torch::TorchStorage::is_compressed)
        })
    }

    /// Bytes that one thread takes while it reads, beside the buffer it fills.
    pub fn scratch_len(&self) -> u64 {
        let of_torch =
            if self.files.iter().any(|file| !file.storages.is_empty()) { torch::SCRATCH_LEN } else { 0 };
        let is_coded = self.tensors.iter().any(|tensor| tensor.coded().is_some());
        of_torch + if is_coded { coding::SCRATCH_LEN } else { 0 }
    }

    /// Bytes of the largest panel of a turned matrix; 0 where there is none.
    pub fn panels_len(&self) -> u64 {
        let of = |tensor: &SourceTensor| match (&tensor.reading, tensor.shape.as_slice()) {
            (Reading::Transposed(_), [.., columns, rows]) => {
                let (rows, columns, width) = ((*rows).max(1), (*columns).max(1), 4);
                // A band of rows lies beside the panel while it is filled.
                panel_columns(rows, columns, width)
                    .saturating_mul(rows.saturating_add(64))
                    .saturating_mul(width)
            }
            _ => 0,
        };
        self.tensors.iter().map(of).max().unwrap_or(0)
    }

    /// Keeps as many panels as lanes use at a time.
    pub(crate) fn keep_panels(&self, count: usize) {
        self.panels.most.store(count.max(1), Ordering::Relaxed);
    }
}

/// Writes the columns of `band`, `high` rows of `count` elements of so many bytes, as rows that begin `below` elements after
/// each other.
fn turn<const WIDTH: usize>(band: &[u8], (high, count): (usize, usize), to: &mut [u8], below: usize) {
    let (band, to) = (band.as_chunks::<WIDTH>().0, to.as_chunks_mut::<WIDTH>().0);
    for column in 0..count {
        let from = column * below;
        let out = to.get_mut(from..from + high).unwrap_or_default();
        let values = band.iter().skip(column).step_by(count);
        out.iter_mut().zip(values).for_each(|(out, value)| *out = *value);
    }
}

/// Columns of a matrix that a panel holds as rows.
fn panel_columns(rows: u64, columns: u64, width: u64) -> u64 {
    (PANEL_LEN / rows.saturating_mul(width).max(1)).clamp(1, columns)
}

/// The parts of a weight, read from a checkpoint.
struct OfCheckpoint<'a> {
    checkpoint: &'a Checkpoint,
    parts: &'a [SourceTensor],
}

impl Parts for OfCheckpoint<'_> {
    fn read(&self, part: usize, first: u64, buf: &mut [u8]) -> Result<()> {
        match self.parts.get(part) {
            Some(tensor) => self.checkpoint.read_stored(tensor, first, buf),
            None => Ok(()),
        }
    }

    fn name(&self, part: usize) -> &str {
        self.parts.get(part).map_or("", |tensor| tensor.name.as_str())
    }
}
