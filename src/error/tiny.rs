//! Errors of writing the tiny checkpoint.

use std::io;
use std::path::PathBuf;

use super::Explain;
use super::io::help_for;

/// The tiny checkpoint could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TinyError {
    /// The folder already holds something.
    #[error("the folder for the tiny checkpoint is not empty")]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// A file or folder could not be made.
    #[error("a file of the tiny checkpoint could not be written")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Explain for TinyError {
    fn place(&self) -> Option<String> {
        let (TinyError::NotEmpty { dir: path } | TinyError::Write { path, .. }) = self;
        Some(path.display().to_string())
    }

    fn why(&self) -> Option<String> {
        match self {
            TinyError::NotEmpty { .. } => {
                Some("files of two checkpoints in one folder would be taken for one".to_owned())
            }
            TinyError::Write { source, .. } => Some(source.to_string()),
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            TinyError::NotEmpty { .. } => {
                Some("name a folder that is empty or does not exist yet".to_owned())
            }
            TinyError::Write { source, .. } => help_for(source),
        }
    }
}
