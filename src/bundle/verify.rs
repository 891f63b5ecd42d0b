//! A bundle, opened and checked: every byte against the seal, every finding told.
//!
//! The check is closed-world: the manifest's files are all that may be there, as regular files without links;
//! the only file it need not list is a later signature. Owns the checks, through which a folder and a released tar go
//! alike; `contents` lists and opens either. Carries out formats/bundle.md, "Verification".

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::contents::{Contents, Entry, Folder, Tar};
use super::finding::{Finding, FindingKind};
use super::released::Released;
use crate::checkpoint::safetensors::{self, Header};
use crate::digest::{Digest, Hasher};
use crate::error::{BundleError, ConvertError, Error, Result};
use crate::manifest::{
    self, FileRecord, MANIFEST_NAME, MAX_MANIFEST_LEN, Manifest, SIGNATURE_NAME, SUMS_NAME, is_bundle_name,
    is_bundle_path,
};
use crate::progress::{Progress, Stage, Stop};
use crate::regular;
use crate::size::counted;

/// Bytes read at a time.
const READ_LEN: usize = 1 << 20;
/// Largest signature accepted beside a bundle.
const MAX_SIGNATURE_LEN: u64 = 1 << 20;

/// What a check found out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
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
/// [`BundleError::NotABundle`] where there is no manifest to check against. Everything else is a finding.
pub fn verify(path: &Path, quick: bool, progress: &dyn Progress, stop: &Stop) -> Result<Report> {
    let not_a_bundle = |why: String| BundleError::NotABundle { path: path.to_owned(), why };
    let meta = fs::metadata(path).map_err(|cause| not_a_bundle(cause.to_string()))?;
    if let Some(released) = meta.is_dir().then(|| Released::find(path)).transpose()?.flatten() {
        let inside = verify(&released.tar(), quick, progress, stop);
        let id = inside.as_ref().ok().and_then(|report| report.id);
        let around = released.check(id, quick, progress, stop)?;
        let mut report = match inside {
            // A part that is missing says more than a tar that cannot be read for it.
            Err(Error::Bundle(BundleError::NotABundle { .. })) if !around.is_empty() => {
                Report { id: None, name: None, files: 0, bytes: 0, findings: Vec::new(), notes: Vec::new() }
            }
            inside => inside?,
        };
        report.findings.extend(around);
        report.findings.sort();
        return Ok(report);
    }
    if meta.is_dir() {
        let folder = Folder::list(path)?;
        let (mut report, manifest) = check(&folder, &not_a_bundle, quick, progress, stop)?;
        // Not of a tar: what is unpacked from it has the bundle's name.
        let misnamed = manifest.and_then(|manifest| super::misnamed(&manifest, path));
        report.notes.extend(misnamed.map(|misnamed| misnamed.note()));
        return Ok(report);
    }
    let tar = Tar::list(path).map_err(|cause| not_a_bundle(format!("it is no tar of a bundle: {cause}")))?;
    check(&tar, &not_a_bundle, quick, progress, stop).map(|(report, _)| report)
}

/// True where the folder `path` is a bundle, by how its manifest begins.
///
/// # Errors
/// [`BundleError::Io`] where that cannot be read.
pub fn is_at(path: &Path) -> Result<bool> {
    let failed = |cause| BundleError::Io { doing: "looking for a manifest", path: path.to_owned(), cause };
    Ok(manifest::is_in(path).map_err(failed)?)
}

/// Opens the manifest of the bundle in the folder `dir`, without checking anything else.
///
/// # Errors
/// [`BundleError::NotABundle`]; [`BundleError::Io`] where the system refuses.
pub fn read_manifest(dir: &Path) -> Result<(Manifest, Digest)> {
    let path = dir.join(MANIFEST_NAME);
    let not_a_bundle = |why: String| BundleError::NotABundle { path: dir.to_owned(), why };
    let read = regular::open(&path).and_then(|mut file| read_limited(&mut file, MAX_MANIFEST_LEN));
    let bytes = read.map_err(|cause| match cause.kind() {
        // Nothing, or something else, or too long.
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidInput | ErrorKind::InvalidData => {
            not_a_bundle(format!("{MANIFEST_NAME}: {cause}"))
        }
        _ => BundleError::Io { doing: "reading the manifest", path: path.clone(), cause },
    })?;
    let manifest =
        Manifest::from_bytes(&bytes).map_err(|fault| not_a_bundle(format!("{MANIFEST_NAME}: {fault}")))?;
    Ok((manifest, Digest::of(&bytes)))
}

