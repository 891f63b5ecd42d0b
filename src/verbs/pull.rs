//! `pull`: a checkpoint and its towers downloaded into the hub's cache.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Work, fetch};
use crate::checkpoint::hub::Snapshot;
use crate::error::{CacheError, Result};
use crate::family::{Detected, Family, Tower};
use crate::hub::{Download, Hub, Wanted};
use crate::locate;

/// What `pull` takes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PullCall {
    /// An alias or a hub id.
    pub model: String,
    /// Branch, tag or commit; `None` is `main`.
    pub revision: Option<String>,
    /// Only files that fit one of these; none is what a conversion needs.
    pub include: Vec<String>,
    /// No file that fits one of these.
    pub exclude: Vec<String>,
    /// Whether MGM's towers are left.
    pub no_towers: bool,
    /// Whether only what is in the cache counts.
    pub offline: bool,
}

/// A repository in the cache. Serializes as what `--json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pulled {
    /// `org/name`.
    pub repo: String,
    /// The commit.
    pub commit: String,
    /// Its folder.
    pub path: PathBuf,
}

impl From<Snapshot> for Pulled {
    fn from(Snapshot { dir, repo_id, commit }: Snapshot) -> Self {
        Self { repo: repo_id, commit, path: dir }
    }
}

/// A repository as it would be pulled. Serializes as what `--dry-run --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pullable {
    /// `org/name`.
    pub repo: String,
    /// The commit.
    pub commit: String,
    /// Bytes yet to be fetched.
    pub fetch_bytes: u64,
    /// The files that are wanted.
    pub files: Vec<PullableFile>,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PullableFile {
    /// Path in the repository.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Digest by which the hub's cache names its content.
    pub hash: String,
    /// Whether the cache has it.
    pub cached: bool,
}

impl From<&Download<'_>> for Pullable {
    fn from(download: &Download<'_>) -> Self {
        let missing: HashSet<&str> = download.missing_files.iter().map(|file| file.hash.name()).collect();
        let file = |file: &crate::hub::HubFile| PullableFile {
            path: file.path.clone(),
            bytes: file.size,
            hash: file.hash.name().to_owned(),
            cached: !missing.contains(file.hash.name()),
        };
        Self {
            repo: download.repo_id.clone(),
            commit: download.commit.clone(),
            fetch_bytes: download.missing,
            files: download.files.iter().map(file).collect(),
        }
    }
}

/// Downloads what is wanted and is not in the cache. Where the network is forbidden, finds it in the cache.
///
/// # Errors
/// The hub's and the cache's. What was fetched stays, and the same call goes on from there.
pub fn pull(call: &PullCall, work: Work<'_>) -> Result<Vec<Pulled>> {
    let Some(hub) = hub(call, work)? else { return in_cache(call, work) };
    let downloads = downloads(call, &hub, work)?;
    let mut snapshots = fetch::fetch(&hub, &downloads, work)?;
    if known(call)?.is_none()
        && !call.no_towers
        && let Some(config) = snapshots.first().and_then(|one| fetch::config(&one.dir))
        && let Detected::Mgm(found) = Family::detect(&config)
    {
        let towers = found.family.towers.iter().map(|tower| of_tower(&hub, tower, work));
        snapshots.extend(fetch::fetch(&hub, &towers.collect::<Result<Vec<_>>>()?, work)?);
    }
    Ok(snapshots.into_iter().map(Into::into).collect())
}

/// What [`pull`] would download, asked of the hub; writes nothing. `None` where the network is forbidden.
///
/// # Errors
/// The hub's.
pub fn preview(call: &PullCall, work: Work<'_>) -> Result<Option<Vec<Pullable>>> {
    let Some(hub) = hub(call, work)? else { return Ok(None) };
    Ok(Some(downloads(call, &hub, work)?.iter().map(Into::into).collect()))
}

fn hub(call: &PullCall, work: Work<'_>) -> Result<Option<Hub>> {
    if call.offline { Ok(None) } else { fetch::hub(&work.places(None), work) }
}

/// The family whose towers belong to the model, by its id.
fn known(call: &PullCall) -> Result<Option<&'static Family>> {
    Ok(fetch::family_of(&locate::hub_id(&call.model)?).filter(|_| !call.no_towers))
}

fn downloads<'a>(call: &PullCall, hub: &'a Hub, work: Work<'_>) -> Result<Vec<Download<'a>>> {
    let hub_id = locate::hub_id(&call.model)?;
    let wanted = match fetch::tower_of(&hub_id) {
        Some(tower) if call.include.is_empty() && call.exclude.is_empty() => Wanted::Tower(tower),
        _ => Wanted::Patterns { include: &call.include, exclude: &call.exclude },
    };
    let revision = call.revision.as_deref();
    let mut downloads = vec![hub.plan(&hub_id, revision, wanted, work.progress, work.stop)?];
    for tower in known(call)?.into_iter().flat_map(|family| &family.towers) {
        downloads.push(of_tower(hub, tower, work)?);
    }
    Ok(downloads)
}

fn of_tower<'a>(hub: &'a Hub, tower: &'a Tower, work: Work<'_>) -> Result<Download<'a>> {
    hub.plan(tower.hub_id.as_str(), None, Wanted::Tower(tower), work.progress, work.stop)
}

fn in_cache(call: &PullCall, work: Work<'_>) -> Result<Vec<Pulled>> {
    let places = work.places(None);
    let hub_id = locate::hub_id(&call.model)?;
    let cache = places.cache.as_ref().ok_or(CacheError::NoCacheFolder)?;
    let mut found = vec![match fetch::tower_of(&hub_id) {
        Some(tower) => locate::tower_in_cache(tower, cache)?,
        None => cache.find_checkpoint(&hub_id, call.revision.as_deref())?,
    }];
    for tower in known(call)?.into_iter().flat_map(|family| &family.towers) {
        found.push(locate::tower_in_cache(tower, cache)?);
    }
    Ok(found.into_iter().map(Into::into).collect())
}
