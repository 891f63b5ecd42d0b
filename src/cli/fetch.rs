//! What `convert` and `pull` share: which repositories belong to a model, and fetching them.

use std::io::Read as _;
use std::path::Path;

use mgpack::checkpoint::MAX_CONFIG_LEN;
use mgpack::checkpoint::hub::Snapshot;
use mgpack::error::{CacheError, HubError, LocateError};
use mgpack::family::{Detected, Family, Tower};
use mgpack::hub::{Download, Hub, Wanted, is_offline};
use mgpack::locate::{self, Places};
use mgpack::size::counted;
use mgpack::{Error, Explain as _, Result, regular};
use serde_json::Value;

use super::args::ProgressMode;
use super::{STOP, ui};

/// The hub of the environment with the cache of `places`, or `None` where the network is forbidden.
pub(super) fn hub(places: &Places) -> Result<Option<Hub>> {
    let var = |name: &str| std::env::var_os(name);
    if is_offline(var) {
        return Ok(None);
    }
    let cache = places.cache.clone().ok_or(CacheError::NoCacheFolder)?;
    Hub::from_env(cache, var).map(Some)
}

/// Downloads what a conversion of `model` needs and no place holds. Asks the hub for nothing else.
pub(super) fn missing(model: &str, places: &Places, progress: Option<ProgressMode>) -> Result<()> {
    places.check_towers()?;
    let mut doubt = None;
    let absent = match locate::checkpoint(model, places) {
        Ok(_) => false,
        // A path that is mistyped is likelier than a repository: the conversion says so.
        Err(Error::Locate(error @ LocateError::NotHere { near: None, .. })) => {
            doubt = error.why();
            true
        }
        Err(Error::Cache(CacheError::NotInCache { .. } | CacheError::IncompleteSnapshot { .. })) => true,
        // Whatever it is, it is no download; the conversion tells it.
        Err(_) => return Ok(()),
    };
    let Some(hub) = hub(places)? else { return Ok(()) };
    if let Some(readings) = doubt {
        ui::say(&format!("note: `{model}` is asked of the hub; {readings}"));
    }
    let mut downloads = Vec::new();
    let mut known = None;
    if absent {
        let hub_id = locate::hub_id(model)?;
        known = family_of(&hub_id);
        downloads.push(hub.plan(
            &hub_id,
            places.revision.as_deref(),
            Wanted::Checkpoint,
            &ui::Notes,
            &STOP,
        )?);
    }
    if !absent && let Some(snapshot) = without_tokenizer(model, places) {
        // Of this commit, so that the weights stay those that are here.
        match hub.plan(&snapshot.repo_id, Some(&snapshot.commit), Wanted::Checkpoint, &ui::Notes, &STOP) {
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
                downloads.push(plan_tower(&hub, tower)?);
            }
        }
    }
    fetch(&hub, &downloads, progress)?;
    // Towers of a checkpoint that only its config.json tells to be MGM.
    if known.is_some() {
        return Ok(());
    }
    let dir = locate::checkpoint(model, places)?.dir;
    towers_of(&dir, places, &hub, progress)
}

/// Downloads the towers that the checkpoint at `dir` needs, by its config.json, and no place holds.
pub(super) fn towers_of(
    dir: &Path,
    places: &Places,
    hub: &Hub,
    progress: Option<ProgressMode>,
) -> Result<()> {
    let Some(config) = config(dir) else { return Ok(()) };
    let Detected::Mgm(found) = Family::detect(&config) else { return Ok(()) };
    let mut downloads = Vec::new();
    for tower in &found.family.towers {
        let configured = config.get(&tower.config_key).and_then(Value::as_str);
        if is_missing(tower, configured, dir, places) {
            downloads.push(plan_tower(hub, tower)?);
        }
    }
    fetch(hub, &downloads, progress).map(drop)
}

/// The download of a tower, or why there is none, and what else there is to do.
fn plan_tower<'a>(hub: &'a Hub, tower: &'a Tower) -> Result<Download<'a>> {
    hub.plan(tower.hub_id.as_str(), None, Wanted::Tower(tower), &ui::Notes, &STOP).map_err(
        |error| match error {
            Error::Hub(HubError::Interrupted) => error,
            error => {
                let name = tower.path.rsplit('/').next().unwrap_or(&tower.path).to_owned();
                LocateError::TowerNotFetched { name, cause: Box::new(error) }.into()
            }
        },
    )
}

/// The snapshot that `model` names, where it has no tokenizer and only the hub knows whether there is one.
fn without_tokenizer(model: &str, places: &Places) -> Option<Snapshot> {
    if Path::new(model).exists() {
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
pub(super) fn fetch(
    hub: &Hub,
    downloads: &[Download<'_>],
    progress: Option<ProgressMode>,
) -> Result<Vec<Snapshot>> {
    let needed = downloads.iter().fold(0_u64, |sum, download| sum.saturating_add(download.missing));
    if needed > 0 {
        hub.check_space(needed)?;
    }
    let mut snapshots = Vec::new();
    for download in downloads {
        let count = download.missing_files.len();
        if count > 0 {
            ui::say(&format!(
                "fetching {} at {}: {} in {}",
                download.repo_id,
                download.commit.get(..12).unwrap_or(&download.commit),
                ui::bytes(download.missing),
                counted(count, "file"),
            ));
        }
        let bars = ui::Bars::new(progress);
        snapshots.push(download.run(&bars, &STOP)?);
    }
    Ok(snapshots)
}

pub(super) fn config(dir: &Path) -> Option<Value> {
    let mut text = Vec::new();
    regular::open(&dir.join("config.json")).ok()?.take(MAX_CONFIG_LEN).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
