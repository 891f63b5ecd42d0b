//! The bytes of a torch file's storages: where they lie, that they are whole, and how a view of one is read.
//!
//! A storage is a run of elements; a tensor is a view of one, perhaps with strides. Reading gives a view's
//! elements row-major and little-endian, whatever the file has. Before a storage's first byte is given out, all
//! of it has been held against its CRC, once. Memory is bounded: buffers of [`CHUNK_LEN`], never a storage.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use flate2::{Decompress, FlushDecompress, Status};

use super::zip::Method;
use super::{ReadAt, TorchReadFault};
use crate::error::TorchFault;
use crate::tensor::{Dtype, element_len};

/// Bytes read at a time where a storage is passed through.
const CHUNK_LEN: usize = 256 << 10;

/// Elements of a strided view that are gathered at a time.
const GATHER_LEN: usize = 1 << 15;

/// Gaps up to this many bytes between wanted elements are read along: a read call costs as much.
const GAP_LEN: u64 = 512;

/// Bytes that reading a strided or compressed view takes in one thread.
pub(crate) const SCRATCH_LEN: u64 = (GATHER_LEN * 16 + 2 * CHUNK_LEN) as u64;

/// Streams kept at their places for the next read of a compressed storage.
const MAX_STREAMS: usize = 4;

/// One storage of a torch file.
#[derive(Debug)]
pub(crate) struct TorchStorage {
    /// Its name for people: the member, or the key in a legacy file.
    pub(super) name: String,
    pub(super) method: Method,
    /// Where its bytes begin in the file.
    pub(super) offset: u64,
    /// Bytes in the file.
    pub(super) stored_len: u64,
    /// Bytes of its content.
    pub(super) len: u64,
    /// CRC-32 of its content; legacy files have none.
    pub(super) crc: Option<u32>,
    pub(super) big_endian: bool,
    pub(super) checked: AtomicBool,
    /// Held while it is checked, so that this happens once; and the streams of a compressed one.
    pub(super) streams: Mutex<Vec<Stream>>,
}

/// A view of a storage that lies inside it: checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The storage: a place in the file's list of storages. Views of one number share their elements.
    pub storage: usize,
    /// First element, in elements from the start of the storage.
    pub start: u64,
    /// Elements between neighbours, for each dimension of the tensor.
    pub strides: Vec<u64>,
    /// True where the elements follow each other row-major.
    pub is_contiguous: bool,
}

impl TorchStorage {
    /// A storage whose bytes are in the file unchanged, little-endian, with no CRC.
    pub(super) fn stored(name: String, offset: u64, len: u64) -> Self {
        Self {
            name,
            method: Method::Stored,
            offset,
            stored_len: len,
            len,
            crc: None,
            big_endian: false,
            checked: AtomicBool::new(false),
            streams: Mutex::default(),
        }
    }

    /// True where its bytes can only be read from its start on.
    pub(crate) fn is_compressed(&self) -> bool {
        self.method == Method::Deflated
    }

    /// Fills `out` with elements of a view, from its element `first` on.
    pub(in super::super) fn read(
        &self,
        file: &dyn ReadAt,
        view: &View,
        (dtype, shape): (Dtype, &[u64]),
        first: u64,
        out: &mut [u8],
    ) -> Result<(), TorchReadFault> {
        self.check(file)?;
        // Views of packed types are never made.
        let width = element_len(dtype).unwrap_or(1);
        if view.is_contiguous {
            self.read_at(file, (view.start + first) * width, out)?;
        } else {
            let mut first = first;
            for out in out.chunks_mut(GATHER_LEN * width as usize) {
                self.gather(file, view, shape, first, width, out)?;
                first += out.len() as u64 / width;
            }
        }
        if self.big_endian {
            let part = if dtype == Dtype::C64 { width / 2 } else { width };
            if part > 1 {
                out.chunks_exact_mut(part as usize).for_each(<[u8]>::reverse);
            }
        }
        Ok(())
    }

    /// Gathers elements one by one, in the order in which they lie in the storage.
    fn gather(
        &self,
        file: &dyn ReadAt,
        view: &View,
        shape: &[u64],
        first: u64,
        width: u64,
        out: &mut [u8],
    ) -> Result<(), TorchReadFault> {
        let count = out.len() as u64 / width;
        let mut places: Vec<(u64, u32)> = Vec::with_capacity(count as usize);
        let mut index = unravel(first, shape);
        for target in 0..count {
            // Checked when the view was made: every element lies in the storage.
            let steps: u64 = index.iter().zip(&view.strides).map(|(index, stride)| index * stride).sum();
            places.push(((view.start + steps) * width, target as u32));
            for (index, dim) in index.iter_mut().zip(shape).rev() {
                *index += 1;
                if *index < *dim {
                    break;
                }
                *index = 0;
            }
        }
        places.sort_unstable();
        let mut buffer = vec![0; CHUNK_LEN];
        let mut rest = places.as_slice();
        while let Some((start, _)) = rest.first().copied() {
            let mut end = start + width;
            let run = rest
                .iter()
                .take_while(|(at, _)| {
                    let near = *at <= end + GAP_LEN && at + width - start <= CHUNK_LEN as u64;
                    end = if near { end.max(at + width) } else { end };
                    near
                })
                .count();
            let (run, after) = rest.split_at(run.max(1));
            rest = after;
            let bytes = buffer.get_mut(..(end - start) as usize).unwrap_or_default();
            self.read_at(file, start, bytes)?;
            for (at, target) in run {
                let (from, to) = ((at - start) as usize, *target as usize * width as usize);
                let source = bytes.get(from..from + width as usize);
                if let (Some(source), Some(target)) = (source, out.get_mut(to..to + width as usize)) {
                    target.copy_from_slice(source);
                }
            }
        }
        Ok(())
    }

