//! `release`: a bundle verified and written as a tar.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Work, on_threads, words};
use crate::error::Result;
use crate::release::{self, Release};

/// What `release` takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseCall {
    /// The bundle's folder.
    #[serde(deserialize_with = "words::path")]
    pub bundle: PathBuf,
    /// Folder that the tar, its digests and the bundle's id are written into.
    #[serde(deserialize_with = "words::path")]
    pub output: PathBuf,
    /// Bytes of each part that the tar is split into; `None` is one file.
    #[serde(default)]
    pub part_size: Option<u64>,
}

/// Verifies the bundle and writes it as a tar.
///
/// # Errors
/// As [`release::release`].
pub fn release(call: &ReleaseCall, work: Work<'_>) -> Result<Release> {
    let ReleaseCall { bundle, output, part_size } = call;
    on_threads(None, || release::release(bundle, output, *part_size, work.progress, work.stop))
}
