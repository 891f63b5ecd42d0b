//! Errors of finding what the user named.

use std::path::{Path, PathBuf};

use super::explain::{at, what};
use super::{CacheError, Error, Explain, Explanation};
use crate::mention;

/// A checkpoint or a tower was not found.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.explain().what)]
#[non_exhaustive]
pub enum LocateError {
    /// `near`: a path that exists and is like it.
    NoSuchPath { path: PathBuf, near: Option<PathBuf> },
    /// What may be a path or a hub id, and is neither here nor in the hub's cache, which says `cached`.
    NotHere { path: PathBuf, near: Option<PathBuf>, cached: Box<CacheError> },
    /// The built-in checkpoint was asked of the hub.
    BuiltIn,
    /// The folder given for the towers cannot be used.
    TowersFolder { path: PathBuf, why: String },
    /// A vision tower is not here, and the hub or its cache does not have it either.
    TowerNotFetched { name: String, cause: Box<Error> },
    /// A conversion that downloads as it goes was asked for a folder.
    NothingToStream { path: PathBuf },
    /// No folder of `looked_at` is a vision tower of this name with these files.
    NoTower { name: String, hub_id: String, looked_at: Vec<PathBuf>, files: Vec<String> },
}

/// What else there is to do about a tower.
const NAME_TOWERS: &str = "name the folder that holds the towers with ‹towers›";

impl Explain for LocateError {
    fn explain(&self) -> Explanation {
        match self {
            Self::NoSuchPath { path, near } => {
                at(path, "there is no checkpoint at this path").help(match near {
                    Some(near) => format!("did you mean `{}`?", near.display()),
                    None => "give a folder with config.json and *.safetensors, an alias (tiny, 7b, 34b-hd, …) or a hub id"
                        .to_owned(),
                })
            }
            Self::NotHere { path, near, cached } => {
                let here = what(format!("`{}` is neither a path here nor in the hub's cache", path.display()))
                    .why(readings(path, near.as_deref(), cached));
                match (near, cached.explain().help) {
                    (Some(near), _) => here.help(format!(
                        "did you mean `{}`? If not, {} downloads from the hub",
                        near.display(),
                        mention::call("pull", &path.to_string_lossy(), &[])
                    )),
                    (None, Some(help)) => {
                        here.help(format!("correct the path; or, for the hub's repository, {help}"))
                    }
                    (None, None) => here,
                }
            }
            Self::BuiltIn => what("`tiny` is built in, and not on the hub").help(format!(
                "{} makes a bundle of it",
                mention::call("convert", "tiny", &[("scheme", "int8")])
            )),
            Self::TowersFolder { path, why } => {
                at(path, "the folder that was given for the vision towers cannot be used").why(why).help(
                    "give the folder that holds the towers with ‹towers›, or leave it out: they are looked for beside \
                     the checkpoint and the working directory, and in the hub's cache",
                )
            }
            Self::TowerNotFetched { name, cause } => {
                let Explanation { what: error, place, why, help, .. } = cause.explain();
                Explanation {
                    place,
                    ..what(format!("the vision tower `{name}` is not here, and the hub did not send it"))
                        .why(why.map_or_else(|| error.clone(), |why| format!("{error}: {why}")))
                        .help(help.map_or_else(|| NAME_TOWERS.into(), |help| format!("{help}; or {NAME_TOWERS}")))
                }
            }
            Self::NothingToStream { path } => at(path, "there is nothing to stream: the checkpoint is a folder")
                .why("‹stream=true› downloads from the hub, and removes only what can be downloaded again")
                .help("leave ‹stream› and ‹discard_source› out"),
            Self::NoTower { name, hub_id, looked_at, files } => {
                let folders: Vec<_> = looked_at.iter().map(|path| path.display().to_string()).collect();
                what(format!("the vision tower `{name}` was not found"))
                    .place(folders.join("\n       "))
                    .why(format!(
                        "no folder above holds {}, and the Hugging Face cache has no {hub_id}",
                        files.join(" and ")
                    ))
                    .help(format!("{}, or {NAME_TOWERS}", mention::call("pull", hub_id, &[])))
            }
        }
    }
}

/// What a text of the form of a hub id may mean, and which of the two is likely.
fn readings(path: &Path, near: Option<&Path>, cached: &CacheError) -> String {
    let folder = path.parent().unwrap_or(path).display();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let cached = cached.explain();
    let of_cache = cached.why.unwrap_or(cached.what);
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
