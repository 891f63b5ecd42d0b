//! A finding: one difference between a bundle and its seal.
//!
//! Carries out formats/bundle.md, "Verification", for the kinds.

use serde::Serialize;

/// Something that is not as the seal says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The file, as the manifest or the folder names it.
    pub path: String,
    /// What kind of difference it is.
    pub kind: FindingKind,
    /// What the seal says.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl Finding {
    pub(super) fn new(path: &str, kind: FindingKind, expected: impl ToString, found: impl ToString) -> Self {
        Self { path: path.to_owned(), kind, expected: expected.to_string(), found: found.to_string() }
    }
}

/// The kinds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A file of the manifest is not there.
    Missing,
    /// A file that the manifest does not list.
    Extra,
    /// Another length.
    Size,
    /// Another digest.
    Digest,
    /// A link, folder, pipe or device where a file should be, or an empty folder.
    NotAFile,
    /// A file that was there and is none any more, or ends sooner than it did.
    Unreadable,
    /// A shard whose header and the manifest disagree.
    Header,
    /// The manifest contradicts itself or the bundle's own lists.
    Manifest,
    /// Another bundle than the one asked for.
    Id,
    /// Bytes of a tar outside its files are not those that a release has.
    Archive,
}
