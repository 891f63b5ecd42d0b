//! What lies in a bundle, whether it is a folder or a tar.
//!
//! Owns the listing of both and the opening of a file in either, and for a tar the check of the bytes outside its files.
//! Leaves the checks of what is listed to `verify`. Carries out formats/bundle.md, "Release", as it is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::finding::{Finding, FindingKind};
use super::verify::read_manifest_in;
use crate::archive;
use crate::beneath::{Kind, Root};
use crate::digest::Digest;
use crate::error::{BundleError, Error, IoError, Result};
use crate::manifest::Manifest;
use crate::regular;
use crate::size::counted;

/// Most entries of a folder that are listed before the check gives up.
const MAX_ENTRIES: usize = 200_000;

/// Longest name of a tar's member, in bytes: the longest path that Linux opens.
const MAX_NAME_LEN: u64 = 4096;

/// Where the bytes of a bundle come from.
pub(super) trait Contents: Sync {
    /// The paths of all entries, with the length of the regular files.
    fn entries(&self) -> &BTreeMap<String, Entry>;
    /// Opens a regular file.
    fn open(&self, path: &str) -> io::Result<Box<dyn Read + '_>>;
    /// Where a file of the bundle lies on the disk, for errors: its own path, or that of the tar that holds it.
    fn place(&self, path: &str) -> PathBuf;
    /// What is wrong with the bytes that hold the files together.
    fn findings(&self) -> &[Finding] {
        &[]
    }
}

/// One entry of a folder or tar.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry {
    File { len: u64, offset: u64 },
    Other(&'static str),
}

/// A bundle in a folder, which is opened once: all that is read is of that folder.
#[derive(Debug)]
pub(crate) struct BundleFolder {
    root: Root,
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
}

impl BundleFolder {
    /// Opens the folder at `path` and lists all that lies in it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let root = Root::open(path).map_err(|cause| match regular::is_of_environment(&cause) {
            false => BundleError::NotABundle { path: path.to_owned(), why: cause.to_string() }.into(),
            true => failed(path.to_owned(), cause),
        })?;
        Self::of(root, path)
    }

    /// Lists all that lies in an open folder. `path`: where it was found.
    pub(super) fn of(root: Root, path: &Path) -> Result<Self> {
        let listed = root.list(MAX_ENTRIES).map_err(|(below, cause)| match root.is_at(path) {
            true => failed(path.join(below), cause),
            false => BundleError::Replaced { path: path.to_owned() }.into(),
        })?;
        let Some(listed) = listed else {
            let why = format!("it holds more than {}", counted(MAX_ENTRIES, "file"));
            return Err(BundleError::NotABundle { path: path.to_owned(), why }.into());
        };
        let entry = |kind| match kind {
            Kind::File(len) => Entry::File { len, offset: 0 },
            Kind::Link => Entry::Other("a symbolic link"),
            Kind::EmptyFolder => Entry::Other("an empty folder"),
            Kind::DeepFolder => Entry::Other("a folder deeper than any path of a bundle"),
            Kind::Special => Entry::Other("a pipe, socket or device"),
        };
        let entries = listed.into_iter().map(|listed| (listed.path, entry(listed.kind))).collect();
        Ok(Self { root, path: path.to_owned(), entries })
    }

    /// Its manifest and its id, unchecked.
    pub(super) fn manifest(&self) -> Result<(Manifest, Digest)> {
        read_manifest_in(&self.root, &self.path)
    }

    /// Where it was found.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// True while its path leads to it.
    pub(crate) fn is_in_place(&self) -> bool {
        self.root.is_at(&self.path)
    }

    /// Opens one of its files.
    pub(crate) fn file(&self, path: &str) -> io::Result<File> {
        self.root.file(path)
    }

    /// True for a regular file that it holds.
    pub(crate) fn holds(&self, path: &str) -> bool {
        matches!(self.entries.get(path), Some(Entry::File { .. }))
    }
}

fn failed(path: PathBuf, cause: io::Error) -> Error {
    IoError::new("listing the bundle", path, cause).into()
}

impl Contents for BundleFolder {
    fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.file(path)?))
    }

    fn place(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }
}

