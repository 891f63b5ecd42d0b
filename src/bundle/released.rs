//! A release in its folder: a tar, or the parts of one, with the list of their digests and the bundle's id beside it.
//!
//! Finds the tar that `verify` then checks as any other, and checks what lies around it. Carries out formats/bundle.md,
//! "Release", as it is read.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::finding::{Finding, FindingKind};
use super::verify::of_environment;
use crate::archive::{MAX_PARTS, Parts, part_name};
use crate::beneath::Root;
use crate::digest::{self, Digest};
use crate::error::{BundleError, Error, IoError, Result};
use crate::manifest::{self, MANIFEST_NAME, SUMS_NAME};
use crate::progress::{Progress, Stage, Stop};
use crate::regular;

/// Longest list of digests: a line for each part, with the longest name that a file can have.
const MAX_SUMS_LEN: u64 = MAX_PARTS * (64 + 2 + 255 + 1);
/// Length of the file of the id.
const ID_LEN: u64 = 7 + 64 + 1;

/// A folder that a release lies in, open, and so are its parts.
pub(super) struct Released<'a> {
    root: &'a Root,
    /// Where the folder was found.
    dir: &'a Path,
    /// Name of the bundle, by the name of the tar.
    name: String,
    /// The tar, or all parts of it that are there, by name; or why one is no file that can be read.
    parts: BTreeMap<String, io::Result<Arc<File>>>,
    is_one: bool,
}

impl<'a> Released<'a> {
    /// The release in the folder `root`, which was found at `dir`; `None` where that is no folder of a release, such as a
    /// bundle.
    ///
    /// # Errors
    /// [`BundleError::NotABundle`] where it holds several; [`Error::Io`] where the system cannot read it.
    pub(super) fn find(root: &'a Root, dir: &'a Path) -> Result<Option<Self>> {
        match manifest::is_one(root.linked(OsStr::new(MANIFEST_NAME))) {
            Ok(false) => {}
            Err(cause) if regular::is_of_environment(&cause) => {
                return Err(of_environment(dir.join(MANIFEST_NAME), cause));
            }
            // A bundle, or another thing of that name: `verify` says so.
            Ok(true) | Err(_) => return Ok(None),
        }
        let names = root.names().map_err(|cause| IoError::new("listing the release", dir, cause))?;
        // Any part is a sign of a release: the first may be the one that is missing.
        let stem = |name: &String| {
            let one = name.strip_suffix(".tar").map(|stem| (stem.to_owned(), true));
            let part = || name.split_once(".tar.part-").map(|(stem, _)| (stem.to_owned(), false));
            one.or_else(part).filter(|(stem, _)| !stem.is_empty() && !stem.starts_with('.'))
        };
        let mut found: BTreeSet<(String, bool)> = names.iter().filter_map(stem).collect();
        let Some((name, is_one)) = found.pop_last() else { return Ok(None) };
        if let Some((other, _)) = found.pop_last() {
            let why = format!("it holds several tars, of `{other}` and of `{name}` among them: name one");
            return Err(BundleError::NotABundle { path: dir.to_owned(), why }.into());
        }
        let tar = format!("{name}.tar");
        let is_part = |file: &String| match file.strip_prefix(&tar) {
            Some("") => is_one,
            Some(rest) => !is_one && rest.starts_with(".part-"),
            None => false,
        };
        let mut parts = BTreeMap::new();
        for part in names.into_iter().filter(is_part) {
            let opened = match root.linked(OsStr::new(&part)) {
                Err(cause) if regular::is_of_environment(&cause) => {
                    return Err(of_environment(dir.join(part), cause));
                }
                opened => opened.map(Arc::new),
            };
            parts.insert(part, opened);
        }
        Ok(Some(Self { root, dir, name, parts, is_one }))
    }

    /// Names of the tar's parts, as many as there may be.
    fn part_names(&self) -> impl Iterator<Item = String> {
        let tar = format!("{}.tar", self.name);
        let count = if self.is_one { 1 } else { MAX_PARTS };
        let is_one = self.is_one;
        (0..count).map(move |index| if is_one { tar.clone() } else { part_name(&tar, index) })
    }

    /// Where the tar lies, or its first part.
    pub(super) fn tar_path(&self) -> PathBuf {
        self.dir.join(self.part_names().next().unwrap_or_default())
    }

    /// The tar: what is read of it is what is hashed around it.
    ///
    /// # Errors
    /// Why the first part, or one of those that follow it, is no file.
    pub(super) fn tar(&self) -> io::Result<Parts> {
        let mut files = Vec::new();
        for name in self.part_names() {
            match self.parts.get(&name) {
                Some(Ok(file)) => files.push((name, Arc::clone(file))),
                Some(Err(cause)) => return Err(io::Error::new(cause.kind(), format!("{name}: {cause}"))),
                None if files.is_empty() => return Err(io::ErrorKind::NotFound.into()),
                None => break,
            }
        }
        Parts::of(files)
    }