    /// Fills `out` with the content from byte `start` on.
    pub(super) fn read_at(
        &self,
        file: &dyn ReadAt,
        start: u64,
        out: &mut [u8],
    ) -> Result<(), TorchReadFault> {
        if out.is_empty() {
            return Ok(());
        }
        if self.method == Method::Stored {
            return Ok(file.read_exact_at(out, self.offset + start)?);
        }
        let taken = {
            let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
            let best = (0..streams.len())
                .filter(|index| streams.get(*index).is_some_and(|stream| stream.at <= start))
                .max_by_key(|index| streams.get(*index).map_or(0, |stream| stream.at));
            best.map(|index| streams.remove(index))
        };
        let mut stream = taken.unwrap_or_else(Stream::new);
        let mut buffer = vec![0; CHUNK_LEN];
        while stream.at < start {
            let len = (start - stream.at).min(CHUNK_LEN as u64) as usize;
            stream.fill(self, file, buffer.get_mut(..len).unwrap_or_default())?;
        }
        stream.fill(self, file, out)?;
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if streams.len() >= MAX_STREAMS {
            streams.remove(0);
        }
        streams.push(stream);
        Ok(())
    }

    /// Holds all bytes against the CRC, the first time.
    fn check(&self, file: &dyn ReadAt) -> Result<(), TorchReadFault> {
        if self.checked.load(Ordering::Acquire) {
            return Ok(());
        }
        let _once = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if self.checked.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(expected) = self.crc {
            let mut hasher = crc32fast::Hasher::new();
            let mut buffer = vec![0; CHUNK_LEN];
            let mut stream = Stream::new();
            let mut at = 0;
            while at < self.len {
                let len = (self.len - at).min(CHUNK_LEN as u64) as usize;
                let bytes = buffer.get_mut(..len).unwrap_or_default();
                match self.method {
                    Method::Stored => file.read_exact_at(bytes, self.offset + at)?,
                    Method::Deflated => stream.fill(self, file, bytes)?,
                }
                hasher.update(bytes);
                at += len as u64;
            }
            if self.method == Method::Deflated {
                stream.finish(self, file)?;
            }
            if hasher.finalize() != expected {
                return Err(TorchFault::Crc { member: self.name.clone() }.into());
            }
        }
        self.checked.store(true, Ordering::Release);
        Ok(())
    }
}

/// The index of element number `first`, row-major.
fn unravel(mut first: u64, shape: &[u64]) -> Vec<u64> {
    let mut index = vec![0; shape.len()];
    for (index, dim) in index.iter_mut().zip(shape).rev() {
        *index = first % dim.max(&1);
        first /= dim.max(&1);
    }
    index
}

/// A compressed storage, being read from its start on.
pub(super) struct Stream {
    inflate: Decompress,
    /// Compressed bytes read from the file but not used yet: `input[used..]`.
    input: Vec<u8>,
    used: usize,
    /// Compressed bytes read from the file.
    read: u64,
    /// Bytes of content given out.
    at: u64,
    ended: bool,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) fn new() -> Self {
        Self { inflate: Decompress::new(false), input: Vec::new(), used: 0, read: 0, at: 0, ended: false }
    }

    /// Fills `out` with the next bytes of the content.
    pub(super) fn fill(
        &mut self,
        storage: &TorchStorage,
        file: &dyn ReadAt,
        mut out: &mut [u8],
    ) -> Result<(), TorchReadFault> {
        while !out.is_empty() {
            let wrote = self.step(storage, file, out)?;
            if wrote == 0 && self.ended {
                return Err(fault(storage, "it ends early"));
            }
            out = out.get_mut(wrote..).unwrap_or_default();
        }
        Ok(())
    }

    /// The content must end here, and the compressed bytes with it.
    pub(super) fn finish(&mut self, storage: &TorchStorage, file: &dyn ReadAt) -> Result<(), TorchReadFault> {
        let mut more = [0; 1];
        while !self.ended {
            if self.step(storage, file, &mut more)? > 0 {
                return Err(fault(storage, "it is longer than the directory says"));
            }
        }
        if self.read - (self.input.len() - self.used) as u64 != storage.stored_len {
            return Err(fault(storage, "bytes follow its compressed data"));
        }
        Ok(())
    }

    fn step(
        &mut self,
        storage: &TorchStorage,
        file: &dyn ReadAt,
        out: &mut [u8],
    ) -> Result<usize, TorchReadFault> {
        if self.ended {
            return Ok(0);
        }
        if self.used == self.input.len() {
            let len = (storage.stored_len - self.read).min(CHUNK_LEN as u64);
            self.input.resize(len as usize, 0);
            file.read_exact_at(&mut self.input, storage.offset + self.read)?;
            self.read += len;
            self.used = 0;
        }
        let (read_before, wrote_before) = (self.inflate.total_in(), self.inflate.total_out());
        let input = self.input.get(self.used..).unwrap_or_default();
        let status = self
            .inflate
            .decompress(input, out, FlushDecompress::None)
            .map_err(|_| fault(storage, "its compressed data is not sound"))?;
        let read = (self.inflate.total_in() - read_before) as usize;
        let wrote = (self.inflate.total_out() - wrote_before) as usize;
        self.used += read;
        self.at += wrote as u64;
        self.ended = status == Status::StreamEnd;
        if !self.ended && read == 0 && wrote == 0 {
            return Err(fault(storage, "its compressed data is cut off"));
        }
        Ok(wrote)
    }
}

fn fault(storage: &TorchStorage, what: &'static str) -> TorchReadFault {
    TorchFault::Member { name: storage.name.clone(), what }.into()
}

impl From<io::Error> for TorchReadFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
