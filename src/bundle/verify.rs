//! A bundle, opened and checked: every byte against the seal, with every finding.
//!
//! The check is closed-world: the manifest's files are all that may be there, as regular files without links;
//! the only file it need not list is a later signature. Owns the checks, through which a folder and a released tar go
//! alike; `contents` lists and opens either. Carries out formats/bundle.md, "Verification".

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustix::io::Errno;
use serde::Serialize;

use super::contents::{BundleFolder, Contents, Entry, Tar};
use super::finding::{Finding, FindingKind};
use super::headers::check_headers;
use super::lists::check_lists;
use super::released::Released;
use crate::archive::Parts;
use crate::beneath::Root;
use crate::digest::{self, Digest};
use crate::error::{BundleError, Error, IoError, Result};
use crate::manifest::{
    self, Contradiction, FileRecord, MANIFEST_NAME, MAX_MANIFEST_LEN, Manifest, SIGNATURE_NAME,
};
use crate::progress::{Progress, Stage, Stop};
use crate::regular;
use crate::size::counted;

/// Largest signature accepted beside a bundle.
const MAX_SIGNATURE_LEN: u64 = 1 << 20;

/// What a check found out.
#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    /// The bundle's id: the digest of its manifest; null where there is none.
    pub id: Option<Digest>,
    /// Name of the bundle by its manifest.
    pub name: Option<String>,
    /// Files checked.
    pub files: u64,
    /// Bytes hashed; 0 for a quick check.
    pub bytes: u64,
    /// All findings, sorted by path.
    pub findings: Vec<Finding>,
    /// What is no fault of the bundle and yet worth knowing, one sentence each.
    pub notes: Vec<String>,
}

/// Checks the bundle at `path`: a folder, a tar made by `release` or its first part, or the folder of a release.
///
/// `quick` compares sizes, headers and the manifest only; otherwise every byte is hashed, files in parallel on
/// the current rayon pool.
///
/// # Errors
/// [`BundleError::NotABundle`] where there is no manifest to check against; [`Error::Io`] names a file that the
/// system could not read. Everything else is a finding.
pub fn verify(path: &Path, quick: bool, progress: &dyn Progress, stop: &Stop) -> Result<Verification> {
    let root = match Root::open(path) {
        Ok(root) => root,
        Err(cause) if cause.kind() == ErrorKind::NotADirectory => {
            return verify_tar(Parts::open(path), path, quick, progress, stop);
        }
        Err(cause) => return Err(unopened(path, cause, "")),
    };
    if let Some(released) = Released::find(&root, path)? {
        return verify_release(&root, &released, path, quick, progress, stop);
    }
    let (mut report, manifest) = examine(&BundleFolder::of(root, path)?, quick, progress, stop)?;
    // Not of a tar: what is unpacked from it has the bundle's name.
    let misnamed = manifest.and_then(|manifest| super::misnamed(&manifest, path));
    report.notes.extend(misnamed.map(|misnamed| misnamed.note()));
    Ok(report)
}

