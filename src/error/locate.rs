//! Errors of finding what the user named.

use std::path::PathBuf;

use super::Explain;
use crate::mention;

/// A checkpoint or a tower is not where it was looked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocateError {
    /// A path that leads nowhere.
    #[error("there is no checkpoint at this path")]
    NoSuchPath {
        /// The path as given.
        path: PathBuf,
    },
    /// What `--stream` was to fetch is a folder.
    #[error("there is nothing to stream: the checkpoint is a folder")]
    NothingToStream {
        /// The folder.
        path: PathBuf,
    },
    /// A vision tower is missing.
    #[error("the vision tower `{name}` was not found")]
    NoTower {
        /// Name of its folder.
        name: String,
        /// Where it is published.
        hub_id: String,
        /// Folders looked at.
        looked_at: Vec<PathBuf>,
        /// Files that must be in it.
        files: Vec<String>,
    },
}

impl Explain for LocateError {
    fn place(&self) -> Option<String> {
        match self {
            LocateError::NoSuchPath { path } | LocateError::NothingToStream { path } => {
                Some(path.display().to_string())
            }
            LocateError::NoTower { looked_at, .. } => {
                let list: Vec<_> = looked_at.iter().map(|path| path.display().to_string()).collect();
                Some(list.join("\n       "))
            }
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            LocateError::NoSuchPath { .. } => None,
            LocateError::NothingToStream { .. } => {
                Some("‹stream=true› fetches from the hub, and removes only what can be fetched again".into())
            }
            LocateError::NoTower { files, hub_id, .. } => Some(format!(
                "no folder above holds {}, and the Hugging Face cache has no {hub_id}",
                files.join(" and ")
            )),
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            LocateError::NoSuchPath { .. } => Some(
                "give a folder with config.json and *.safetensors, an alias (7b, 34b-hd, …) or a hub id"
                    .into(),
            ),
            LocateError::NothingToStream { .. } => Some("leave ‹stream› and ‹discard_source› out".into()),
            LocateError::NoTower { hub_id, .. } => Some(format!(
                "{}, or name the folder that holds the towers with ‹towers›",
                mention::call("pull", hub_id, &[])
            )),
        }
    }
}
