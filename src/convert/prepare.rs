//! The decisions before a conversion: scheme, recipe, name, towers, and what becomes of every file.
//!
//! Reads folders and headers, never a weight. Carries out formats/bundle.md, "Names", "Files" and "Towers".

use std::path::Path;

use serde_json::Value;

use super::towers::Rewrite;
use super::{FileFate, FilePlan, Options, TowerFolder, checked, contents};
use crate::bundle;
use crate::checkpoint::{Checkpoint, Folder, MAX_CONFIG_LEN, SideFile, Skipped};
use crate::digest::Digest;
use crate::error::{LocateError, Result};
use crate::family::{self, Match};
use crate::locate::{self, Located, Places};
use crate::names::BundleName;
use crate::scheme::Scheme;
use crate::subject::Subject;

/// The bundle's name: what the caller gave, or the family's stem, or the checkpoint's, and the scheme.
pub(super) fn bundle_name(
    options: &Options,
    located: &Located,
    scheme: Scheme,
    family: Option<&Match>,
) -> Result<BundleName> {
    if let Some(name) = &options.name {
        return checked(format!("{name}-{}", scheme.suffix()));
    }
    let of_family = family.and_then(|found| found.family.checkpoint(found.variant));
    let of_hub = || located.hub_id.as_deref().and_then(|id| id.rsplit('/').next()).map(str::to_owned);
    let of_folder = || Some(located.dir.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned());
    let stem =
        of_family.map(|published| published.bundle_stem.to_string()).or_else(of_hub).or_else(of_folder);
    let stem = stem.as_deref().unwrap_or("model");
    let plain = |letter: char| {
        let fits = letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
        if fits { letter } else { '-' }
    };
    let stem: String = stem.chars().map(plain).skip_while(|letter| *letter == '.').take(180).collect();
    // `con.` is a device's name whatever follows it.
    let name = BundleName::new(format!("{stem}-{}", scheme.suffix()));
    name.map_or_else(|| checked(format!("model-{}", scheme.suffix())), Ok)
}

pub(super) fn open_towers(
    subject: &Subject,
    checkpoint: &Checkpoint,
    places: &Places,
    options: &Options,
) -> Result<Vec<TowerFolder>> {
    places.check_towers()?;
    let Some(family) = subject.family() else { return Ok(Vec::new()) };
    let open = |tower: &'static family::Tower| {
        let configured = subject.config().get(&tower.config_key).and_then(Value::as_str);
        let located = locate::tower(tower, configured, checkpoint.root(), places)?;
        let folder = Folder::open(&located.dir)?;
        let loaded_len = locate::tower_len(tower, &located.dir)?;
        let weights = weights_of(tower, &folder).filter(|_| !options.keep_towers);
        let rewrite =
            weights.map(|name| Rewrite::prepare(tower, &located.dir.join(name), options)).transpose()?;
        Ok(TowerFolder { facts: tower, located, loaded_len, folder, rewrite })
    };
    let towers: Vec<TowerFolder> = family.towers.iter().map(open).collect::<Result<_>>()?;
    if let Some(given) = &places.towers
        && !towers.iter().any(|tower| tower.located.dir.starts_with(given))
    {
        let names: Vec<&str> = towers.iter().map(|tower| tower.facts.path.as_str()).collect();
        let why = format!(
            "it holds none of {}, nor a folder of their names with the files MGM opens",
            names.join(", ")
        );
        return Err(LocateError::TowersFolder { path: given.clone(), why }.into());
    }
    Ok(towers)
}

