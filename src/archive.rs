//! The form of a released tar: what is around its files, and how its parts are read as one.
//!
//! Knows no bundle: `release` writes this form and `bundle` insists on it. Carries out formats/bundle.md,
//! "Release".

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::beneath::Root;

/// What the name of the first part ends in, after `.tar`.
pub(crate) const FIRST_PART: &str = ".part-0000";
/// Most parts of one release.
pub(crate) const MAX_PARTS: u64 = 10_000;

/// The name of a part. `stem`: the tar's name.
pub(crate) fn part_name(stem: &str, index: u64) -> String {
    format!("{stem}.part-{index:04}")
}

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

/// The bytes before a member's content in a released tar.
pub(crate) fn member_head(folder: &str, path: &str, len: u64) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut member_header(len), format!("{folder}/{path}"), io::empty())?;
    let mut bytes = builder.into_inner()?;
    bytes.truncate(bytes.len().saturating_sub(END_LEN as usize));
    Ok(bytes)
}

/// A released tar, read by position: one file, or all parts of one beside each other. All are open.
pub(crate) struct Parts {
    parts: Vec<Part>,
    len: u64,
}

/// One file of a tar.
struct Part {
    name: String,
    file: Arc<File>,
    /// Where it begins in the tar.
    start: u64,
}

impl Parts {
    /// Opens the tar at `path`, which may be a link; if its name ends in `.part-0000`, the parts that follow it too.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let root = Root::open(folder.unwrap_or(Path::new(".")))?;
        let open = |name: &OsStr| root.linked(name).map(Arc::new);
        let mut files = vec![(name.to_string_lossy().into_owned(), open(name)?)];
        let stem = name.to_str().and_then(|name| name.strip_suffix(FIRST_PART));
        for name in stem.into_iter().flat_map(|stem| (1..MAX_PARTS).map(move |index| part_name(stem, index)))
        {
            match open(OsStr::new(&name)) {
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => break,
                file => files.push((name, file?)),
            }
        }
        Self::of(files)
    }

    /// The tar whose parts are these, by name and in order.
    pub(crate) fn of(files: Vec<(String, Arc<File>)>) -> io::Result<Self> {
        let (mut parts, mut len) = (Vec::with_capacity(files.len()), 0u64);
        for (name, file) in files {
            let start = len;
            len = start.saturating_add(file.metadata()?.len());
            parts.push(Part { name, file, start });
        }
        Ok(Self { parts, len })
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
        let parts = &self.parts.parts;
        let index = parts.partition_point(|part| part.start <= self.position);
        let Some(part) = index.checked_sub(1).and_then(|index| parts.get(index)) else { return Ok(0) };
        let end = parts.get(index).map_or(self.parts.len, |next| next.start);
        let room = usize::try_from(end.saturating_sub(self.position)).unwrap_or(usize::MAX).min(buffer.len());
        let read = part.file.read_at(&mut buffer[..room], self.position - part.start);
        // One of thousands: its name says where to look.
        let read = read.map_err(|cause| match parts.len() {
            1 => cause,
            _ => io::Error::new(cause.kind(), PartError { name: part.name.clone(), cause }),
        })?;
        self.position += read as u64;
        Ok(read)
    }
}

/// An error of the system, and the part that it is about.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {cause}")]
struct PartError {
    name: String,
    #[source]
    cause: io::Error,
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
