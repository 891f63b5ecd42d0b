//! The files of a checkpoint's folder: which there are, where links lead, and that they stay the same.
//!
//! Owns every touch of the file system but the hub's `refs/`. Links are followed where they stay in the
//! folder or lead to contents of the same hub cache (`blobs`), which is how a download looks there. Pipes,
//! sockets and devices are never read. Files that are yet to come to the folder are listed as they will be (`ahead`).
//! Knows no file format.

use std::ffi::OsStr;
use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::ahead::Coming;
use super::blobs::{self, Blobs};
use super::hub::CachedListing;
use super::{SkipReason, Skipped};
use crate::error::{Change, CheckpointError, Error, IoError, NodeKind, Result};

/// Most files listed. The largest hub repositories have some thousands; a home folder has more than this.
pub(crate) const MAX_FILES: usize = 100_000;

/// Deepest nesting listed.
pub(crate) const MAX_DEPTH: usize = 32;

/// What shows that a file is still the one that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    dev: u64,
    ino: u64,
    len: u64,
    /// Seconds and nanoseconds.
    mtime: (i64, i64),
    /// The same of the last change to the file's record, which no program sets at will.
    ctime: (i64, i64),
}

impl Fingerprint {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            len: meta.len(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    fn change_to(&self, now: &Self) -> Option<Change> {
        if (self.dev, self.ino) != (now.dev, now.ino) {
            Some(Change::Replaced)
        } else if self.len != now.len {
            Some(Change::Length { before: self.len, now: now.len })
        } else if self.mtime != now.mtime || self.ctime != now.ctime {
            Some(Change::Modified)
        } else {
            None
        }
    }
}

/// A regular file of the folder, found and checked, not yet open.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Below the root, with `/`.
    pub(super) path: String,
    pub(super) len: u64,
    /// From the name of the hub cache's blob, not computed.
    pub(super) sha256: Option<String>,
    pub(super) fingerprint: Fingerprint,
}

/// A checkpoint's folder.
#[derive(Debug)]
pub(super) struct Root {
    /// As it was given; what errors show.
    pub(super) given: PathBuf,
    /// Without links.
    real: PathBuf,
    /// The contents that links may lead to, where this is a snapshot of a hub cache.
    blobs: Option<Blobs>,
    /// What the commit has, where this is a snapshot of a hub cache that keeps its listing.
    listing: Option<CachedListing>,
    /// Files that are yet to come.
    ahead: Coming,
}

impl Root {
    pub(super) fn new(given: &Path) -> Result<Self> {
        let real = fs::canonicalize(given)
            .map_err(|source| CheckpointError::NotFound { path: given.to_owned(), source })?;
        if !real.is_dir() {
            return Err(CheckpointError::NotAFolder { path: given.to_owned() }.into());
        }
        let (blobs, listing) = (Blobs::of(given, &real), CachedListing::of(&real));
        Ok(Self { given: given.to_owned(), real, blobs, listing, ahead: Coming::default() })
    }

    /// The same of a folder to which files are yet to come: all of them, where it is not there.
    pub(super) fn awaiting(given: &Path, ahead: Coming) -> Result<Self> {
        match Self::new(given) {
            Ok(root) => Ok(Self { ahead, ..root }),
            Err(Error::Checkpoint(CheckpointError::NotFound { .. })) if !ahead.is_empty() => {
                let real = std::path::absolute(given)
                    .map_err(|source| CheckpointError::NotFound { path: given.to_owned(), source })?;
                Ok(Self { given: given.to_owned(), real, blobs: None, listing: None, ahead })
            }
            Err(error) => Err(error),
        }
    }

    /// A folder of which nothing is looked at: what is read of it is open.
    pub(super) fn unseen(given: &Path) -> Self {
        let (given, real) = (given.to_owned(), given.to_owned());
        Self { given, real, blobs: None, listing: None, ahead: Coming::default() }
    }

    /// The path of a file below the root, for errors.
    pub(super) fn shown(&self, path: &str) -> PathBuf {
        self.given.join(path)
    }

