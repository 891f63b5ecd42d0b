//! One file of a bundle, written once and hashed while it is hot. Knows no model.
//!
//! [`header`] makes the head of a safetensors shard; [`SealedFile`] writes bytes in order, hashing each once.
//! Carries out formats/bundle.md, "Shards".

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::digest::{Digest, Hasher};
use crate::tensor::Dtype;

/// The head of a safetensors file: eight bytes of length, then JSON padded with blanks to a multiple of 8.
///
/// `tensors` in order of offset: name, type, shape, begin and end in the data section. The metadata is
/// `{"format":"pt"}`, without which transformers 4.36 cannot load a shard.
pub(crate) fn header<'a>(
    tensors: impl Iterator<Item = (&'a str, Dtype, &'a [u64], std::ops::Range<u64>)>,
) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Entry<'a> {
        dtype: Dtype,
        shape: &'a [u64],
        data_offsets: [u64; 2],
    }
    let mut json = br#"{"__metadata__":{"format":"pt"}"#.to_vec();
    for (name, dtype, shape, range) in tensors {
        json.push(b',');
        serde_json::to_writer(&mut json, name)?;
        json.push(b':');
        serde_json::to_writer(&mut json, &Entry { dtype, shape, data_offsets: [range.start, range.end] })?;
    }
    json.push(b'}');
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut head = (json.len() as u64).to_le_bytes().to_vec();
    head.append(&mut json);
    Ok(head)
}

/// A new file whose every byte passes through a hash on its way to the disk.
pub(crate) struct SealedFile {
    file: File,
    hasher: Hasher,
    len: u64,
}

/// What a finished file is sealed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Length in bytes.
    pub len: u64,
    /// Digest of all bytes.
    pub sha256: Digest,
}

impl SealedFile {
    /// Creates `path`, which must not exist, with room for `len` bytes. Mode 0666 less the umask.
    pub(crate) fn create(path: &Path, len: u64) -> io::Result<Self> {
        let file = File::options().write(true).create_new(true).open(path)?;
        if len > 0 {
            // Reserving the room early turns a full disk into an error before the work; where a file system
            // cannot, the writes themselves will fail.
            let reserved = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, len);
            if reserved == Err(rustix::io::Errno::NOSPC) {
                return Err(rustix::io::Errno::NOSPC.into());
            }
        }
        Ok(Self { file, hasher: Hasher::default(), len: 0 })
    }

    /// Makes the file durable and returns its seal.
    pub(crate) fn finish(self) -> io::Result<Seal> {
        self.file.sync_all()?;
        Ok(Seal { len: self.len, sha256: self.hasher.finish() })
    }
}

impl Write for SealedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
