//! One torch file (`.bin`, `.pt`, `.pth`): its tensors as views of storages, found without running anything.
//!
//! `zip` reads the archive, `pickle` and `objects` the pickle in it, `state` finds the state dict, `legacy` and
//! `tar` read the forms before torch 1.6, and `storage` gives the bytes. This file joins them: every view is
//! checked against the real length of its storage before anyone may read it. Only metadata is read here.

mod legacy;
mod objects;
mod pickle;
mod state;
mod storage;
mod tar;
mod zip;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

pub use storage::View;
pub(crate) use storage::{SCRATCH_LEN, TorchStorage};

use super::limits::{Left, Limits};
use super::safetensors::disguise;
use crate::error::TorchFault;
use crate::tensor::{Dtype, MAX_RANK, TensorName, byte_len, element_count, element_len};
use objects::{Element, Object, StorageKind, StorageRef, TensorRef};
use pickle::{MAX_PICKLE_LEN, Pickle};
use storage::Stream;
use zip::{Member, Method};

/// Bytes that can be read from any place.
pub trait ReadAt: Sync {
    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// Whatever the system says; [`io::ErrorKind::UnexpectedEof`] where the bytes end before `buf` is full.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = usize::try_from(offset).ok().and_then(|start| self.get(start..)?.get(..buf.len()));
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A read that failed: in the system, or on what was read.
#[derive(Debug)]
pub(super) enum TorchReadFault {
    Io(io::Error),
    Torch(TorchFault),
}

impl From<TorchFault> for TorchReadFault {
    fn from(fault: TorchFault) -> Self {
        Self::Torch(fault)
    }
}

/// What one torch file holds.
#[derive(Debug)]
pub(super) struct TorchFile {
    pub(super) storages: Vec<TorchStorage>,
    /// Sorted by name.
    pub(super) tensors: Vec<TorchTensor>,
    /// The keys that lead to the state dict, outermost first; empty where the root is it.
    pub(super) path: Vec<String>,
    /// The first of the keys that are not read.
    pub(super) left: Vec<String>,
}

/// One tensor of a torch file.
#[derive(Debug)]
pub(super) struct TorchTensor {
    pub(super) name: TensorName,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    pub(super) view: View,
    /// Where its first element, or a compressed storage, begins in the file.
    pub(super) offset: u64,
    pub(super) byte_len: u64,
}

/// Reads the metadata of the torch file in `file`, which is `file_len` bytes long. `left`: what the checkpoint may
/// still hold.
pub(super) fn open(file: &dyn ReadAt, file_len: u64, left: &mut Left) -> Result<TorchFile, TorchReadFault> {
    let mut start = vec![0; file_len.min(512) as usize];
    file.read_exact_at(&mut start, 0)?;
    if start.starts_with(b"PK\x03\x04") {
        return open_zip(file, file_len, left);
    }
    if let [0x80, 2..=5, ..] = start.as_slice() {
        return legacy::open(file, file_len, left);
    }
    if start.get(257..262) == Some(b"ustar") {
        return tar::open(file, file_len, left);
    }
    Err(match disguise(&start) {
        Some(kind) => TorchFault::OtherKind(kind),
        None => TorchFault::NotTorch { len: file_len },
    }
    .into())
}

/// Reads the metadata of a torch file in memory and the start of every tensor, as a fuzzer and tests of hostile
/// files do. Gives the number of tensors.
///
/// # Errors
/// The first fault found.
pub fn probe(bytes: Vec<u8>) -> Result<usize, TorchFault> {
    let len = bytes.len() as u64;
    open(&bytes, len, &mut Left::of(Limits::default()))
        .and_then(|file| read_starts(&bytes, &file))
        .map_err(only_fault)
}

/// The same for a bare pickle. Every storage that it names lies at the start of `data`.
///
/// # Errors
/// The first fault found.
pub fn probe_pickle(text: &[u8], data: Vec<u8>) -> Result<usize, TorchFault> {
    let pickle = pickle::read(text)?;
    let find = |told: &StorageRef| {
        let len = told.len.checked_mul(width_of(told.kind)).filter(|len| *len <= data.len() as u64);
        let len = len.ok_or_else(|| TorchFault::StorageMissing { key: told.key.to_string() })?;
        Ok(TorchStorage::stored(told.key.to_string(), 0, len))
    };
    let file = join(&pickle, &mut Left::of(Limits::default()), find)?;
    read_starts(&data, &file).map_err(only_fault)
}

fn read_starts(bytes: &dyn ReadAt, file: &TorchFile) -> Result<usize, TorchReadFault> {
    let mut buffer = vec![0; 1 << 16];
    for tensor in &file.tensors {
        let Some(storage) = file.storages.get(tensor.view.storage) else { continue };
        let width = element_len(tensor.dtype).unwrap_or(1);
        let len = tensor.byte_len.min(buffer.len() as u64 / width * width);
        let out = buffer.get_mut(..len as usize).unwrap_or_default();
        storage.read(bytes, &tensor.view, (tensor.dtype, &tensor.shape), 0, out)?;
    }
    Ok(file.tensors.len())
}

/// Bytes in memory cannot fail to be read but at their end.
fn only_fault(fault: TorchReadFault) -> TorchFault {
    match fault {
        TorchReadFault::Torch(fault) => fault,
        TorchReadFault::Io(_) => TorchFault::NotTorch { len: 0 },
    }
}

fn open_zip(file: &dyn ReadAt, file_len: u64, left: &mut Left) -> Result<TorchFile, TorchReadFault> {
    let members = zip::read(file, file_len, left)?;
    let by_name: HashMap<&str, &Member> =
        members.iter().map(|member| (member.name.as_str(), member)).collect();
    let text = by_name.get("data.pkl").ok_or(TorchFault::NoPickle)?;
    left.take_text(text.len).map_err(TorchFault::from)?;
    let text = read_member(file, text, MAX_PICKLE_LEN)?;
    let big_endian = match by_name.get("byteorder") {
        None => false,
        Some(member) => match read_member(file, member, 64)?.as_slice() {
            b"little" => false,
            b"big" => true,
            other => {
                return Err(
                    TorchFault::ByteOrder { text: String::from_utf8_lossy(other).into_owned() }.into()
                );
            }
        },
    };
    let pickle = pickle::read(&text)?;
    if pickle.len != text.len() {
        return Err(TorchFault::AfterPickle { extra: (text.len() - pickle.len) as u64 }.into());
    }
    let find = |storage: &StorageRef| -> Result<TorchStorage, TorchFault> {
        let member = by_name
            .get(format!("data/{}", storage.key).as_str())
            .ok_or_else(|| TorchFault::StorageMissing { key: storage.key.to_string() })?;
        if big_endian && storage.kind == StorageKind::Untyped {
            return Err(TorchFault::UntypedBigEndian { key: storage.key.to_string() });
        }
        Ok(TorchStorage { big_endian, ..to_storage(member) })
    };
    Ok(join(&pickle, left, find)?)
}

fn to_storage(member: &Member) -> TorchStorage {
    TorchStorage {
        method: member.method,
        stored_len: member.stored_len,
        crc: Some(member.crc),
        ..TorchStorage::stored(member.name.clone(), member.offset, member.len)
    }
}

/// The content of a small member, checked against its CRC.
fn read_member(file: &dyn ReadAt, member: &Member, limit: u64) -> Result<Vec<u8>, TorchReadFault> {
    if member.len > limit {
        let what = if member.name == "data.pkl" { "the pickle" } else { "a record of the archive" };
        return Err(TorchFault::TooLarge { what, len: member.len, limit }.into());
    }
    let mut content = vec![0; member.len as usize];
    match member.method {
        Method::Stored => file.read_exact_at(&mut content, member.offset)?,
        Method::Deflated => {
            let storage = to_storage(member);
            let mut stream = Stream::new();
            stream.fill(&storage, file, &mut content)?;
            stream.finish(&storage, file)?;
        }
    }
    if crc32fast::hash(&content) == member.crc {
        Ok(content)
    } else {
        Err(TorchFault::Crc { member: member.name.clone() }.into())
    }
}

/// Chooses the state dict of a pickle and joins its tensors with their storages, which `find` looks up.
fn join(
    pickle: &Pickle,
    left: &mut Left,
    find: impl Fn(&StorageRef) -> Result<TorchStorage, TorchFault>,
) -> Result<TorchFile, TorchFault> {
    let chosen = state::choose(pickle)?;
    let mut storages: Vec<TorchStorage> = Vec::new();
    let mut places: HashMap<&str, (usize, StorageKind, u64)> = HashMap::new();
    let mut tensors = Vec::with_capacity(chosen.tensors.len());
    for (name, value) in chosen.tensors {
        let Some(Object::Tensor(tensor)) = pickle.arena.get(value) else { continue };
        let Some(Object::Storage(storage)) = pickle.arena.get(tensor.storage) else { continue };
        left.take_tensor()?;
        let element = known(&name, tensor.element)?;
        if let StorageKind::Of(of) = storage.kind {
            known(&name, of)?;
        }
        let &(place, ..) = match places.get(storage.key.as_ref()) {
            Some((_, kind, len)) if (*kind, *len) != (storage.kind, storage.len) => {
                return Err(TorchFault::StorageTwice { key: storage.key.to_string() });
            }
            Some(found) => found,
            None => {
                let real = find(storage)?;
                let told = storage.len.checked_mul(width_of(storage.kind));
                if told != Some(real.len) {
                    return Err(TorchFault::StorageLen {
                        key: storage.key.to_string(),
                        told: told.unwrap_or(u64::MAX),
                        found: real.len,
                    });
                }
                storages.push(real);
                places.entry(storage.key.as_ref()).or_insert((storages.len() - 1, storage.kind, storage.len))
            }
        };
        let Some(real) = storages.get(place) else { continue };
        tensors.push(to_tensor(name, element, tensor, storage, place, real)?);
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(TorchFile { storages, tensors, path: chosen.path, left: chosen.left })
}

/// Bytes of an element of a storage.
fn width_of(kind: StorageKind) -> u64 {
    match kind {
        StorageKind::Of(Element::Known(dtype)) => element_len(dtype).unwrap_or(1),
        StorageKind::Of(Element::Other("complex128")) => 16,
        StorageKind::Of(Element::Other("qint32")) => 4,
        StorageKind::Of(Element::Other(_)) | StorageKind::Untyped => 1,
    }
}

fn known(name: &TensorName, element: Element) -> Result<Dtype, TorchFault> {
    match element {
        Element::Known(dtype) => Ok(dtype),
        Element::Other(dtype) => Err(TorchFault::Dtype { tensor: name.to_string(), dtype }),
    }
}

/// A tensor whose every element lies in its storage.
fn to_tensor(
    name: TensorName,
    dtype: Dtype,
    told: &TensorRef,
    of: &StorageRef,
    place: usize,
    storage: &TorchStorage,
) -> Result<TorchTensor, TorchFault> {
    let (shape, strides) = (told.shape.to_vec(), told.strides.to_vec());
    let too_large = || TorchFault::ShapeTooLarge { tensor: name.to_string(), shape: told.shape.to_vec() };
    if shape.len() > MAX_RANK {
        return Err(TorchFault::Rank { limit: MAX_RANK });
    }
    let byte_len = byte_len(dtype, &shape).ok_or_else(too_large)?;
    let elements = element_count(&shape).ok_or_else(too_large)?;
    let width = element_len(dtype).unwrap_or(1);
    let outside = || TorchFault::OutsideStorage { tensor: name.to_string(), key: of.key.to_string() };
    let start = told.start.checked_add(of.start).ok_or_else(outside)?;
    if elements > 0 {
        let reach = shape
            .iter()
            .zip(&strides)
            .try_fold(start, |reach, (dim, stride)| reach.checked_add((dim - 1).checked_mul(*stride)?));
        let end = reach.and_then(|last| last.checked_add(1)?.checked_mul(width));
        if end.is_none_or(|end| end > storage.len) {
            return Err(outside());
        }
    }
    let is_contiguous = elements == 0 || is_row_major(&shape, &strides);
    let offset = if storage.is_compressed() || elements == 0 {
        storage.offset
    } else {
        storage.offset + start * width
    };
    let view = View { storage: place, start: if elements == 0 { 0 } else { start }, strides, is_contiguous };
    Ok(TorchTensor { name, dtype, shape, view, offset, byte_len })
}

/// Whether elements follow each other row-major. Strides of dimensions of 1 have no meaning.
fn is_row_major(shape: &[u64], strides: &[u64]) -> bool {
    let mut expected = 1u64;
    shape.iter().zip(strides).rev().filter(|(dim, _)| **dim != 1).all(|(dim, stride)| {
        let fits = *stride == expected;
        expected = expected.saturating_mul(*dim);
        fits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_is_row_major() {
        assert!(
            is_row_major(&[2, 3], &[3, 1]) && is_row_major(&[], &[]) && is_row_major(&[1, 4, 1], &[9, 1, 7])
        );
        assert!(
            !is_row_major(&[2, 3], &[1, 2]) && !is_row_major(&[4], &[0]) && !is_row_major(&[2, 2], &[3, 1])
        );
    }
}