/// Checks a tar whose parts are open, or could not be. `path`: where it lies.
fn verify_tar(
    parts: io::Result<Parts>,
    path: &Path,
    quick: bool,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Verification> {
    let not_a_bundle = |why: String| BundleError::NotABundle { path: path.to_owned(), why };
    let listed = parts.and_then(|parts| Tar::list(parts, path));
    let tar = listed.map_err(|cause| unopened(path, cause, "it is no tar of a bundle: "))?;
    check(&tar, &not_a_bundle, quick, progress, stop).map(|(report, _)| report)
}

/// Checks the tar of a release, and what lies around it in the folder `root`, which was found at `path`.
fn verify_release(
    root: &Root,
    released: &Released<'_>,
    path: &Path,
    quick: bool,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Verification> {
    let inside = verify_tar(released.tar(), &released.tar_path(), quick, progress, stop);
    let id = inside.as_ref().ok().and_then(|report| report.id);
    let around = released.check(id, quick, progress, stop)?;
    let is_good = around.is_empty() && inside.as_ref().is_ok_and(|report| report.findings.is_empty());
    if !is_good && !stop.requested() && !root.is_at(path) {
        return Err(BundleError::Replaced { path: path.to_owned() }.into());
    }
    let mut report = match inside {
        // A part that is missing says more than a tar that cannot be read for it.
        Err(Error::Bundle(BundleError::NotABundle { .. })) if !around.is_empty() => {
            Verification { id: None, name: None, files: 0, bytes: 0, findings: Vec::new(), notes: Vec::new() }
        }
        inside => inside?,
    };
    report.findings.extend(around);
    report.findings.sort();
    Ok(report)
}

/// The error of what could not be opened as a bundle. `what`: begins the reason where the system is not to blame.
fn unopened(path: &Path, cause: io::Error, what: &str) -> Error {
    match regular::is_of_environment(&cause) {
        true => of_environment(path.to_owned(), cause),
        false => BundleError::NotABundle { path: path.to_owned(), why: format!("{what}{cause}") }.into(),
    }
}

/// True where the folder `path` is a bundle, by how its manifest begins.
///
/// # Errors
/// [`Error::Io`] where that cannot be read.
pub(crate) fn is_at(path: &Path) -> Result<bool> {
    let failed = |cause| IoError::new("looking for a manifest", path, cause);
    Ok(manifest::is_in(path).map_err(failed)?)
}

/// Opens the manifest of the bundle in the folder `dir`, without checking anything else.
///
/// # Errors
/// [`BundleError::NotABundle`], also where the manifest is a link, as no file of a bundle is; [`Error::Io`] where the
/// system refuses.
pub fn read_manifest(dir: &Path) -> Result<(Manifest, Digest)> {
    let root = Root::open(dir).map_err(|cause| unopened(dir, cause, &format!("{MANIFEST_NAME}: ")))?;
    read_manifest_in(&root, dir)
}

/// The same of a folder that is open. `dir`: where it was found.
pub(super) fn read_manifest_in(root: &Root, dir: &Path) -> Result<(Manifest, Digest)> {
    let not_a_bundle = |why: String| -> Error {
        BundleError::NotABundle { path: dir.to_owned(), why: format!("{MANIFEST_NAME}{why}") }.into()
    };
    let read = root.file(MANIFEST_NAME).and_then(|mut file| read_limited(&mut file, MAX_MANIFEST_LEN));
    let bytes = read.map_err(|cause| match regular::errno(&cause) {
        Some(Errno::LOOP) => not_a_bundle(" is a symbolic link, and the files of a bundle are none".into()),
        // Nothing, or something else, or too long.
        _ if !regular::is_of_environment(&cause) => not_a_bundle(format!(": {cause}")),
        _ => IoError::new("reading the manifest", dir.join(MANIFEST_NAME), cause).into(),
    })?;
    let manifest = Manifest::from_bytes(&bytes).map_err(|fault| not_a_bundle(format!(": {fault}")))?;
    Ok((manifest, Digest::of(&bytes)))
}

/// Checks a bundle that is open. The report, and the manifest where it could be read.
///
/// # Errors
/// As [`verify`]; [`BundleError::Replaced`] where something is wrong and the folder has lost its place: what was not found
/// there says nothing of a bundle.
pub(crate) fn examine(
    folder: &BundleFolder,
    quick: bool,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<(Verification, Option<Manifest>)> {
    let path = || folder.path().to_owned();
    let not_a_bundle = |why: String| BundleError::NotABundle { path: path(), why };
    let examined = check(folder, &not_a_bundle, quick, progress, stop);
    let is_good = examined.as_ref().is_ok_and(|(report, _)| report.findings.is_empty());
    if is_good || stop.requested() || folder.is_in_place() {
        return examined;
    }
    Err(BundleError::Replaced { path: path() }.into())
}

/// The report, and the manifest where it could be read.
fn check(
    contents: &dyn Contents,
    not_a_bundle: &dyn Fn(String) -> BundleError,
    quick: bool,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<(Verification, Option<Manifest>)> {
    let bytes = match contents.entries().get(MANIFEST_NAME) {
        Some(Entry::File { .. }) => contents
            .open(MANIFEST_NAME)
            .and_then(|mut file| read_limited(&mut file, MAX_MANIFEST_LEN))
            .map_err(|cause| match regular::is_of_environment(&cause) {
                true => of_environment(contents.place(MANIFEST_NAME), cause),
                false => not_a_bundle(format!("{MANIFEST_NAME} cannot be read: {cause}")).into(),
            })?,
        Some(Entry::Other(what)) => return Err(not_a_bundle(format!("{MANIFEST_NAME} is {what}")).into()),
        None => {
            return Err(not_a_bundle(format!(
                "{MANIFEST_NAME} is missing: the seal was never written, or was removed"
            ))
            .into());
        }
    };
    let id = Digest::of(&bytes);
    let manifest = match Manifest::from_bytes(&bytes) {
        Ok(manifest) => manifest,
        Err(fault) => {
            let finding = Finding::new(MANIFEST_NAME, FindingKind::Manifest, "a canonical manifest", fault);
            let findings = vec![finding];
            let report =
                Verification { id: Some(id), name: None, files: 1, bytes: 0, findings, notes: Vec::new() };
            return Ok((report, None));
        }
    };
    let mut findings = check_manifest(&manifest);
    findings.extend(check_file_set(&manifest, contents));
    findings.extend_from_slice(contents.findings());
    let present: Vec<&FileRecord> = manifest
        .files
        .iter()
        .filter(|file| matches!(contents.entries().get(file.path.as_str()), Some(Entry::File { len, .. }) if *len == file.size))
        .collect();
    findings.extend(check_headers(&manifest, contents, &present)?);
    let mut hashed = 0;
    if !quick {
        hashed = present.iter().map(|file| file.size).sum();
        progress.begin(Stage::Verify, hashed);
        let found: Vec<Option<Finding>> = present
            .par_iter()
            .map(|file| check_digest(file, contents, progress, stop))
            .collect::<Result<_>>()?;
        findings.extend(found.into_iter().flatten());
        progress.finish();
    }
    findings.extend(check_lists(&manifest, contents)?);
    findings.sort();
    findings.dedup();
    let report = Verification {
        id: Some(id),
        name: Some(manifest.model.name.to_string()),
        files: manifest.files.len() as u64 + 1,
        bytes: hashed,
        findings,
        notes: Vec::new(),
    };
    Ok((report, Some(manifest)))
}

/// What must hold inside the manifest itself.
fn check_manifest(manifest: &Manifest) -> Vec<Finding> {
    let finding = |broken: Contradiction| {
        Finding::new(MANIFEST_NAME, FindingKind::Manifest, broken.expected, broken.found)
    };
    manifest.contradictions().into_iter().map(finding).collect()
}

/// Every file of the manifest is there, with its length, and nothing else is.
fn check_file_set(manifest: &Manifest, contents: &dyn Contents) -> Vec<Finding> {
    let mut findings = Vec::new();
    let listed: BTreeSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    for file in &manifest.files {
        match contents.entries().get(file.path.as_str()) {
            None => findings.push(Finding::new(
                &file.path,
                FindingKind::Missing,
                counted(file.size, "byte"),
                "nothing",
            )),
            Some(Entry::Other(what)) => {
                findings.push(Finding::new(&file.path, FindingKind::NotAFile, "a regular file", what));
            }
            Some(Entry::File { len, .. }) if *len != file.size => {
                findings.push(Finding::new(
                    &file.path,
                    FindingKind::Size,
                    counted(file.size, "byte"),
                    counted(len, "byte"),
                ));
            }
            Some(Entry::File { .. }) => {}
        }
    }
    for (path, entry) in contents.entries() {
        if listed.contains(path.as_str()) || path == MANIFEST_NAME {
            continue;
        }
        match entry {
            Entry::File { len, .. } if path == SIGNATURE_NAME && *len <= MAX_SIGNATURE_LEN => {}
            Entry::File { len, .. } => {
                findings.push(Finding::new(path, FindingKind::Extra, "nothing", counted(len, "byte")));
            }
            Entry::Other(what) => findings.push(Finding::new(path, FindingKind::NotAFile, "nothing", what)),
        }
    }
    findings
}

pub(super) fn check_digest(
    file: &FileRecord,
    contents: &dyn Contents,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Option<Finding>> {
    let hashed = contents.open(&file.path).and_then(|mut file| digest::of_reader(&mut file, progress, stop));
    let found = match hashed {
        Ok(found) => found.ok_or(Error::Interrupted { kept: false })?,
        Err(cause) => return unreadable(contents, &file.path, cause).map(Some),
    };
    Ok((found != file.sha256).then(|| {
        Finding::new(
            &file.path,
            FindingKind::Digest,
            format!("sha256 {}", file.sha256),
            format!("sha256 {found}"),
        )
    }))
}

/// A finding about a file of the bundle that changed since it was listed.
///
/// # Errors
/// [`Error::Io`] where the system could not read it.
pub(super) fn unreadable(contents: &dyn Contents, path: &str, cause: io::Error) -> Result<Finding> {
    if regular::is_of_environment(&cause) {
        return Err(of_environment(contents.place(path), cause));
    }
    Ok(Finding::new(path, FindingKind::Unreadable, "a readable file", cause))
}

/// The error of a file that the system could not read.
pub(super) fn of_environment(path: PathBuf, cause: io::Error) -> Error {
    IoError::new("reading a file of the bundle", path, cause).into()
}

fn read_limited(reader: &mut dyn Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("longer than {}", counted(limit, "byte")),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::progress::Silent;

    const EXAMPLE: &[u8] = include_bytes!("../../formats/examples/accepted/manifest-generic-w8a8.json");

    /// A bundle whose manifest can be read; another file answers an error, when it is opened or when it is read.
    struct Failing {
        entries: BTreeMap<String, Entry>,
        name: String,
        errno: Errno,
        opens: bool,
    }

    struct FailingReader(Errno);

    impl Read for FailingReader {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
    }

    impl Contents for Failing {
        fn entries(&self) -> &BTreeMap<String, Entry> {
            &self.entries
        }

        fn open(&self, path: &str) -> io::Result<Box<dyn Read + '_>> {
            match path {
                _ if path == self.name && self.opens => Ok(Box::new(FailingReader(self.errno))),
                _ if path == self.name => Err(self.errno.into()),
                MANIFEST_NAME => Ok(Box::new(EXAMPLE)),
                _ => Ok(Box::new(io::empty())),
            }
        }

        fn place(&self, path: &str) -> PathBuf {
            Path::new("bundle").join(path)
        }
    }

    #[test]
    fn a_file_that_the_system_cannot_read_is_an_error_and_one_that_is_gone_a_finding() {
        // Once, EIO on a shard was the finding `unreadable`: the bundle was blamed for the disk.
        let manifest = Manifest::from_bytes(EXAMPLE).unwrap();
        let listed = manifest.files.iter().map(|file| (file.path.to_string(), file.size));
        let sizes: Vec<_> = listed.chain([(MANIFEST_NAME.to_owned(), EXAMPLE.len() as u64)]).collect();
        assert!(sizes.iter().any(|(name, _)| manifest::is_shard(name)));
        let entries: BTreeMap<_, _> =
            sizes.iter().map(|(name, len)| (name.clone(), Entry::File { len: *len, offset: 0 })).collect();
        let not_a_bundle = |why| BundleError::NotABundle { path: "bundle".into(), why };
        let verify = |name: &str, errno, opens, quick| {
            let failing = Failing { entries: entries.clone(), name: name.to_owned(), errno, opens };
            check(&failing, &not_a_bundle, quick, &Silent, &Stop::new()).map(|(report, _)| report)
        };
        for (name, _) in &sizes {
            for (errno, opens) in
                [(Errno::IO, true), (Errno::IO, false), (Errno::ACCESS, false), (Errno::STALE, true)]
            {
                match verify(name, errno, opens, false) {
                    Err(Error::Io(IoError { path, source: cause, .. })) => {
                        assert_eq!(path, Path::new("bundle").join(name));
                        assert_eq!(Errno::from_io_error(&cause), Some(errno), "{name}");
                    }
                    other => panic!("{name}: {other:?}"),
                }
            }
            // A quick check reads headers and lists.
            if manifest::is_shard(name) || name == manifest::SUMS_NAME {
                assert!(verify(name, Errno::IO, true, true).is_err(), "{name}");
            }
            if name == MANIFEST_NAME {
                continue;
            }
            for errno in [Errno::NOENT, Errno::NOTDIR, Errno::LOOP] {
                let report = verify(name, errno, false, false).unwrap();
                let kinds = report.findings.iter().filter(|finding| finding.path == *name);
                assert!(kinds.clone().any(|finding| finding.kind == FindingKind::Unreadable), "{name}");
            }
        }
    }
}
