//! A bundle as one deterministic tar, or as the parts of one, beside its digests.
//!
//! The same bundle gives the same tar: entries sorted by path, no times, no owners, one mode. Only a bundle
//! that has just been verified is released. Carries out formats/bundle.md, "Release".

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::bundle;
use crate::digest::Digest;
use crate::error::{BundleError, ConvertError, Result};
use crate::manifest::{MANIFEST_NAME, SIGNATURE_NAME, SUMS_NAME};
use crate::progress::{Progress, Stage, Stop};
use crate::shard::SealedFile;

/// Smallest part: below it a release would fall into thousands of files.
pub const MIN_PART_LEN: u64 = 1 << 20;
/// Most parts of one release.
const MAX_PARTS: u64 = 10_000;

/// What was released.
#[derive(Clone, Debug)]
pub struct Release {
    /// The bundle's id.
    pub id: Digest,
    /// The files written, in order, with length and digest.
    pub files: Vec<(String, u64, Digest)>,
}

/// Verifies the bundle in `dir`, then writes `<name>.tar` (or `<name>.tar.part-0000`, …), `SHA256SUMS` and
/// `<name>.id` into `out`.
///
/// # Errors
/// [`BundleError::Broken`] where the bundle does not verify. Nothing half-made is left in `out`.
pub fn release(
    dir: &Path,
    out: &Path,
    part_len: Option<u64>,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Release> {
    if let Some(part_len) = part_len.filter(|len| *len < MIN_PART_LEN) {
        return Err(BundleError::PartTooSmall { part_len }.into());
    }
    let report = bundle::verify(dir, false, progress, stop)?;
    if !report.findings.is_empty() {
        return Err(BundleError::Broken { path: dir.to_owned(), findings: report.findings.len() }.into());
    }
    let (manifest, id) = bundle::read_manifest(dir)?;
    let mut paths: Vec<String> = manifest.files.iter().map(|file| file.path.clone()).collect();
    paths.push(MANIFEST_NAME.to_owned());
    if dir.join(SIGNATURE_NAME).is_file() {
        paths.push(SIGNATURE_NAME.to_owned());
    }
    paths.sort();
    let name = &manifest.model.name;
    let failed =
        |path: &Path, cause| BundleError::Io { doing: "writing the release", path: path.to_owned(), cause };
    fs::create_dir_all(out).map_err(|cause| failed(out, cause))?;

    progress.begin(Stage::Release, manifest.totals.file_bytes);
    let mut writer = PartWriter::new(out, name, part_len);
    let written = write_tar(dir, name, &paths, &mut writer, progress, stop).and_then(|()| writer.finish(&id));
    match written {
        Ok(files) => {
            progress.finish();
            Ok(Release { id, files })
        }
        Err(cause) => {
            writer.discard();
            if stop.requested() {
                return Err(ConvertError::Interrupted.into());
            }
            Err(failed(out, cause).into())
        }
    }
}

fn write_tar(
    dir: &Path,
    name: &str,
    paths: &[String],
    out: &mut PartWriter,
    progress: &dyn Progress,
    stop: &Stop,
) -> io::Result<()> {
    let mut builder = tar::Builder::new(out);
    for path in paths {
        let file = File::open(dir.join(path))?;
        let mut header = member_header(file.metadata()?.len());
        builder.append_data(&mut header, format!("{name}/{path}"), Watched { file, progress, stop })?;
    }
    builder.finish()
}

/// Length of a tar's blocks; contents are padded with zeros to whole ones.
pub(crate) const BLOCK_LEN: u64 = 512;
/// Length of the zeros that end a tar.
pub(crate) const END_LEN: u64 = 2 * BLOCK_LEN;

fn member_header(len: u64) -> tar::Header {
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

/// A file that reports what is read of it and stops when asked.
struct Watched<'a> {
    file: File,
    progress: &'a dyn Progress,
    stop: &'a Stop,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.requested() {
            return Err(io::Error::other("interrupted"));
        }
        let read = self.file.read(buffer)?;
        self.progress.advance(read as u64);
        Ok(read)
    }
}

/// Writes a stream into one file or into parts of equal length, under temporary names until it is whole.
struct PartWriter {
    out: PathBuf,
    name: String,
    part_len: Option<u64>,
    current: Option<(SealedFile, u64)>,
    done: Vec<(PathBuf, String, u64, Digest)>,
}

impl PartWriter {
    fn new(out: &Path, name: &str, part_len: Option<u64>) -> Self {
        Self { out: out.to_owned(), name: name.to_owned(), part_len, current: None, done: Vec::new() }
    }

    fn final_name(&self, index: usize) -> String {
        match self.part_len {
            None => format!("{}.tar", self.name),
            Some(_) => format!("{}.tar.part-{index:04}", self.name),
        }
    }

    fn staged(&self, name: &str) -> PathBuf {
        self.out.join(format!(".{name}.mgpack-{}", std::process::id()))
    }

    fn close(&mut self) -> io::Result<()> {
        if let Some((file, _)) = self.current.take() {
            let name = self.final_name(self.done.len());
            let seal = file.finish()?;
            self.done.push((self.staged(&name), name, seal.len, seal.sha256));
        }
        Ok(())
    }

    /// Seals the last part, writes the digests and the id, and gives every file its name.
    fn finish(&mut self, id: &Digest) -> io::Result<Vec<(String, u64, Digest)>> {
        self.close()?;
        let sums: String =
            self.done.iter().map(|(_, name, _, digest)| format!("{digest}  {name}\n")).collect();
        let texts = [(SUMS_NAME.to_owned(), sums), (format!("{}.id", self.name), format!("sha256:{id}\n"))];
        for (name, text) in texts {
            let path = self.staged(&name);
            let mut file = SealedFile::create(&path, 0)?;
            file.write_all(text.as_bytes())?;
            let seal = file.finish()?;
            self.done.push((path, name, seal.len, seal.sha256));
        }
        for (path, name, _, _) in &self.done {
            fs::rename(path, self.out.join(name))?;
        }
        File::open(&self.out)?.sync_all()?;
        Ok(self.done.iter().map(|(_, name, len, digest)| (name.clone(), *len, *digest)).collect())
    }

    /// Removes what was written so far.
    fn discard(&mut self) {
        let open = self.current.take().map(|_| self.staged(&self.final_name(self.done.len())));
        for path in self.done.iter().map(|(path, ..)| path.clone()).chain(open) {
            // Best effort: a file that was renamed already, or never made, is not there.
            let _ = fs::remove_file(path);
        }
    }
}

impl Write for PartWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let limit = self.part_len.unwrap_or(u64::MAX);
        if self.current.as_ref().is_some_and(|(_, written)| *written >= limit) {
            self.close()?;
        }
        if self.done.len() as u64 >= MAX_PARTS {
            return Err(io::Error::other(format!("more than {MAX_PARTS} parts: give a larger --part-size")));
        }
        if self.current.is_none() {
            let path = self.staged(&self.final_name(self.done.len()));
            self.current = Some((SealedFile::create(&path, 0)?, 0));
        }
        let Some((file, written)) = &mut self.current else { return Ok(0) };
        let room = usize::try_from(limit - *written).unwrap_or(usize::MAX).min(bytes.len());
        let count = file.write(&bytes[..room])?;
        *written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
            let file = match File::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && len > 0 => return Ok(false),
                other => other?,
            };
            files.push((file, len));
            len += files.last().map_or(Ok(0), |(file, _)| file.metadata().map(|meta| meta.len()))?;
            Ok(true)
        };
        add(path)?;
        if let Some(stem) = path.to_str().and_then(|text| text.strip_suffix(".part-0000")) {
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
