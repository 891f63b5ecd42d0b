//! `verify`: a bundle held against its seal.

use std::path::PathBuf;

use super::{Work, on_threads};
use crate::bundle::{self, Finding, FindingKind, Verification};
use crate::digest::Digest;
use crate::error::Result;
use crate::manifest::MANIFEST_NAME;

/// How much of a bundle is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// Every byte.
    #[default]
    Full,
    /// Sizes, headers and the manifest.
    Quick,
    /// As `Quick`, and in a folder every byte of small files: [`bundle::verify_small`].
    Small,
}

/// What `verify` takes.
#[derive(Clone, Debug, Default)]
pub struct VerifyCall {
    /// The bundle: its folder, a release's folder, or the tar in it (or its first part).
    pub bundle: PathBuf,
    /// How much is read.
    pub depth: Depth,
    /// The id that the bundle must have.
    pub id: Option<Digest>,
    /// Threads; `None` is one for each core.
    pub threads: Option<usize>,
}

/// Checks the bundle, and its id where one is given. The report serializes as what `--json` prints.
///
/// # Errors
/// As [`bundle::verify`].
pub fn verify(call: &VerifyCall, work: Work<'_>) -> Result<Verification> {
    let Work { progress, stop, .. } = work;
    let mut report = on_threads(call.threads, || match call.depth {
        Depth::Full => bundle::verify(&call.bundle, false, progress, stop),
        Depth::Quick => bundle::verify(&call.bundle, true, progress, stop),
        Depth::Small => bundle::verify_small(&call.bundle, progress, stop),
    })?;
    if let (Some(wanted), Some(found)) = (call.id, report.id)
        && wanted != found
    {
        report.findings.push(Finding {
            path: MANIFEST_NAME.to_owned(),
            kind: FindingKind::Id,
            expected: format!("id sha256:{wanted}"),
            found: format!("id sha256:{found}"),
        });
        report.findings.sort();
    }
    Ok(report)
}
