//! The form of a released tar: what stands around its files, and how its parts are read as one.
//!
//! Knows no bundle: `release` writes this form and `bundle` insists on it. Carries out formats/bundle.md,
//! "Release".

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::regular;

/// What the name of the first part ends in, after `.tar`.
pub(crate) const FIRST_PART: &str = ".part-0000";
/// Most parts of one release.
pub(crate) const MAX_PARTS: u64 = 10_000;

/// Length of a tar's blocks; contents are padded with zeros to whole ones.
pub(crate) const BLOCK_LEN: u64 = 512;
/// Length of the zeros that end a tar.
pub(crate) const END_LEN: u64 = 2 * BLOCK_LEN;

/// The head of a member: nothing in it but its length and its name, which follows.
pub(crate) fn member_header(len: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(len);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// The bytes that stand before a member's content in a released tar.
pub(crate) fn member_head(folder: &str, path: &str, len: u64) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut member_header(len), format!("{folder}/{path}"), io::empty())?;
    let mut bytes = builder.into_inner()?;
    bytes.truncate(bytes.len().saturating_sub(END_LEN as usize));
    Ok(bytes)
}

/// A released tar, read by position: one file, or all parts of one beside each other.
pub(crate) struct Parts {
    files: Vec<(File, u64)>,
    len: u64,
}

impl Parts {
    /// Opens `path` and, if its name ends in `.part-0000`, the parts that follow it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        let mut len = 0;
        let mut add = |path: &Path| -> io::Result<bool> {
            let file = match regular::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && len > 0 => return Ok(false),
                other => other?,
            };
            files.push((file, len));
            len += files.last().map_or(Ok(0), |(file, _)| file.metadata().map(|meta| meta.len()))?;
            Ok(true)
        };
        add(path)?;
        if let Some(stem) = path.to_str().and_then(|text| text.strip_suffix(FIRST_PART)) {
            for index in 1..MAX_PARTS {
                if !add(Path::new(&format!("{stem}.part-{index:04}")))? {
                    break;
                }
            }
        }
        Ok(Self { files, len })
    }

    /// Length of all parts together.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// True where the bytes from `position` on are `expected`.
    pub(crate) fn holds(&self, position: u64, expected: &[u8]) -> io::Result<bool> {
        let mut found = Vec::with_capacity(expected.len());
        self.reader(position).take(expected.len() as u64).read_to_end(&mut found)?;
        Ok(found == expected)
    }

    /// A reader from `position` on.
    pub(crate) fn reader(&self, position: u64) -> PartsReader<'_> {
        PartsReader { parts: self, position }
    }
}

/// Reads the parts one after the other.
pub(crate) struct PartsReader<'a> {
    parts: &'a Parts,
    position: u64,
}

impl Read for PartsReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let index = self.parts.files.partition_point(|(_, start)| *start <= self.position);
        let Some((file, start)) = index.checked_sub(1).and_then(|index| self.parts.files.get(index)) else {
            return Ok(0);
        };
        let end = self.parts.files.get(index).map_or(self.parts.len, |(_, next)| *next);
        let room = usize::try_from(end.saturating_sub(self.position)).unwrap_or(usize::MAX).min(buffer.len());
        let read = file.read_at(&mut buffer[..room], self.position - start)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for PartsReader<'_> {
    fn seek(&mut self, target: SeekFrom) -> io::Result<u64> {
        let position = match target {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.parts.len.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