/// A bundle in a tar, or in the parts of one.
pub(super) struct Tar {
    path: PathBuf,
    parts: archive::Parts,
    entries: BTreeMap<String, Entry>,
    findings: Vec<Finding>,
}

impl Tar {
    /// Lists a tar, or the parts of one. `path`: where it, or its first part, was found.
    pub(super) fn list(parts: archive::Parts, path: &Path) -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        let mut archive = tar::Archive::new(parts.reader(0));
        let mut root: Option<String> = None;
        let mut long_name = None;
        // Raw: the crate would take memory for a long name or an extended header, whatever length it states.
        for entry in archive.entries_with_seek()?.raw(true) {
            let mut entry = entry?;
            match entry.header().entry_type() {
                tar::EntryType::GNULongName if long_name.is_none() => {
                    long_name = Some(read_long_name(&mut entry)?);
                    continue;
                }
                tar::EntryType::GNULongName => return Err(invalid("two long names for one file")),
                tar::EntryType::GNULongLink | tar::EntryType::XHeader | tar::EntryType::XGlobalHeader => {
                    return Err(invalid("an extended header, which no release has: it was packed anew"));
                }
                _ => {}
            }
            let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
            let name = String::from_utf8(name).map_err(|_| invalid("a name is not UTF-8"))?;
            let (folder, path) =
                name.split_once('/').ok_or_else(|| invalid("a file outside the bundle's folder"))?;
            if root.get_or_insert_with(|| folder.to_owned()) != folder {
                return Err(invalid("more than one folder"));
            }
            let kind = if entry.header().entry_type().is_file() {
                Entry::File { len: entry.size(), offset: entry.raw_file_position() }
            } else {
                Entry::Other("not a regular file")
            };
            if entries.insert(path.to_owned(), kind).is_some() {
                return Err(invalid("a file twice"));
            }
            if entries.len() > MAX_ENTRIES {
                return Err(invalid("too many files"));
            }
        }
        if long_name.is_some() {
            return Err(invalid("a long name without a file"));
        }
        let findings = check_frame(&parts, root.as_deref().unwrap_or_default(), &entries)?;
        Ok(Self { path: path.to_owned(), parts, entries, findings })
    }
}

/// The content of an entry that holds the name of the next: the name and a zero.
fn read_long_name(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Vec<u8>> {
    if entry.size() > MAX_NAME_LEN {
        return Err(invalid("a name that is longer than any path"));
    }
    let mut name = Vec::new();
    entry.read_to_end(&mut name)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// Every byte outside the files is what `release` writes: heads in the order of paths, padding, the end.
///
/// No digest covers these bytes, but the files' names and lengths leave them no choice.
fn check_frame(
    parts: &archive::Parts,
    folder: &str,
    entries: &BTreeMap<String, Entry>,
) -> io::Result<Vec<Finding>> {
    const ZEROS: [u8; archive::END_LEN as usize] = [0; archive::END_LEN as usize];
    let too_long = || invalid("a length beyond all tars");
    let mut findings = Vec::new();
    let mut complain = |path: &str| {
        findings.push(Finding::new(
            path,
            FindingKind::Archive,
            "the tar of a release",
            "other bytes around it",
        ));
    };
    let mut at = 0;
    for (path, entry) in entries {
        let Entry::File { len, offset } = *entry else { continue };
        let head = archive::member_head(folder, path, len)?;
        let end = offset.checked_add(len).ok_or_else(too_long)?;
        let next = end.checked_next_multiple_of(archive::BLOCK_LEN).ok_or_else(too_long)?;
        let padding = &ZEROS[..(next - end) as usize];
        if offset != at + head.len() as u64 || !parts.holds(at, &head)? || !parts.holds(end, padding)? {
            complain(path);
        }
        at = next;
    }
    if parts.len() != at.saturating_add(archive::END_LEN) || !parts.holds(at, &ZEROS)? {
        complain("the end of the tar");
    }
    Ok(findings)
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

impl Contents for Tar {
    fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    fn findings(&self) -> &[Finding] {
        &self.findings
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn Read + '_>> {
        match self.entries.get(path) {
            Some(Entry::File { len, offset }) => Ok(Box::new(self.parts.reader(*offset).take(*len))),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn place(&self, _: &str) -> PathBuf {
        self.path.clone()
    }
}