    /// Checks what is at `path`: a regular file, reached without leaving the folder but for `blobs`.
    /// `Ok(None)` where there is nothing.
    pub(super) fn find(&self, path: &str) -> Result<Option<Found>> {
        let shown = self.shown(path);
        if let Some(text) = self.ahead.text(path) {
            return Ok(Some(
                text.found(path)
                    .map_err(|source| IoError::new("opening a file of the checkpoint", shown, source))?,
            ));
        }
        let full = self.real.join(path);
        let real = match fs::canonicalize(&full) {
            Ok(real) => real,
            Err(source) if is_absent(&source) => {
                return match fs::read_link(&full) {
                    Ok(target) => Err(CheckpointError::DanglingLink { path: shown, target }.into()),
                    Err(_) => Ok(None),
                };
            }
            Err(source) => return Err(IoError::new("opening a file of the checkpoint", shown, source).into()),
        };
        let is_outside = !real.starts_with(&self.real);
        let blobs = self.blobs.as_ref().filter(|_| is_outside);
        if is_outside && !blobs.is_some_and(|blobs| blobs.may_be(&real)) {
            return Err(CheckpointError::LinkLeavesRoot { path: shown, target: real }.into());
        }
        let meta = fs::metadata(&real)
            .map_err(|source| IoError::new("opening a file of the checkpoint", shown.as_path(), source))?;
        if let Some(kind) = irregular(meta.file_type()) {
            return Err(CheckpointError::NotRegular { path: shown, kind }.into());
        }
        let sha256 = blobs.and_then(|blobs| blobs.sha256_of(&full));
        Ok(Some(Found {
            path: path.to_owned(),
            len: meta.len(),
            sha256,
            fingerprint: Fingerprint::of(&meta),
        }))
    }

    /// Opens a file found before. The same file must still be there.
    pub(super) fn open(&self, path: &str, before: &Fingerprint) -> Result<File> {
        let shown = self.shown(path);
        if let Some(text) = self.ahead.text(path) {
            return Ok(text
                .open()
                .map_err(|source| IoError::new("opening a file of the checkpoint", shown, source))?);
        }
        let file = open_regular(&self.real.join(path), &shown)?;
        recheck_open(&file, &shown, before)?;
        Ok(file)
    }

    /// Checks that the file found before is still the one its name leads to, unchanged.
    pub(super) fn recheck(&self, path: &str, before: &Fingerprint) -> Result<()> {
        let shown = || self.shown(path);
        if self.ahead.text(path).is_some() {
            return Ok(());
        }
        let change = match fs::metadata(self.real.join(path)) {
            Ok(meta) => before.change_to(&Fingerprint::of(&meta)),
            Err(source) if is_absent(&source) => Some(Change::Removed),
            Err(source) => {
                return Err(IoError::new("opening a file of the checkpoint", shown(), source).into());
            }
        };
        match change {
            Some(change) => Err(CheckpointError::FileChanged { path: shown(), change }.into()),
            None => Ok(()),
        }
    }

    /// Why what is at `path` is no file of the checkpoint, by its name alone. `name`: the last part.
    fn skip_reason(&self, path: &str, name: &str, kind: FileType) -> Option<SkipReason> {
        let is_listed = || kind.is_dir() || self.listing.as_ref().is_none_or(|listing| listing.has(path));
        skip_reason(name, kind.is_dir()).or_else(|| (!is_listed()).then_some(SkipReason::Unlisted))
    }

