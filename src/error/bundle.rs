//! Errors of opening, checking and releasing a bundle.

use std::path::PathBuf;

use super::Explain;
use super::io::help_for;
use crate::digest::Digest;
use crate::mention;
use crate::size::counted;
use crate::tensor::Dtype;

/// A bundle could not be opened, checked or released.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The path is no bundle.
    #[error("this is not a bundle")]
    NotABundle {
        /// The path.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// The bundle that should be released is not whole.
    #[error("the bundle does not match its seal: {}", counted(findings, "finding"))]
    Broken {
        /// The bundle.
        path: PathBuf,
        /// How many findings there are.
        findings: usize,
    },
    /// A file's bytes are not those that were sealed.
    #[error("a file does not match its seal")]
    Digest {
        /// The file.
        path: PathBuf,
        /// The digest in the manifest.
        expected: Digest,
        /// That of the file.
        found: Digest,
    },
    /// Another folder, or none, is in a bundle's place since it was opened.
    #[error("the bundle was replaced while it was read")]
    Replaced {
        /// The bundle.
        path: PathBuf,
    },
    /// A checkpoint is not the one that the bundle was made from.
    #[error("tensor `{tensor}` of the bundle is not so in the checkpoint")]
    OtherCheckpoint {
        /// The tensor.
        tensor: String,
        /// The checkpoint.
        path: PathBuf,
        /// What is different.
        why: String,
    },
    /// Values were asked for of a tensor that has none: it holds integers, or a type that is not decoded.
    #[error("tensor `{tensor}` holds {dtype:?}, which are no floating values")]
    NoValues {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: Dtype,
    },
    /// The folder of a release holds something already.
    #[error("the folder for the release is not empty")]
    OutputNotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A release's part size is too small.
    #[error("parts of {} are too small", counted(part_len, "byte"))]
    PartTooSmall {
        /// The size asked for.
        part_len: u64,
    },
    /// Reading or writing failed.
    #[error("{doing} failed")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The path concerned.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: std::io::Error,
    },
}

impl Explain for BundleError {
    fn place(&self) -> Option<String> {
        match self {
            BundleError::NotABundle { path, .. }
            | BundleError::OutputNotEmpty { path }
            | BundleError::Broken { path, .. }
            | BundleError::Digest { path, .. }
            | BundleError::Replaced { path }
            | BundleError::OtherCheckpoint { path, .. }
            | BundleError::NoValues { path, .. }
            | BundleError::Io { path, .. } => Some(path.display().to_string()),
            BundleError::PartTooSmall { .. } => None,
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            BundleError::NotABundle { why, .. } | BundleError::OtherCheckpoint { why, .. } => {
                Some(why.clone())
            }
            BundleError::NoValues { .. } => {
                Some("its bytes are stored as they were in the checkpoint".into())
            }
            BundleError::Io { cause, .. } => Some(cause.to_string()),
            BundleError::Broken { .. } => Some("only a bundle that verifies is released or loaded".into()),
            BundleError::Digest { expected, found, .. } => {
                Some(format!("sha256 is {found}, the manifest has {expected}"))
            }
            BundleError::Replaced { .. } => Some(
                "its files are gone, or another folder has its place: nothing can be said of either".into(),
            ),
            BundleError::OutputNotEmpty { .. } => {
                Some("files of two releases would share one list of digests".into())
            }
            BundleError::PartTooSmall { .. } => {
                Some("a part is at least 1 MiB, and there are at most 10,000".into())
            }
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            BundleError::NotABundle { .. } => {
                Some("give a folder that ‹convert()› made, or a tar that ‹release()› made".into())
            }
            BundleError::Broken { path, .. } => Some(format!(
                "{} lists the findings",
                mention::call("verify", &path.display().to_string(), &[])
            )),
            BundleError::Digest { .. } => {
                Some("fetch that file again; ‹verify()› checks whether others are damaged".into())
            }
            BundleError::Replaced { .. } => Some("run the command again".into()),
            BundleError::OtherCheckpoint { .. } => Some("give the checkpoint that was converted".into()),
            BundleError::NoValues { .. } => Some("read its bytes".into()),
            BundleError::OutputNotEmpty { .. } => Some("give a new or an empty folder with ‹output›".into()),
            BundleError::PartTooSmall { .. } => Some("give a larger ‹part_size›".into()),
            BundleError::Io { cause, .. } => help_for(cause),
        }
    }
}
