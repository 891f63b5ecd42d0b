//! The check before a bundle is loaded: the quick one, and the digests of the files that a loader reads whole.

use std::io::Read as _;
use std::path::Path;

use super::contents::{BundleFolder, Contents as _};
use super::verify::{Verification, check_digest, is_at, verify};
use crate::error::Result;
use crate::manifest::{MANIFEST_NAME, MAX_MANIFEST_LEN, Manifest};
use crate::progress::{Progress, Silent, Stop};

/// Files up to this length are hashed by [`verify_small`]: configuration, tokenizer and the like. Longer ones are weights,
/// whose headers are checked.
pub const SMALL_LEN: u64 = 16 << 20;

/// Checks the bundle at `path` as [`verify`] does quickly, and in a folder every byte of the files of up to [`SMALL_LEN`].
///
/// # Errors
/// As [`verify`].
pub fn verify_small(path: &Path, progress: &dyn Progress, stop: &Stop) -> Result<Verification> {
    let mut report = verify(path, true, progress, stop)?;
    // A tar, or a manifest that cannot be read.
    if report.name.is_none() || !path.is_dir() || !is_at(path)? {
        return Ok(report);
    }
    let folder = BundleFolder::open(path)?;
    let mut bytes = Vec::new();
    let read =
        folder.open(MANIFEST_NAME).and_then(|file| file.take(MAX_MANIFEST_LEN).read_to_end(&mut bytes));
    // What has become of it meanwhile is said by whoever opens the bundle.
    let (Ok(_), Ok(manifest)) = (read, Manifest::from_bytes(&bytes)) else { return Ok(report) };
    let is_known = |path: &str| report.findings.iter().any(|finding| finding.path == path);
    let small = manifest.files.iter().filter(|file| file.size <= SMALL_LEN && !is_known(&file.path));
    let found = small.map(|file| check_digest(file, &folder, &Silent, stop)).collect::<Result<Vec<_>>>()?;
    report.findings.extend(found.into_iter().flatten());
    report.findings.sort();
    Ok(report)
}
