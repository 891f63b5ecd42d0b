//! Errors of finding what the user named.

use std::path::{Path, PathBuf};

use super::{CacheError, Error, Explain};
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
        /// A path that is there and resembles it.
        near: Option<PathBuf>,
    },
    /// What may be a path or a hub id, and is neither here nor in the hub's cache.
    #[error("`{}` is no path here and not in the hub's cache", path.display())]
    NotHere {
        /// As given.
        path: PathBuf,
        /// A path that is there and resembles it.
        near: Option<PathBuf>,
        /// What the cache says.
        cached: Box<CacheError>,
    },
    /// The built-in checkpoint was asked of the hub.
    #[error("`tiny` is built in, and not on the hub")]
    BuiltIn,
    /// The folder that the user names for the towers cannot be used.
    #[error("the folder that was given for the vision towers cannot be used")]
    TowersFolder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A vision tower is neither here nor to be had from the hub.
    #[error("the vision tower `{name}` is not here, and could not be had from the hub")]
    TowerNotFetched {
        /// Name of its folder.
        name: String,
        /// What the hub or its cache says.
        cause: Box<Error>,
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
            LocateError::NoSuchPath { path, .. }
            | LocateError::NothingToStream { path }
            | LocateError::TowersFolder { path, .. } => Some(path.display().to_string()),
            LocateError::NotHere { .. } | LocateError::BuiltIn => None,
            LocateError::TowerNotFetched { cause, .. } => cause.place(),
            LocateError::NoTower { looked_at, .. } => {
                let list: Vec<_> = looked_at.iter().map(|path| path.display().to_string()).collect();
                Some(list.join("\n       "))
            }
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            LocateError::NoSuchPath { .. } | LocateError::BuiltIn => None,
            LocateError::NotHere { path, near, cached } => Some(readings(path, near.as_deref(), cached)),
            LocateError::TowersFolder { why, .. } => Some(why.clone()),
            LocateError::TowerNotFetched { cause, .. } => Some(match cause.why() {
                Some(why) => format!("{cause}: {why}"),
                None => cause.to_string(),
            }),
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
            LocateError::NoSuchPath { near: Some(near), .. } => {
                Some(format!("did you mean `{}`?", near.display()))
            }
            LocateError::NoSuchPath { near: None, .. } => Some(
                "give a folder with config.json and *.safetensors, an alias (tiny, 7b, 34b-hd, …) or a hub id"
                    .into(),
            ),
            LocateError::NotHere { path, near: Some(near), .. } => Some(format!(
                "did you mean `{}`? to have the hub's repository all the same, first {}",
                near.display(),
                mention::call("pull", &path.to_string_lossy(), &[])
            )),
            LocateError::NotHere { near: None, cached, .. } => {
                cached.help().map(|help| format!("correct the path; or, for the hub's repository, {help}"))
            }
            LocateError::BuiltIn => Some(format!("{} makes a bundle of it", mention::call("convert", "tiny", &[("scheme", "int8")]))),
            LocateError::TowersFolder { .. } => Some(
                "give the folder that holds the towers with ‹towers›, or leave it out: they are looked for beside the \
                 checkpoint and the working directory, and in the hub's cache"
                    .into(),
            ),
            LocateError::TowerNotFetched { cause, .. } => {
                let towers = "name the folder that holds the towers with ‹towers›";
                Some(cause.help().map_or_else(|| towers.to_owned(), |help| format!("{help}; or {towers}")))
            }
            LocateError::NothingToStream { .. } => Some("leave ‹stream› and ‹discard_source› out".into()),
            LocateError::NoTower { hub_id, .. } => Some(format!(
                "{}, or name the folder that holds the towers with ‹towers›",
                mention::call("pull", hub_id, &[])
            )),
        }
    }
}

/// What a text may mean that has the form of a hub id, and which of the two is likely.
fn readings(path: &Path, near: Option<&Path>, cached: &CacheError) -> String {
    let folder = path.parent().unwrap_or(path).display();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let of_cache = cached.why().unwrap_or_else(|| cached.to_string());
    let (as_path, likely) = match near {
        Some(near) => (
            format!("there is `{}`, and no `{}`", near.display(), path.display()),
            "it is likely a path, mistyped".to_owned(),
        ),
        None => (
            format!("the folder `{folder}` has no `{name}`"),
            format!("it is likely a hub id: nothing in `{folder}` has a name like `{name}`"),
        ),
    };
    format!("read as a path: {as_path}; read as a hub id: {of_cache}; {likely}")
}