    /// What is wrong around the tar: the digests, the parts, and the `id` that was found inside.
    pub(super) fn check(
        &self,
        id: Option<Digest>,
        quick: bool,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<Vec<Finding>> {
        let mut findings: Vec<Finding> = self.check_id(id)?.into_iter().collect();
        let sums = match self.sums()? {
            Ok(sums) => sums,
            Err(finding) => {
                findings.push(finding);
                return Ok(findings);
            }
        };
        for name in self.parts.keys().filter(|name| !sums.contains_key(*name)) {
            let listed = format!("a line in {SUMS_NAME}");
            findings.push(Finding::new(&self.shown(name), FindingKind::Extra, listed, "none"));
        }
        for name in sums.keys().filter(|name| !self.parts.contains_key(*name)) {
            let expected = format!("a part, by {SUMS_NAME}");
            findings.push(Finding::new(&self.shown(name), FindingKind::Missing, expected, "nothing"));
        }
        if !quick {
            let listed = sums.iter().filter_map(|(name, sha256)| Some((name, sha256, self.parts.get(name)?)));
            let listed: Vec<_> = listed.collect();
            let len = |part: &io::Result<Arc<File>>| {
                part.as_ref().ok().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len())
            };
            progress.begin(Stage::Verify, listed.iter().map(|(.., part)| len(part)).sum());
            let found: Vec<_> = listed
                .par_iter()
                .map(|(name, expected, part)| self.check_digest(name, part, **expected, progress, stop))
                .collect::<Result<_>>()?;
            findings.extend(found.into_iter().flatten());
            progress.finish();
        }
        Ok(findings)
    }

    fn check_id(&self, id: Option<Digest>) -> Result<Option<Finding>> {
        let name = format!("{}.id", self.name);
        let Some(id) = id else { return Ok(None) };
        let expected = format!("sha256:{id}\n");
        let found = match self.read(&name, ID_LEN)? {
            Ok(text) if text == expected.as_bytes() => return Ok(None),
            Ok(text) => String::from_utf8_lossy(&text).trim_end().to_owned(),
            Err(cause) => cause.to_string(),
        };
        Ok(Some(Finding::new(&self.shown(&name), FindingKind::Id, expected.trim_end(), found)))
    }

    /// The digests that the release lists, or what is wrong with its list.
    fn sums(&self) -> Result<std::result::Result<BTreeMap<String, Digest>, Finding>> {
        let read = self.read(SUMS_NAME, MAX_SUMS_LEN)?;
        let unreadable =
            |cause| Finding::new(&self.shown(SUMS_NAME), FindingKind::Unreadable, "a list of digests", cause);
        Ok(read.map_err(unreadable).and_then(|text| self.parse_sums(text)))
    }

    fn parse_sums(&self, text: Vec<u8>) -> std::result::Result<BTreeMap<String, Digest>, Finding> {
        let path = self.shown(SUMS_NAME);
        let wrong =
            |found: String| Finding::new(&path, FindingKind::Manifest, "lines of a digest and a name", found);
        let text = String::from_utf8(text).map_err(|_| wrong("no UTF-8".to_owned()))?;
        let mut sums = BTreeMap::new();
        for line in text.lines() {
            let parted = line.split_once("  ").and_then(|(hex, name)| Some((Digest::from_hex(hex)?, name)));
            let (digest, name) = parted.ok_or_else(|| wrong(format!("`{line}`")))?;
            if sums.insert(name.to_owned(), digest).is_some() {
                return Err(wrong(format!("`{name}` twice")));
            }
        }
        Ok(sums)
    }

    fn check_digest(
        &self,
        name: &str,
        part: &io::Result<Arc<File>>,
        expected: Digest,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<Option<Finding>> {
        let unreadable = |cause: String| {
            Finding::new(&self.shown(name), FindingKind::Unreadable, "a readable file", cause)
        };
        let file = match part {
            Ok(file) => file,
            Err(cause) => return Ok(Some(unreadable(cause.to_string()))),
        };
        let found = match digest::of_file(file, progress, stop) {
            Ok(found) => found.ok_or(Error::Interrupted { kept: false })?,
            Err(cause) if regular::is_of_environment(&cause) => {
                return Err(of_environment(self.dir.join(name), cause));
            }
            Err(cause) => return Ok(Some(unreadable(cause.to_string()))),
        };
        let differs = || {
            let (expected, found) = (format!("sha256 {expected}"), format!("sha256 {found}"));
            Finding::new(&self.shown(name), FindingKind::Digest, expected, found)
        };
        Ok((found != expected).then(differs))
    }

    /// All of a short file; the inner error is of the file itself.
    fn read(&self, name: &str, limit: u64) -> Result<io::Result<Vec<u8>>> {
        match self.root.linked(OsStr::new(name)).and_then(|file| read_limited(file, limit)) {
            Err(cause) if regular::is_of_environment(&cause) => {
                Err(of_environment(self.dir.join(name), cause))
            }
            read => Ok(read),
        }
    }

    /// The path of a file of the release: those of the bundle inside have theirs without a folder.
    fn shown(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

fn read_limited(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(limit + 1).read_to_end(&mut text)?;
    if text.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than it can be"));
    }
    Ok(text)
}
