//! From what the user typed to folders on disk: the checkpoint, and the towers that belong to it.
//!
//! A model is a path, an alias of a family, or a hub id looked up in the Hugging Face cache; nothing is
//! fetched here (see `hub`). A tower is looked for at its path in config.json, in `--towers`, in a `model_zoo` beside the
//! checkpoint or the working directory, and in the cache. Carries out formats/bundle.md, "Towers".

mod near;
mod tiny;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;
use crate::checkpoint::hub::{HubCache, Snapshot};
use crate::error::{CacheError, Error, FamilyError, IoError, LocateError, Result};
use crate::family::{Family, Tower};
use crate::regular;
use crate::tensor;
use crate::tiny::ALIAS;

pub(crate) use tiny::{borrow_tiny, tiny};

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The hub's cache; `None` where the environment names none.
    pub cache: Option<HubCache>,
    /// The working directory.
    pub cwd: PathBuf,
    /// `--towers`.
    pub towers: Option<PathBuf>,
    /// `--revision`.
    pub revision: Option<String>,
}

impl Places {
    /// The places that the environment of this process names.
    pub fn from_env(var: impl Fn(&str) -> Option<OsString>) -> Self {
        Self {
            cache: HubCache::from_env(var).ok(),
            cwd: std::env::current_dir().unwrap_or_default(),
            towers: None,
            revision: None,
        }
    }

    /// The folder that the user names for the towers is one.
    ///
    /// # Errors
    /// [`LocateError::TowersFolder`].
    pub fn check_towers(&self) -> Result<()> {
        match &self.towers {
            Some(path) if !path.is_dir() => {
                let why = if path.exists() { "it is no folder" } else { "it does not exist" };
                Err(LocateError::TowersFolder { path: path.clone(), why: why.to_owned() }.into())
            }
            _ => Ok(()),
        }
    }
}

/// A folder that was found, and what the hub calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The folder.
    pub dir: PathBuf,
    /// Hub id, where it lies in the hub's cache.
    pub hub_id: Option<String>,
    /// Commit, where it lies in the hub's cache.
    pub revision: Option<String>,
}

/// Finds the checkpoint that `model` names.
///
/// # Errors
/// [`LocateError::NoSuchPath`] where it is no path, no alias and no hub id; [`LocateError::NotHere`] where it may be a
/// path or a hub id; the cache's own errors, whose help is the command that fetches what is missing.
pub(crate) fn checkpoint(model: &str, places: &Places) -> Result<Located> {
    let path = Path::new(model);
    if is_there(path)? {
        return Ok(in_cache(path));
    }
    let id = hub_id(model)?;
    find_in_cache(&id, places).map_err(|error| match error {
        Error::Cache(cached @ CacheError::NotInCache { .. }) if id == model => not_here(model, cached),
        error => error,
    })
}

/// Whether anything is at `path`.
///
/// # Errors
/// [`IoError`] where the system does not know.
pub(crate) fn is_there(path: &Path) -> Result<bool> {
    Ok(regular::is_there(path).map_err(|cause| IoError::new("looking for the checkpoint", path, cause))?)
}

/// Whether `model` means the built-in checkpoint: by its alias, unless something here has that name.
pub(crate) fn is_tiny(model: &str) -> bool {
    model == ALIAS && !Path::new(model).exists()
}

/// What has the form of a hub id, is not in the cache, and may be a mistyped path.
fn not_here(model: &str, cached: CacheError) -> Error {
    let path = Path::new(model);
    let near = near::near(path);
    let folder = path.parent().filter(|folder| folder.is_dir());
    if near.is_none() && folder.is_none() {
        return cached.into();
    }
    LocateError::NotHere { path: path.to_owned(), near, cached: Box::new(cached) }.into()
}

/// The hub id that `model` names: itself, or that of an alias.
///
/// # Errors
/// [`LocateError::NoSuchPath`] where it looks like a path, [`FamilyError`] for an unknown alias;
/// [`LocateError::BuiltIn`] for the checkpoint that is on no hub.
pub(crate) fn hub_id(model: &str) -> Result<String> {
    let path = Path::new(model);
    let looks_like_path = model.starts_with(['.', '/', '~']) || model.matches('/').count() > 1;
    if looks_like_path || model.is_empty() {
        return Err(no_such_path(path));
    }
    if model.contains('/') {
        return Ok(model.to_owned());
    }
    if is_tiny(model) {
        return Err(LocateError::BuiltIn.into());
    }
    let (family, variant) = Family::by_alias(model).map_err(|error| match error {
        FamilyError::UnknownAlias { alias, nearest, known, .. } => {
            FamilyError::UnknownAlias { folder: near::near(path), alias, nearest, known }
        }
        error => error,
    })?;
    let hub_id = family.checkpoint(variant).and_then(|published| published.hub_id.as_ref());
    hub_id.map(ToString::to_string).ok_or_else(|| no_such_path(path))
}

fn no_such_path(path: &Path) -> Error {
    LocateError::NoSuchPath { path: path.to_owned(), near: near::near(path) }.into()
}

