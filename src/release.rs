//! A bundle as one deterministic tar, or as the parts of one, beside its digests.
//!
//! The same bundle gives the same tar: entries sorted by path, no times, no owners, one mode. Only a bundle
//! that has just been verified is released. Carries out formats/bundle.md, "Release".

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::archive::{MAX_PARTS, member_header, part_name};
use crate::bundle::{self, BundleFolder};
use crate::digest::{Digest, Hasher};
use crate::error::{BundleError, Error, IoError, OutputError, Result};
use crate::manifest::{MANIFEST_NAME, SIGNATURE_NAME, SUMS_NAME};
use crate::output::{Output, Replace, Target};
use crate::progress::{Progress, Stage, Stop};
use crate::shard::SealedFile;
use crate::size::counted;

/// Smallest part: below it a release would fall into thousands of files.
pub(crate) const MIN_PART_LEN: u64 = 1 << 20;

/// What was released.
#[derive(Clone, Debug, Serialize)]
pub struct Release {
    /// The bundle's id.
    pub id: Digest,
    /// The files written, in order.
    pub files: Vec<ReleasedFile>,
}

/// A file of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReleasedFile {
    /// Its name.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Digest,
}

/// Verifies the bundle in `dir`, then writes `<name>.tar` (or `<name>.tar.part-0000`, …), `SHA256SUMS` and
/// `<name>.id` into `out`.
///
/// # Errors
/// [`BundleError::Broken`] where the bundle does not verify, [`OutputError::NotEmpty`] where `out` holds
/// anything: files of two releases in one folder would share one list of digests. [`crate::error::OutputError`]: the
/// release is written whole and put at `out` in one step, or not at all.
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
    let bundle = BundleFolder::open(dir)?;
    let (report, manifest) = bundle::examine(&bundle, false, progress, stop)?;
    let (Some(manifest), Some(id), []) = (manifest, report.id, report.findings.as_slice()) else {
        return Err(BundleError::Broken { path: dir.to_owned(), findings: report.findings.len() }.into());
    };
    let mut members: BTreeMap<String, Option<Digest>> =
        manifest.files.iter().map(|file| (file.path.to_string(), Some(file.sha256))).collect();
    members.insert(MANIFEST_NAME.to_owned(), Some(id));
    if bundle.holds(SIGNATURE_NAME) {
        members.insert(SIGNATURE_NAME.to_owned(), None);
    }
    let _attended = stop.attend();
    let name = &manifest.model.name;
    let to = Target {
        path: out,
        inputs: &[dir],
        replace: Replace::If(&is_empty),
        len: manifest.totals.file_bytes + manifest.totals.file_bytes / 100,
    };
    let output = Output::begin(to, progress)?;
    let content = output.content();
    let failed = |cause| IoError::new("writing the release", out, cause);
    fs::create_dir(&content).map_err(failed)?;

    progress.begin(Stage::Release, manifest.totals.file_bytes);
    let mut writer = PartWriter::new(&content, name, part_len);
    let written = write_tar(&bundle, name, &members, &mut writer, progress, stop)
        .and_then(|()| writer.finish(&id).map_err(Failed::Writing));
    let files = written.map_err(|cause| match (stop.requested(), cause) {
        (true, _) => Error::Interrupted { kept: false },
        (false, Failed::Reading(path, cause)) => {
            IoError::new("reading a file of the bundle", dir.join(path), cause).into()
        }
        (false, Failed::Writing(cause)) => failed(cause).into(),
    })?;
    let placed = output.commit()?;
    progress.finish();
    if let Some(notice) = placed.notice() {
        progress.note(&notice);
    }
    Ok(Release { id, files })
}

/// Accepts an empty folder.
fn is_empty(out: &Path) -> Result<()> {
    let entries = out.symlink_metadata().and_then(|_| fs::read_dir(out));
    match entries.map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(OutputError::NotEmpty { path: out.to_owned(), content: "release" }.into()),
        Err(cause) => Err(IoError::new("looking at the release's folder", out, cause).into()),
    }
}

fn write_tar(
    bundle: &BundleFolder,
    name: &str,
    members: &BTreeMap<String, Option<Digest>>,
    out: &mut PartWriter,
    progress: &dyn Progress,
    stop: &Stop,
) -> std::result::Result<(), Failed> {
    let mut builder = tar::Builder::new(out);
    for (path, sha256) in members {
        let reading = |cause| Failed::Reading(path.clone(), cause);
        let file = bundle.file(path).map_err(reading)?;
        let mut header = member_header(file.metadata().map_err(reading)?.len());
        let mut watched = Watched { file, hasher: Hasher::default(), has_failed: false, progress, stop };
        let written = builder.append_data(&mut header, format!("{name}/{path}"), &mut watched);
        written.map_err(|cause| if watched.has_failed { reading(cause) } else { Failed::Writing(cause) })?;
        // The tar is of the bytes that were verified, or it is not made.
        if sha256.is_some_and(|sha256| sha256 != watched.hasher.finish()) {
            return Err(reading(io::Error::other("it changed after it was verified")));
        }
    }
    builder.finish().map_err(Failed::Writing)
}

/// Which side of a release failed.
enum Failed {
    /// A file of the bundle, by its path in it.
    Reading(String, io::Error),
    /// The release.
    Writing(io::Error),
}

/// A file that hashes and reports what is read of it and stops when asked.
struct Watched<'a> {
    file: File,
    hasher: Hasher,
    /// Whether reading it did.
    has_failed: bool,
    progress: &'a dyn Progress,
    stop: &'a Stop,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.requested() {
            return Err(io::Error::other("interrupted"));
        }
        let read = self
            .file
            .read(buffer)
            .inspect_err(|cause| self.has_failed |= cause.kind() != io::ErrorKind::Interrupted)?;
        self.hasher.update(&buffer[..read]);
        self.progress.advance(read as u64);
        Ok(read)
    }
}

/// Writes a stream into one file or into parts of equal length.
struct PartWriter {
    out: PathBuf,
    name: String,
    part_len: Option<u64>,
    current: Option<(SealedFile, u64)>,
    done: Vec<ReleasedFile>,
}

impl PartWriter {
    fn new(out: &Path, name: &str, part_len: Option<u64>) -> Self {
        Self { out: out.to_owned(), name: name.to_owned(), part_len, current: None, done: Vec::new() }
    }

    fn final_name(&self, index: usize) -> String {
        match self.part_len {
            None => format!("{}.tar", self.name),
            Some(_) => part_name(&format!("{}.tar", self.name), index as u64),
        }
    }

    fn close(&mut self) -> io::Result<()> {
        if let Some((file, _)) = self.current.take() {
            let name = self.final_name(self.done.len());
            let seal = file.finish()?;
            self.done.push(ReleasedFile { path: name, size: seal.len, sha256: seal.sha256 });
        }
        Ok(())
    }

    /// Seals the last part, writes the digests and the id. Returns every file.
    fn finish(mut self, id: &Digest) -> io::Result<Vec<ReleasedFile>> {
        self.close()?;
        let sums: String = self.done.iter().map(|file| format!("{}  {}\n", file.sha256, file.path)).collect();
        let texts = [(SUMS_NAME.to_owned(), sums), (format!("{}.id", self.name), format!("sha256:{id}\n"))];
        for (name, text) in texts {
            let mut file = SealedFile::create(&self.out.join(&name), 0)?;
            file.write_all(text.as_bytes())?;
            let seal = file.finish()?;
            self.done.push(ReleasedFile { path: name, size: seal.len, sha256: seal.sha256 });
        }
        Ok(self.done)
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
            let path = self.out.join(self.final_name(self.done.len()));
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
