//! A bundle as one deterministic tar, or as the parts of one, beside its digests.
//!
//! The same bundle gives the same tar: entries sorted by path, no times, no owners, one mode. Only a bundle
//! that has just been verified is released. Carries out formats/bundle.md, "Release".

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::archive::{MAX_PARTS, member_header};
use crate::bundle;
use crate::digest::{Digest, Hasher};
use crate::error::{BundleError, ConvertError, Result};
use crate::manifest::{MANIFEST_NAME, SIGNATURE_NAME, SUMS_NAME};
use crate::progress::{Progress, Stage, Stop};
use crate::shard::SealedFile;
use crate::size::counted;

/// Smallest part: below it a release would fall into thousands of files.
pub const MIN_PART_LEN: u64 = 1 << 20;

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
/// [`BundleError::Broken`] where the bundle does not verify, [`BundleError::OutputNotEmpty`] where `out` holds
/// anything: files of two releases in one folder would share one list of digests. Nothing half-made is left in `out`.
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
    let mut members: BTreeMap<String, Option<Digest>> =
        manifest.files.iter().map(|file| (file.path.clone(), Some(file.sha256))).collect();
    members.insert(MANIFEST_NAME.to_owned(), Some(id));
    if dir.join(SIGNATURE_NAME).is_file() {
        members.insert(SIGNATURE_NAME.to_owned(), None);
    }
    let name = &manifest.model.name;
    let failed =
        |path: &Path, cause| BundleError::Io { doing: "writing the release", path: path.to_owned(), cause };
    fs::create_dir_all(out).map_err(|cause| failed(out, cause))?;
    if fs::read_dir(out).map_err(|cause| failed(out, cause))?.next().is_some() {
        return Err(BundleError::OutputNotEmpty { path: out.to_owned() }.into());
    }

    progress.begin(Stage::Release, manifest.totals.file_bytes);
    let mut writer = PartWriter::new(out, name, part_len);
    let written =
        write_tar(dir, name, &members, &mut writer, progress, stop).and_then(|()| writer.finish(&id));
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
    members: &BTreeMap<String, Option<Digest>>,
    out: &mut PartWriter,
    progress: &dyn Progress,
    stop: &Stop,
) -> io::Result<()> {
    let mut builder = tar::Builder::new(out);
    for (path, sha256) in members {
        let file = File::open(dir.join(path))?;
        let mut header = member_header(file.metadata()?.len());
        let mut watched = Watched { file, hasher: Hasher::default(), progress, stop };
        builder.append_data(&mut header, format!("{name}/{path}"), &mut watched)?;
        // The tar is of the bytes that were verified, or it is not made.
        if sha256.is_some_and(|sha256| sha256 != watched.hasher.finish()) {
            return Err(io::Error::other(format!("`{path}` changed after it was verified")));
        }
    }
    builder.finish()
}

/// A file that hashes and reports what is read of it and stops when asked.
struct Watched<'a> {
    file: File,
    hasher: Hasher,
    progress: &'a dyn Progress,
    stop: &'a Stop,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.requested() {
            return Err(io::Error::other("interrupted"));
        }
        let read = self.file.read(buffer)?;
        self.hasher.update(&buffer[..read]);
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
            return Err(io::Error::other(format!(
                "more than {}: give a larger part size",
                counted(MAX_PARTS, "part")
            )));
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