    /// The names in the root folder that a checkpoint may have, sorted, and of what is yet to come to it.
    pub(super) fn top_names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> =
            self.ahead.paths().filter(|path| !path.contains('/')).map(str::to_owned).collect();
        for (name, kind) in self.entries("")? {
            if self.skip_reason(&name, &name, kind).is_none() {
                names.push(name);
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Every regular file below the root, and what was passed over; both sorted by path.
    pub(super) fn walk(&self) -> Result<(Vec<Found>, Vec<Skipped>)> {
        let (mut files, mut skipped) = (Vec::new(), Vec::new());
        for path in self.ahead.texts() {
            files.extend(self.find(path)?);
        }
        let mut folders = vec![(String::new(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            if depth > MAX_DEPTH {
                let path = self.shown(&folder);
                return Err(CheckpointError::TooDeep { path, limit: MAX_DEPTH }.into());
            }
            for (name, kind) in self.entries(&folder)? {
                let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
                // A link that leads nowhere may have the name of what is yet to come.
                if self.ahead.has(&path) {
                    continue;
                }
                if let Some(reason) = self.skip_reason(&path, &name, kind) {
                    skipped.push(Skipped { path, reason });
                } else if kind.is_dir() && !name.ends_with(".safetensors") {
                    folders.push((path, depth + 1));
                } else {
                    match self.find(&path) {
                        Ok(Some(found)) => files.push(found),
                        // Removed since it was listed.
                        Ok(None) => {
                            let path = self.shown(&path);
                            return Err(CheckpointError::FileChanged { path, change: Change::Removed }.into());
                        }
                        Err(Error::Checkpoint(CheckpointError::NotRegular { kind, .. }))
                            if !name.ends_with(".safetensors") =>
                        {
                            let reason = if kind == NodeKind::Folder {
                                SkipReason::FolderLink
                            } else {
                                SkipReason::NotRegular(kind)
                            };
                            skipped.push(Skipped { path, reason });
                        }
                        Err(error) => return Err(error),
                    }
                }
                if files.len() + skipped.len() + folders.len() > MAX_FILES {
                    let path = self.given.clone();
                    return Err(CheckpointError::TooManyFiles { path, limit: MAX_FILES }.into());
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        skipped.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((files, skipped))
    }

    /// The entries of one folder, sorted by name; types are the entries' own, links not followed.
    fn entries(&self, folder: &str) -> Result<Vec<(String, FileType)>> {
        let shown = self.shown(folder);
        let failed = |source| IoError::new("listing a folder of the checkpoint", shown.as_path(), source);
        let mut entries = Vec::new();
        let listed = match fs::read_dir(self.real.join(folder)) {
            Err(source) if is_absent(&source) && !self.ahead.is_empty() => return Ok(entries),
            listed => listed.map_err(failed)?,
        };
        for entry in listed {
            let entry = entry.map_err(failed)?;
            let name = plain_name(&entry.file_name())
                .ok_or_else(|| CheckpointError::BadFileName { path: shown.join(entry.file_name()) })?;
            entries.push((name, entry.file_type().map_err(failed)?));
            if entries.len() > MAX_FILES {
                return Err(CheckpointError::TooManyFiles { path: shown, limit: MAX_FILES }.into());
            }
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(entries)
    }
}

/// One file named by the user: any link is followed, for it was asked for by name.
pub(super) fn find_single(path: &Path) -> Result<Found> {
    let not_found = |source| CheckpointError::NotFound { path: path.to_owned(), source };
    let name = path.file_name().and_then(plain_name);
    let name = name.ok_or_else(|| CheckpointError::BadFileName { path: path.to_owned() })?;
    let real = fs::canonicalize(path).map_err(not_found)?;
    let meta = fs::metadata(&real).map_err(not_found)?;
    if let Some(kind) = irregular(meta.file_type()) {
        return Err(CheckpointError::NotRegular { path: path.to_owned(), kind }.into());
    }
    let sha256 = blobs::sha256_of_single(path, &real);
    Ok(Found { path: name, len: meta.len(), sha256, fingerprint: Fingerprint::of(&meta) })
}

/// An open file, by the name that `path` ends in.
pub(super) fn found_opened(file: &File, path: &Path) -> Result<Found> {
    let name = path.file_name().and_then(plain_name);
    let path_of = name.ok_or_else(|| CheckpointError::BadFileName { path: path.to_owned() })?;
    let fingerprint = fingerprint(file, path)?;
    Ok(Found { path: path_of, len: fingerprint.len, sha256: None, fingerprint })
}

/// The state of an open file.
pub(super) fn fingerprint(file: &File, shown: &Path) -> Result<Fingerprint> {
    let meta =
        file.metadata().map_err(|source| IoError::new("opening a file of the checkpoint", shown, source))?;
    Ok(Fingerprint::of(&meta))
}

/// Checks that an open file is as it was.
pub(super) fn recheck_open(file: &File, shown: &Path, before: &Fingerprint) -> Result<()> {
    match before.change_to(&fingerprint(file, shown)?) {
        Some(change) => Err(CheckpointError::FileChanged { path: shown.to_owned(), change }.into()),
        None => Ok(()),
    }
}

/// Opens a regular file for reading. A pipe put in its place meanwhile cannot block the call.
pub(super) fn open_regular(path: &Path, shown: &Path) -> Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let failed = |source| IoError::new("opening a file of the checkpoint", shown, source);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    match irregular(file.metadata().map_err(failed)?.file_type()) {
        Some(kind) => Err(CheckpointError::NotRegular { path: shown.to_owned(), kind }.into()),
        None => Ok(file),
    }
}

/// Reads a whole small file; its length is checked before anything is allocated.
pub(super) fn read_small(file: &File, shown: &Path, limit: u64) -> Result<Vec<u8>> {
    let failed = |source| IoError::new("reading a file of the checkpoint", shown, source);
    let len = file.metadata().map_err(failed)?.len();
    let too_large = |len| CheckpointError::TextTooLarge { path: shown.to_owned(), len, limit };
    if len > limit {
        return Err(too_large(len).into());
    }
    let mut bytes = Vec::new();
    // One more than the limit, so that a file that grows meanwhile is noticed.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(too_large(bytes.len() as u64).into());
    }
    Ok(bytes)
}

/// Reads a whole small file of the folder by its name.
pub(super) fn read_text(root: &Root, name: &str, limit: u64) -> Result<Vec<u8>> {
    let shown = root.shown(name);
    let found = root.find(name)?.ok_or_else(|| {
        IoError::new("opening a file of the checkpoint", shown.as_path(), io::ErrorKind::NotFound.into())
    })?;
    read_small(&root.open(&found.path, &found.fingerprint)?, &shown, limit)
}

/// A name that a manifest and a checksum list can hold: UTF-8, no backslash, no control character.
fn plain_name(name: &OsStr) -> Option<String> {
    let name = name.to_str()?;
    (!name.contains('\\') && !name.chars().any(char::is_control)).then(|| name.to_owned())
}

/// Endings under which programs write what is not finished: huggingface_hub, browsers, aria2, wget's and curl's wrappers,
/// editors.
const UNFINISHED: [&str; 9] =
    [".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2", ".tmp", ".temp", "~"];

/// Why a name is of no file of a checkpoint, whatever it holds. `is_folder`: what is known of it without following a link.
pub(super) fn skip_reason(name: &str, is_folder: bool) -> Option<SkipReason> {
    match name {
        ".git" => Some(SkipReason::GitFolder),
        ".cache" | ".huggingface" if is_folder => Some(SkipReason::CacheFolder),
        ".locks" if is_folder => Some(SkipReason::LockFile),
        _ if name.ends_with(".lock") && !is_folder => Some(SkipReason::LockFile),
        _ if UNFINISHED.iter().any(|ending| name.ends_with(ending)) && !is_folder => {
            Some(SkipReason::Temporary)
        }
        // Of the commit, and listed in the manifest as what it is.
        ".gitattributes" => None,
        _ if name.starts_with('.') => Some(SkipReason::Hidden),
        _ => None,
    }
}

fn irregular(kind: FileType) -> Option<NodeKind> {
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some(NodeKind::Folder)
    } else if kind.is_fifo() {
        Some(NodeKind::Pipe)
    } else if kind.is_socket() {
        Some(NodeKind::Socket)
    } else if kind.is_block_device() || kind.is_char_device() {
        Some(NodeKind::Device)
    } else {
        Some(NodeKind::Other)
    }
}

/// True for `len` lower-case hexadecimal digits.
pub(super) fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// True where an error says that there is no such file.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_only_lower_case_digits_of_the_right_number_as_a_hash() {
        assert!(is_hex(&"0a".repeat(32), 64));
        for bad in ["0A".repeat(32), "0g".repeat(32), "0a".repeat(20), format!("{}\n", "0a".repeat(31))] {
            assert!(!is_hex(&bad, 64), "{bad:?}");
        }
    }
}
