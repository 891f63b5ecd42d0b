//! What `convert` and `pull` share: which repositories belong to a model, and downloading what is missing of them.

use std::io::Read as _;
use std::path::Path;

use serde_json::Value;

use super::Work;
use crate::checkpoint::MAX_CONFIG_LEN;
use crate::checkpoint::hub::Snapshot;
use crate::error::{CacheError, Error, Explain as _, HubError, LocateError, Result};
use crate::family::{Detected, Family, Tower};
use crate::hub::{Download, Hub, Wanted, is_offline};
use crate::locate::{self, Places};
use crate::regular;
use crate::size::{counted, shown};

/// The hub of the environment with the cache of `places`, or `None` where the network is forbidden.
pub(super) fn hub(places: &Places, work: Work<'_>) -> Result<Option<Hub>> {
    if is_offline(work.variables) {
        return Ok(None);
    }
    let cache = places.cache.clone().ok_or(CacheError::NoCacheFolder)?;
    Hub::from_env(cache, work.variables).map(Some)
}

/// Downloads what a conversion of `model` needs and no place holds. Asks the hub for nothing else.
pub(super) fn missing(model: &str, places: &Places, work: Work<'_>) -> Result<()> {
    places.check_towers()?;
    let mut doubt = None;
    let absent = match locate::checkpoint(model, places) {
        Ok(_) => false,
        // A path that is mistyped is likelier than a repository: the conversion says so.
        Err(Error::Locate(error @ LocateError::NotHere { near: None, .. })) => {
            doubt = error.explain().why;
            true
        }
        Err(Error::Cache(CacheError::NotInCache { .. } | CacheError::IncompleteSnapshot { .. })) => true,
        // Whatever it is, it is no download; the conversion reports it.
        Err(_) => return Ok(()),
    };
    let Some(hub) = hub(places, work)? else { return Ok(()) };
    if let Some(readings) = doubt {
        work.progress.note(&format!("`{model}` is asked of the hub; {readings}"));
    }
    let mut downloads = Vec::new();
    let mut known = None;
    if absent {
        let hub_id = locate::hub_id(model)?;
        known = family_of(&hub_id);
        let revision = places.revision.as_deref();
        downloads.push(hub.plan(&hub_id, revision, Wanted::Checkpoint, work.progress, work.stop)?);
    }
    if !absent && let Some(snapshot) = without_tokenizer(model, places) {
        // Of this commit, so that the weights stay those that are here.
        let commit = Some(snapshot.commit.as_str());
        match hub.plan(&snapshot.repo_id, commit, Wanted::Checkpoint, work.progress, work.stop) {
            Ok(download) => downloads.push(download),
            // There may be none, and then nothing is missing.
            Err(Error::Hub(HubError::Answer { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    if let Some(family) = known {
        for tower in &family.towers {
            // The checkpoint is not here yet, so only places that do not depend on it count.
            if is_missing(tower, None, &places.cwd, places) {
                downloads.push(plan_tower(&hub, tower, work)?);
            }
        }
    }
    fetch(&hub, &downloads, work)?;
    // Towers of a checkpoint that only its config.json says to be MGM.
    if known.is_some() {
        return Ok(());
    }
    let dir = locate::checkpoint(model, places)?.dir;
    towers_of(&dir, places, &hub, work)
}

/// Downloads the towers that the checkpoint at `dir` needs, by its config.json, and no place holds.
pub(super) fn towers_of(dir: &Path, places: &Places, hub: &Hub, work: Work<'_>) -> Result<()> {
    let Some(config) = config(dir) else { return Ok(()) };
    let Detected::Mgm(found) = Family::detect(&config) else { return Ok(()) };
    let mut downloads = Vec::new();
    for tower in &found.family.towers {
        let configured = config.get(&tower.config_key).and_then(Value::as_str);
        if is_missing(tower, configured, dir, places) {
            downloads.push(plan_tower(hub, tower, work)?);
        }
    }
    fetch(hub, &downloads, work).map(drop)
}

/// The download of a tower, or why there is none, and what else there is to do.
fn plan_tower<'a>(hub: &'a Hub, tower: &'a Tower, work: Work<'_>) -> Result<Download<'a>> {
    let planned = hub.plan(tower.hub_id.as_str(), None, Wanted::Tower(tower), work.progress, work.stop);
    planned.map_err(|error| match error {
        Error::Interrupted { .. } => error,
        error => {
            let name = tower.path.rsplit('/').next().unwrap_or(&tower.path).to_owned();
            LocateError::TowerNotFetched { name, cause: Box::new(error) }.into()
        }
    })
}

/// The snapshot that `model` names, where it has no tokenizer and only the hub knows whether there is one.
fn without_tokenizer(model: &str, places: &Places) -> Option<Snapshot> {
    // Where the system does not know, nothing is fetched in its place.
    if locate::is_there(Path::new(model)).unwrap_or(true) {
        return None;
    }
    let hub_id = locate::hub_id(model).ok()?;
    let found = places.cache.as_ref()?.find(&hub_id, places.revision.as_deref());
    found.ok().filter(Snapshot::may_lack_tokenizer)
}

fn is_missing(tower: &Tower, configured: Option<&str>, checkpoint: &Path, places: &Places) -> bool {
    matches!(
        locate::tower(tower, configured, checkpoint, places),
        Err(Error::Locate(LocateError::NoTower { .. } | LocateError::TowerNotFetched { .. }))
    )
}

/// The family that publishes a checkpoint under this hub id.
pub(super) fn family_of(hub_id: &str) -> Option<&'static Family> {
    let is_it = |family: &&Family| {
        family.checkpoints.iter().any(|one| one.hub_id.as_ref().is_some_and(|id| id.as_str() == hub_id))
    };
    Family::all().iter().find(is_it)
}

/// The tower that the hub has under this id.
pub(super) fn tower_of(hub_id: &str) -> Option<&'static Tower> {
    Family::all().iter().flat_map(|family| &family.towers).find(|tower| tower.hub_id.as_str() == hub_id)
}

/// Runs downloads, with one line each that says what and how much.
pub(super) fn fetch(hub: &Hub, downloads: &[Download<'_>], work: Work<'_>) -> Result<Vec<Snapshot>> {
    let needed = downloads.iter().fold(0_u64, |sum, download| sum.saturating_add(download.missing));
    if needed > 0 {
        hub.check_space(needed)?;
    }
    let mut snapshots = Vec::new();
    for download in downloads {
        let count = download.missing_files.len();
        if count > 0 {
            work.progress.announce(&format!(
                "fetching {} at {}: {} in {}",
                download.repo_id,
                download.commit.get(..12).unwrap_or(&download.commit),
                shown(download.missing),
                counted(count, "file"),
            ));
        }
        snapshots.push(download.run(work.progress, work.stop)?);
    }
    Ok(snapshots)
}

pub(super) fn config(dir: &Path) -> Option<Value> {
    let mut text = Vec::new();
    regular::open(&dir.join("config.json")).ok()?.take(MAX_CONFIG_LEN).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
