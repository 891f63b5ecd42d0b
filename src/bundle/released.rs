//! A release in its folder: a tar, or the parts of one, with the list of their digests and the bundle's id beside it.
//!
//! Finds the tar that `verify` then checks as any other, and checks what lies around it. Carries out formats/bundle.md,
//! "Release", as it is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::finding::{Finding, FindingKind};
use super::verify::of_environment;
use crate::archive::{FIRST_PART, MAX_PARTS};
use crate::digest::{self, Digest};
use crate::error::{BundleError, ConvertError, Result};
use crate::manifest::{self, MANIFEST_NAME, SUMS_NAME};
use crate::progress::{Progress, Stage, Stop};
use crate::regular;

/// Longest list of digests: a line for each part, with the longest name that a file can have.
const MAX_SUMS_LEN: u64 = MAX_PARTS * (64 + 2 + 255 + 1);
/// Length of the file of the id.
const ID_LEN: u64 = 7 + 64 + 1;

/// A folder that a release lies in.
pub(super) struct Released {
    dir: PathBuf,
    /// Name of the bundle, by the name of the tar.
    name: String,
    /// The tar, or all parts of it that are there, by name.
    parts: BTreeSet<String>,
    is_one: bool,
}

impl Released {
    /// The release in `dir`; `None` where that is no folder of a release, such as a bundle.
    pub(super) fn find(dir: &Path) -> Result<Option<Self>> {
        match manifest::is_in(dir) {
            Ok(false) => {}
            // Another thing of that name: `verify` says so.
            Ok(true) => return Ok(None),
            Err(cause) if regular::is_of_environment(&cause) => {
                return Err(of_environment(dir.join(MANIFEST_NAME), cause));
            }
            Err(_) => return Ok(None),
        }
        let failed = |cause| io_error("listing the release", dir, cause);
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            // A name that is not UTF-8 is none of a release's.
            names.extend(entry.map_err(failed)?.file_name().into_string().ok());
        }
        // Any part tells of a release: the first may be the one that is missing.
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
        let is_part = |file: &&String| match file.strip_prefix(&tar) {
            Some("") => is_one,
            Some(rest) => !is_one && rest.starts_with(".part-"),
            None => false,
        };
        let parts = names.iter().filter(is_part).cloned().collect();
        Ok(Some(Self { dir: dir.to_owned(), name, parts, is_one }))
    }

    /// The tar, or its first part.
    pub(super) fn tar(&self) -> PathBuf {
        let first = if self.is_one { "" } else { FIRST_PART };
        self.dir.join(format!("{}.tar{first}", self.name))
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
        for name in self.parts.iter().filter(|name| !sums.contains_key(*name)) {
            let listed = format!("a line in {SUMS_NAME}");
            findings.push(Finding::new(&self.shown(name), FindingKind::Extra, listed, "none"));
        }
        for name in sums.keys().filter(|name| !self.parts.contains(*name)) {
            let expected = format!("a part, by {SUMS_NAME}");
            findings.push(Finding::new(&self.shown(name), FindingKind::Missing, expected, "nothing"));
        }
        if !quick {
            let listed: Vec<_> = sums.iter().filter(|(name, _)| self.parts.contains(*name)).collect();
            let len = |name: &str| self.dir.join(name).metadata().map_or(0, |meta| meta.len());
            progress.begin(Stage::Verify, listed.iter().map(|(name, _)| len(name)).sum());
            let found: Vec<_> = listed
                .par_iter()
                .map(|(name, expected)| self.check_digest(name, **expected, progress, stop))
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
        expected: Digest,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<Option<Finding>> {
        let unreadable =
            |cause| Finding::new(&self.shown(name), FindingKind::Unreadable, "a readable file", cause);
        let hashed =
            regular::open(&self.dir.join(name)).and_then(|file| digest::of_file(&file, progress, stop));
        let found = match hashed {
            Ok(found) => found.ok_or(ConvertError::Interrupted)?,
            Err(cause) if regular::is_of_environment(&cause) => {
                return Err(of_environment(self.dir.join(name), cause));
            }
            Err(cause) => return Ok(Some(unreadable(cause))),
        };
        let differs = || {
            let (expected, found) = (format!("sha256 {expected}"), format!("sha256 {found}"));
            Finding::new(&self.shown(name), FindingKind::Digest, expected, found)
        };
        Ok((found != expected).then(differs))
    }

    /// All of a short file; the inner error is of the file itself.
    fn read(&self, name: &str, limit: u64) -> Result<io::Result<Vec<u8>>> {
        let path = self.dir.join(name);
        match read_limited(&path, limit) {
            Err(cause) if regular::is_of_environment(&cause) => Err(of_environment(path, cause)),
            read => Ok(read),
        }
    }

    /// The path of a file of the release: those of the bundle inside have theirs without a folder.
    fn shown(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

fn read_limited(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    regular::open(path)?.take(limit + 1).read_to_end(&mut text)?;
    if text.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than it can be"));
    }
    Ok(text)
}

fn io_error(doing: &'static str, path: &Path, cause: io::Error) -> BundleError {
    BundleError::Io { doing, path: path.to_owned(), cause }
}