/// The file of a tower's weights: the first of `weights_one_of` that is there.
fn weights_of(tower: &'static family::Tower, folder: &Folder) -> Option<&'static str> {
    let has = |name: &&String| folder.files().iter().any(|file| file.path == **name);
    tower.weights_one_of.iter().find(has).map(String::as_str)
}

/// Module and bytes of every tower, for the device map.
pub(super) fn tower_sizes(towers: &[TowerFolder]) -> Vec<(String, u64)> {
    towers.iter().map(|tower| (tower.facts.module.clone(), tower.loaded_len)).collect()
}

/// What becomes of every file of the checkpoint and of the towers.
pub(super) fn plan_files(checkpoint: &Checkpoint, towers: &[TowerFolder]) -> Result<Vec<FilePlan>> {
    // What lies in the checkpoint at a tower's place is that tower, listed for itself, or one that another
    // found elsewhere takes the place of.
    let root = checkpoint.root().canonicalize().ok();
    let inside = |tower: &TowerFolder| {
        let dir = tower.located.dir.canonicalize().ok()?;
        Some(format!("{}/", dir.strip_prefix(root.as_ref()?).ok()?.to_str()?))
    };
    let mut taken: Vec<String> = towers.iter().filter_map(inside).collect();
    taken.extend(towers.iter().map(|tower| format!("{}/", tower.facts.path)));
    let mut files = Vec::new();
    let modules = module_folders(checkpoint);
    for file in checkpoint.side_files() {
        let (fate, note) = contents::side_file(&file.path, &taken, &modules)?;
        if fate.target().is_some() {
            // One that cannot be read is found now, not when all weights are converted.
            checkpoint.open_side_file(&file.path)?;
        }
        files.push(of_side_file(file, None, fate, note));
    }
    let listed = |skipped: &&Skipped| !skipped.reason.is_foreign();
    let skipped = checkpoint.skipped().iter().filter(listed);
    files.extend(skipped.map(|skipped| of_skipped(skipped, None, checkpoint.root())));
    for (index, tower) in towers.iter().enumerate() {
        let weights = weights_of(tower.facts, &tower.folder).unwrap_or_default();
        for file in tower.folder.files() {
            let (fate, note) =
                contents::tower_file(&file.path, &tower.facts.path, weights, tower.rewrite.is_some())?;
            if fate.target().is_some() {
                tower.folder.open_file(&file.path)?;
            }
            files.push(of_side_file(file, Some(index), fate, note));
        }
        let skipped = tower.folder.skipped().iter().filter(listed);
        files.extend(skipped.map(|skipped| of_skipped(skipped, Some(index), &tower.located.dir)));
    }
    Ok(files)
}

/// Folders of the parts that sentence-transformers puts after the transformer, as modules.json lists them: `2_Dense/`.
pub(super) fn module_folders(checkpoint: &Checkpoint) -> Vec<String> {
    let modules = side_json(checkpoint, "modules.json");
    let paths = modules.as_array().into_iter().flatten().filter_map(|module| module.get("path")?.as_str());
    paths.filter(|path| !path.is_empty()).map(|path| format!("{}/", path.trim_end_matches('/'))).collect()
}

/// A small JSON file of the checkpoint; null where it is not there or cannot be read.
pub(super) fn side_json(checkpoint: &Checkpoint, path: &str) -> Value {
    let is_small = checkpoint.side_files().iter().any(|file| file.path == path && file.len <= MAX_CONFIG_LEN);
    let opened = is_small.then(|| checkpoint.open_side_file(path).ok()).flatten();
    opened.and_then(|file| serde_json::from_reader(std::io::BufReader::new(file)).ok()).unwrap_or_default()
}

fn of_side_file(
    file: &SideFile,
    tower: Option<usize>,
    fate: FileFate,
    note: Option<&'static str>,
) -> FilePlan {
    let claimed = file.sha256.as_deref().and_then(Digest::from_hex);
    FilePlan { path: file.path.clone(), tower, len: file.len, claimed, fate, note: note.map(str::to_owned) }
}

fn of_skipped(skipped: &Skipped, tower: Option<usize>, root: &Path) -> FilePlan {
    // A folder's own length depends on the file system; it has none here.
    let meta = std::fs::metadata(root.join(&skipped.path));
    FilePlan {
        path: skipped.path.clone(),
        tower,
        len: meta.map_or(0, |meta| if meta.is_file() { meta.len() } else { 0 }),
        claimed: None,
        fate: FileFate::LeftOut,
        note: Some(skipped.reason.to_string()),
    }
}

/// The name of the folder at a path, as the card writes it; `None` where there is none, or one that no card can show.
pub(super) fn folder_name(path: &Path) -> Option<String> {
    let full = bundle::full_path(path);
    let name = Path::new(&full).file_name()?.to_str()?;
    let can_be_shown =
        |letter: char| !letter.is_control() && letter != '`' && letter != char::REPLACEMENT_CHARACTER;
    name.chars().all(can_be_shown).then(|| name.to_owned())
}