/// The report, and the manifest where it could be read.
fn check(
    contents: &dyn Contents,
    not_a_bundle: &dyn Fn(String) -> BundleError,
    quick: bool,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<(Report, Option<Manifest>)> {
    let bytes = match contents.entries().get(MANIFEST_NAME) {
        Some(Entry::File { .. }) => contents
            .open(MANIFEST_NAME)
            .and_then(|mut file| read_limited(&mut file, MAX_MANIFEST_LEN))
            .map_err(|cause| match regular::is_of_environment(&cause) {
                true => of_environment(MANIFEST_NAME, cause),
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
            let report = Report { id: Some(id), name: None, files: 1, bytes: 0, findings, notes: Vec::new() };
            return Ok((report, None));
        }
    };
    let mut findings = check_manifest(&manifest);
    findings.extend(check_file_set(&manifest, contents));
    findings.extend_from_slice(contents.findings());
    let present: Vec<&FileRecord> = manifest
        .files
        .iter()
        .filter(|file| matches!(contents.entries().get(&file.path), Some(Entry::File { len, .. }) if *len == file.size))
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
    findings.extend(check_sums(&manifest, contents)?);
    findings.sort();
    findings.dedup();
    let report = Report {
        id: Some(id),
        name: Some(manifest.model.name.clone()),
        files: manifest.files.len() as u64 + 1,
        bytes: hashed,
        findings,
        notes: Vec::new(),
    };
    Ok((report, Some(manifest)))
}

/// What must hold inside the manifest itself.
fn check_manifest(manifest: &Manifest) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut complain = |expected: &str, found: String| {
        findings.push(Finding::new(MANIFEST_NAME, FindingKind::Manifest, expected, found));
    };
    match manifest.expected_seal() {
        Ok(seal) if seal == manifest.seal => {}
        Ok(seal) => complain(&format!("seal {}", manifest.seal), format!("content with seal {seal}")),
        Err(error) => complain("a manifest that can be written", error.to_string()),
    }
    if !is_bundle_name(&manifest.model.name) {
        complain("a name that a bundle may have", format!("`{}`", manifest.model.name.escape_debug()));
    }
    let mut last = "";
    for file in &manifest.files {
        if !is_bundle_path(&file.path) || file.path == MANIFEST_NAME || file.path == SIGNATURE_NAME {
            complain("paths of a bundle only", format!("`{}`", file.path.escape_debug()));
        }
        if file.path.as_str() <= last {
            complain("files sorted by path, each once", format!("`{}` after `{last}`", file.path));
        }
        last = &file.path;
    }
    let mut names = BTreeSet::new();
    for tensor in &manifest.tensors {
        if !names.insert(tensor.name.as_str()) {
            complain("every tensor once", format!("`{}` twice", tensor.name));
        }
    }
    if !manifest.files.iter().any(|file| is_shard(&file.path)) {
        complain("at least one shard", "none".to_owned());
    }
    if !manifest.files.iter().any(|file| file.path == SUMS_NAME) {
        complain(&format!("`{SUMS_NAME}` among the files"), "nothing".to_owned());
    }
    let total = manifest.files.iter().map(|file| file.size).fold(0, u64::saturating_add);
    if manifest.totals.file_bytes != total {
        complain(&format!("totals.file_bytes {total}"), manifest.totals.file_bytes.to_string());
    }
    findings
}

/// True for the path of a shard: a safetensors file at the top of the bundle.
fn is_shard(path: &str) -> bool {
    path.ends_with(".safetensors") && !path.contains('/')
}

/// Every file of the manifest is there, with its length, and nothing else is.
fn check_file_set(manifest: &Manifest, contents: &dyn Contents) -> Vec<Finding> {
    let mut findings = Vec::new();
    let listed: BTreeSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    for file in &manifest.files {
        match contents.entries().get(&file.path) {
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

/// The shards' headers hold exactly the tensors of the manifest, where it says.
fn check_headers(
    manifest: &Manifest,
    contents: &dyn Contents,
    present: &[&FileRecord],
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let listed: BTreeSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    let present: BTreeMap<&str, &FileRecord> =
        present.iter().map(|file| (file.path.as_str(), *file)).collect();
    let mut by_shard: BTreeMap<&str, Vec<&manifest::TensorRecord>> = BTreeMap::new();
    for tensor in &manifest.tensors {
        by_shard.entry(&tensor.shard).or_default().push(tensor);
    }
    // A shard without a record must say so in its header too.
    for file in manifest.files.iter().filter(|file| is_shard(&file.path)) {
        by_shard.entry(&file.path).or_default();
    }
    for (shard, tensors) in &by_shard {
        if !listed.contains(shard) {
            findings.push(Finding::new(
                MANIFEST_NAME,
                FindingKind::Manifest,
                format!("`{shard}` among the files"),
                "nothing",
            ));
        }
        let Some(file) = present.get(shard) else { continue };
        let mut reader = match contents.open(shard) {
            Ok(reader) => reader,
            Err(cause) => {
                findings.push(unreadable(shard, cause)?);
                continue;
            }
        };
        match read_header(&mut reader, file.size) {
            Err(why) => findings.push(Finding::new(shard, FindingKind::Header, "a safetensors header", why)),
            Ok(header) => findings.extend(compare_header(shard, &header, tensors)),
        }
    }
    Ok(findings)
}

fn compare_header(shard: &str, header: &Header, tensors: &[&manifest::TensorRecord]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut listed: BTreeMap<&str, &manifest::TensorRecord> =
        tensors.iter().map(|tensor| (tensor.name.as_str(), *tensor)).collect();
    for entry in &header.tensors {
        let Some(tensor) = listed.remove(entry.name.as_str()) else {
            findings.push(Finding::new(
                shard,
                FindingKind::Header,
                "nothing",
                format!("tensor `{}`", entry.name),
            ));
            continue;
        };
        let described = |dtype, shape: &[u64], range: [u64; 2]| {
            format!("`{}` {dtype:?} {shape:?} at {}..{}", tensor.name, range[0], range[1])
        };
        let expected = described(tensor.dtype, &tensor.shape, tensor.range);
        let found = described(
            entry.dtype,
            &entry.shape,
            [header.data_start + entry.start, header.data_start + entry.end],
        );
        if expected != found {
            findings.push(Finding::new(shard, FindingKind::Header, expected, found));
        }
    }
    for name in listed.keys() {
        findings.push(Finding::new(shard, FindingKind::Header, format!("tensor `{name}`"), "nothing"));
    }
    findings
}

/// Reads a shard's header through any reader, with the checks of the checkpoint reader.
fn read_header(reader: &mut dyn Read, len: u64) -> std::result::Result<Header, String> {
    let mut prefix = [0; safetensors::PREFIX_LEN as usize];
    reader.read_exact(&mut prefix).map_err(|cause| cause.to_string())?;
    let header_len = u64::from_le_bytes(prefix);
    let data_len = len.checked_sub(safetensors::PREFIX_LEN).and_then(|rest| rest.checked_sub(header_len));
    let Some(data_len) = data_len.filter(|_| header_len <= safetensors::MAX_HEADER_LEN) else {
        return Err(format!("a header of {} in a file of {len}", counted(header_len, "byte")));
    };
    let mut text = vec![0; header_len as usize];
    reader.read_exact(&mut text).map_err(|cause| cause.to_string())?;
    let header = safetensors::parse(&text, data_len);
    header.map_err(|fault| fault.to_string())
}

fn check_digest(
    file: &FileRecord,
    contents: &dyn Contents,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Option<Finding>> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; READ_LEN];
    let mut reader = match contents.open(&file.path) {
        Ok(reader) => reader,
        Err(cause) => return unreadable(&file.path, cause).map(Some),
    };
    loop {
        if stop.requested() {
            return Err(ConvertError::Interrupted.into());
        }
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                progress.advance(read as u64);
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return unreadable(&file.path, cause).map(Some),
        }
    }
    let found = hasher.finish();
    Ok((found != file.sha256).then(|| {
        Finding::new(
            &file.path,
            FindingKind::Digest,
            format!("sha256 {}", file.sha256),
            format!("sha256 {found}"),
        )
    }))
}

/// A finding about the file, unless it is this process that cannot read any.
fn unreadable(path: &str, cause: io::Error) -> Result<Finding> {
    if regular::is_of_environment(&cause) {
        return Err(of_environment(path, cause));
    }
    Ok(Finding::new(path, FindingKind::Unreadable, "a readable file", cause))
}

fn of_environment(path: &str, cause: io::Error) -> crate::Error {
    BundleError::Io { doing: "reading a file of the bundle", path: path.into(), cause }.into()
}

/// SHA256SUMS says of every file what the manifest says.
fn check_sums(manifest: &Manifest, contents: &dyn Contents) -> Result<Option<Finding>> {
    let expected = manifest::sums(&manifest.files);
    let Some(Entry::File { .. }) = contents.entries().get(SUMS_NAME) else { return Ok(None) };
    let read = contents.open(SUMS_NAME).and_then(|mut file| read_limited(&mut file, expected.len() as u64));
    match read {
        Ok(bytes) if bytes == expected.as_bytes() => Ok(None),
        Ok(_) => Ok(Some(Finding::new(
            SUMS_NAME,
            FindingKind::Manifest,
            "the digests of the manifest",
            "other text",
        ))),
        Err(cause) => unreadable(SUMS_NAME, cause).map(Some),
    }
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
