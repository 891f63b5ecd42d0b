//! Errors of opening, checking and releasing a bundle.

use std::path::PathBuf;

use super::explain::{at, what};
use super::{Explain, Explanation};
use crate::digest::Digest;
use crate::mention;
use crate::size::counted;
use crate::tensor::Dtype;

/// A bundle could not be opened, checked or released.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.explain().what)]
#[non_exhaustive]
pub enum BundleError {
    /// No bundle is at the path, by `why`.
    NotABundle { path: PathBuf, why: String },
    /// The bundle to be released or loaded does not verify.
    Broken { path: PathBuf, findings: usize },
    /// A file has another digest than the manifest expects.
    Digest { path: PathBuf, expected: Digest, found: Digest },
    /// Another folder, or none, is in a bundle's place since it was opened.
    Replaced { path: PathBuf },
    /// The bundle was not made from the checkpoint at `path`.
    OtherCheckpoint { tensor: String, path: PathBuf, why: String },
    /// Values were asked for of a tensor of integers, or of a type that is not decoded. `path`: its shard.
    NoValues { path: PathBuf, tensor: String, dtype: Dtype },
    /// The size of a release's parts, in bytes.
    PartTooSmall { part_len: u64 },
}

impl Explain for BundleError {
    fn explain(&self) -> Explanation {
        match self {
            Self::NotABundle { path, why } => at(path, "this is not a bundle")
                .why(why)
                .help("give a folder that ‹convert()› made, or a tar that ‹release()› made"),
            Self::Broken { path, findings } => {
                at(path, format!("the bundle does not match its seal: {}", counted(findings, "finding")))
                    .why("only a bundle that verifies is released or loaded")
                    .help(format!(
                        "{} lists the findings",
                        mention::call("verify", &path.to_string_lossy(), &[])
                    ))
                    .refused()
            }
            Self::Digest { path, expected, found } => at(path, "a file does not match its seal")
                .why(format!("sha256 is {found}, the manifest has {expected}"))
                .help("download that file again; ‹verify()› checks whether others are damaged")
                .refused(),
            Self::Replaced { path } => at(path, "the bundle was replaced while it was read")
                .why("its files are gone, or another folder is in its place, so neither can be checked")
                .help("run the command again"),
            Self::OtherCheckpoint { tensor, path, why } => {
                at(path, format!("tensor `{tensor}` of the bundle differs from the checkpoint's"))
                    .why(why)
                    .help("give the checkpoint that was converted")
            }
            Self::NoValues { path, tensor, dtype } => {
                at(path, format!("tensor `{tensor}` holds {dtype:?}, which are not floating-point values"))
                    .why("its bytes are stored as they were in the checkpoint")
                    .help("read its bytes")
            }
            Self::PartTooSmall { part_len } => {
                what(format!("parts of {} are too small", counted(part_len, "byte")))
                    .why("a part is at least 1 MiB, and there are at most 10,000")
                    .help("give a larger ‹part_size›")
            }
        }
    }
}