fn find_in_cache(hub_id: &str, places: &Places) -> Result<Located> {
    let cache = places.cache.as_ref().ok_or(CacheError::NoCacheFolder)?;
    let snapshot = cache.find_checkpoint(hub_id, places.revision.as_deref())?;
    Ok(Located { dir: snapshot.dir, hub_id: Some(snapshot.repo_id), revision: Some(snapshot.commit) })
}

/// Tells a snapshot folder of a hub cache from any other by its path.
fn in_cache(path: &Path) -> Located {
    let mut located = Located { dir: path.to_owned(), hub_id: None, revision: None };
    let Ok(real) = path.canonicalize() else { return located };
    let names: Vec<&str> = real.iter().rev().take(3).filter_map(|part| part.to_str()).collect();
    if let [commit, "snapshots", repo] = names.as_slice()
        && let Some(id) = repo.strip_prefix("models--")
        && commit.len() == 40
        && commit.bytes().all(|digit| digit.is_ascii_hexdigit())
    {
        located.hub_id = Some(id.replacen("--", "/", 1));
        located.revision = Some((*commit).to_owned());
    }
    located
}

/// Finds the folder of a tower. `configured`: its path in config.json.
///
/// # Errors
/// [`LocateError::NoTower`] with every place looked at, [`LocateError::TowerNotFetched`] where the cache has a part of
/// it; their help is the command that fetches the tower, and the option that names it.
pub(crate) fn tower(
    tower: &Tower,
    configured: Option<&str>,
    checkpoint: &Path,
    places: &Places,
) -> Result<Located> {
    let name = tower.path.rsplit('/').next().unwrap_or(&tower.path);
    let mut candidates = Vec::new();
    if let Some(dir) = &places.towers {
        candidates.extend([dir.join(name), dir.join("OpenAI").join(name), dir.join(&tower.path)]);
    }
    if let Some(configured) = configured.filter(|path| !path.is_empty()) {
        candidates.extend([checkpoint.join(configured), places.cwd.join(configured)]);
    }
    candidates.push(checkpoint.join(&tower.path));
    if let Some(parent) = checkpoint.parent() {
        candidates.push(parent.join(&tower.path));
    }
    candidates.push(places.cwd.join(&tower.path));
    if let Some(dir) = candidates.iter().find(|dir| missing_of_tower(tower, dir).is_empty()) {
        return Ok(in_cache(dir));
    }
    let hub_id = tower.hub_id.as_str();
    match places.cache.as_ref().map(|cache| tower_in_cache(tower, cache)) {
        Some(Ok(snapshot)) => {
            Ok(Located { dir: snapshot.dir, hub_id: Some(snapshot.repo_id), revision: Some(snapshot.commit) })
        }
        Some(Err(error @ Error::Cache(CacheError::IncompleteSnapshot { .. }))) => {
            Err(LocateError::TowerNotFetched { name: name.to_owned(), cause: Box::new(error) }.into())
        }
        _ => Err(LocateError::NoTower {
            name: name.to_owned(),
            hub_id: hub_id.to_owned(),
            looked_at: candidates,
            files: tower.files.iter().chain(tower.weights_one_of.first()).cloned().collect(),
        }
        .into()),
    }
}

/// The snapshot of a tower in the hub's cache, with all that MGM opens.
///
/// # Errors
/// The cache's own; [`CacheError::IncompleteSnapshot`] with the files that are missing.
pub(crate) fn tower_in_cache(tower: &Tower, cache: &HubCache) -> Result<Snapshot> {
    let snapshot = cache.find(tower.hub_id.as_str(), None)?;
    let missing = missing_of_tower(tower, &snapshot.dir);
    if missing.is_empty() { Ok(snapshot) } else { Err(snapshot.incomplete(None, missing).into()) }
}

/// What MGM opens of a tower and `dir` does not have.
fn missing_of_tower(tower: &Tower, dir: &Path) -> Vec<String> {
    let has = |file: &&String| dir.join(file).is_file();
    let weights =
        tower.weights_one_of.first().filter(|_| !tower.weights_one_of.iter().any(|file| has(&file)));
    tower.files.iter().filter(|file| !has(file)).chain(weights).cloned().collect()
}

/// Bytes that the used part of a tower takes in 16 bits: counted where its weights are safetensors, otherwise
/// as the family says (MGM fixes the auxiliary tower's size by its name).
///
/// # Errors
/// [`crate::error::CheckpointError`] where that file is none.
pub(crate) fn tower_len(tower: &Tower, dir: &Path) -> Result<u64> {
    let counted =
        tower.weights_one_of.iter().find(|name| name.ends_with(".safetensors") && dir.join(name).is_file());
    let Some(name) = counted else { return Ok(tower.bytes()) };
    let file = Checkpoint::open_file(&dir.join(name))?;
    let is_used = |name: &str| tower.state_prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
    let used = file.tensors().iter().filter(|tensor| is_used(tensor.name.as_str()));
    Ok(used
        .filter_map(|tensor| tensor::element_count(&tensor.shape))
        .fold(0, u64::saturating_add)
        .saturating_mul(2))
}
