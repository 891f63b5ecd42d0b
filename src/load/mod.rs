//! Loads a bundle onto devices, one part of the model after the other.
//!
//! Owns the stages (embeddings, each decoder layer, norm, projector, head, `vlm_uni`, towers), their order, and what
//! each device has left. `tensors` makes candle's tensors. One tensor is in host memory at a time. Before a stage is
//! loaded, every file it reads from is compared with the seal, once.

mod devices;
mod tensors;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::time::{Duration, Instant};

pub use candle_core::DType;
pub use devices::{LoadDevices, LoadPlace};
pub use tensors::{Form, Stored};

use serde_json::Value;

use crate::bundle::{Bundle, Weight};
use crate::checkpoint::Checkpoint;
use crate::device_map::Profile;
use crate::error::{LoadError, Result};
use crate::kernels::Isa;
use crate::manifest::FileRecord;
use crate::progress::{Progress, Silent, Stage, Stop};
use crate::structure::{Role, role_of};
use crate::subject::{Architecture, key_of};

/// A model's tensors on their devices, by their names in the checkpoint.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The tensors.
    pub tensors: HashMap<String, Stored>,
}

/// A part of a bundle that is loaded in one go.
#[derive(Debug)]
pub struct LoadStage<'a> {
    /// Which part.
    pub role: Role,
    weights: Vec<Weight<'a>>,
    towers: Vec<TowerFile<'a>>,
}

/// A tower's weights, which lie beside the shards.
#[derive(Debug)]
struct TowerFile<'a> {
    /// Its module in the model: the names of its tensors follow.
    module: &'a str,
    file: &'a FileRecord,
}

/// What one stage did.
#[derive(Clone, Debug)]
pub struct StageReport {
    /// Tensors placed.
    pub tensors: usize,
    /// Bytes read from the bundle.
    pub read: u64,
    /// Bytes that its tensors take on devices.
    pub placed: u64,
    /// The places it went to.
    pub places: Vec<usize>,
    /// Time it took, the check of its shards included.
    pub time: Duration,
    /// Bytes hashed before it.
    pub checked: u64,
}

/// How to load.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// What quantized weights become.
    pub form: Form,
    /// Whether shards are compared with the seal before they are read.
    pub verify: bool,
    /// The instruction set to decode with.
    pub isa: Isa,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { form: Form::Codes, verify: true, isa: Isa::detect() }
    }
}

/// Loads a bundle stage by stage.
pub struct BundleLoader<'a> {
    bundle: &'a Bundle,
    profile: &'a Profile,
    devices: &'a LoadDevices,
    options: LoadOptions,
    used: Vec<u64>,
    checked: HashSet<&'a str>,
    loaded: Loaded,
}

impl Bundle {
    /// Loads everything by the first map of the bundle: int8 as codes and scales, every shard checked.
    ///
    /// # Errors
    /// [`LoadError`], [`crate::error::BundleError`].
    pub fn load(&self, devices: &LoadDevices) -> Result<Loaded> {
        let profile =
            self.manifest().device_maps.first().ok_or(LoadError::NoProfile { number: 1, count: 0 })?;
        let mut loader = BundleLoader::new(self, profile, devices, LoadOptions::default());
        for stage in self.stages() {
            loader.load(&stage, &Silent, &Stop::new())?;
        }
        Ok(loader.finish())
    }

    /// The parts of the model in the order they are loaded, towers last, whether they lie in shards or beside them.
    pub fn stages(&self) -> Vec<LoadStage<'_>> {
        let mut stages: Vec<LoadStage<'_>> = Vec::new();
        for weight in self.weights() {
            let role = role_of(weight.name.as_str());
            match stages.last_mut() {
                Some(stage) if stage.role == role => stage.weights.push(weight),
                _ => stages.push(LoadStage { role, weights: vec![weight], towers: Vec::new() }),
            }
        }
        let towers: Vec<_> = self.tower_files().collect();
        match stages.last_mut() {
            Some(stage) if stage.role == Role::Tower => stage.towers = towers,
            _ if towers.is_empty() => {}
            _ => stages.push(LoadStage { role: Role::Tower, weights: Vec::new(), towers }),
        }
        stages
    }

    /// The towers' weights by the family's facts in the manifest.
    fn tower_files(&self) -> impl Iterator<Item = TowerFile<'_>> {
        let towers = self.manifest().model.facts.get("towers").and_then(Value::as_array);
        towers.into_iter().flatten().filter_map(|tower| {
            let folder = tower.get("path")?.as_str()?;
            let names = tower.get("weights_one_of")?.as_array()?.iter().filter_map(Value::as_str);
            let mut paths = names.map(|name| format!("{folder}/{name}"));
            let file = paths
                .find_map(|path| self.manifest().files.iter().find(|file| file.path == path.as_str()))?;
            Some(TowerFile { module: tower.get("module")?.as_str()?, file })
        })
    }
}

impl LoadStage<'_> {
    /// Bytes its tensors have in the shards, and of the towers' files.
    pub fn byte_len(&self) -> u64 {
        let towers = self.towers.iter().map(|tower| tower.file.size);
        self.weights.iter().map(Weight::byte_len).chain(towers).fold(0, u64::saturating_add)
    }
}

impl<'a> BundleLoader<'a> {
    /// Nothing loaded yet.
    pub fn new(
        bundle: &'a Bundle,
        profile: &'a Profile,
        devices: &'a LoadDevices,
        options: LoadOptions,
    ) -> Self {
        let used = vec![0; devices.places().len()];
        Self { bundle, profile, devices, options, used, checked: HashSet::new(), loaded: Loaded::default() }
    }

    /// Loads one stage.
    ///
    /// # Errors
    /// [`LoadError::DoesNotFit`] before anything of the stage is read, [`crate::error::BundleError::Digest`] before
    /// anything of it is placed. What was loaded before stays.
    pub fn load(
        &mut self,
        stage: &LoadStage<'a>,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<StageReport> {
        let start = Instant::now();
        let places = self.places_of(stage)?;
        let mut after = self.used.clone();
        let weights = stage.weights.iter().map(|weight| self.options.form.placed_len(weight));
        let towers = stage.towers.iter().map(|tower| tower.file.size);
        for (len, &place) in weights.chain(towers).zip(&places) {
            if let Some(used) = after.get_mut(place) {
                *used = used.saturating_add(len);
            }
        }
        for ((place, &after), &used) in self.devices.places().iter().zip(&after).zip(&self.used) {
            if after > place.room {
                return Err(LoadError::DoesNotFit {
                    stage: stage.role.stage_name().into_owned(),
                    place: place.name.clone(),
                    needed: after - used,
                    free: place.room.saturating_sub(used),
                }
                .into());
            }
        }
        let unchecked = self.unchecked_files(stage);
        let checked: u64 = unchecked.iter().map(|file| file.size).sum();
        progress.begin(Stage::Load(stage.role), stage.byte_len().saturating_add(checked));
        // Open before they are checked: what is loaded is what was hashed, whatever takes their names meanwhile.
        let towers: Vec<File> =
            stage.towers.iter().map(|tower| self.bundle.open_file(tower.file)).collect::<Result<_>>()?;
        for file in unchecked {
            match stage.towers.iter().zip(&towers).find(|(tower, _)| tower.file.path == file.path) {
                Some((_, opened)) => self.bundle.check_opened(file, opened, progress, stop)?,
                None => self.bundle.check_file(file, progress, stop)?,
            }
            self.checked.insert(&file.path);
        }
        for (weight, &place) in stage.weights.iter().zip(&places) {
            if stop.requested() {
                return Err(crate::Error::Interrupted { kept: false });
            }
            let stored =
                tensors::load(self.bundle, weight, &self.options, self.device(place, weight.name.as_str())?)?;
            self.loaded.tensors.insert(weight.name.to_string(), stored);
            progress.advance(weight.byte_len());
        }
        let before = self.loaded.tensors.len();
        let towers = stage.towers.iter().zip(towers);
        for ((tower, file), &place) in towers.zip(places.iter().skip(stage.weights.len())) {
            let device = self.device(place, tower.module)?.clone();
            let file = Checkpoint::of_opened(file, &self.bundle.dir().join(&tower.file.path))?;
            for tensor in file.tensors() {
                if stop.requested() {
                    return Err(crate::Error::Interrupted { kept: false });
                }
                let name = format!("{}.{}", tower.module, tensor.name);
                let stored = tensors::load_source(&file, tensor, &name, &device)?;
                self.loaded.tensors.insert(name, stored);
            }
            progress.advance(tower.file.size);
        }
        let tensors = stage.weights.len() + (self.loaded.tensors.len() - before);
        let placed = after.iter().sum::<u64>() - self.used.iter().sum::<u64>();
        self.used = after;
        let mut places = places;
        places.sort_unstable();
        places.dedup();
        Ok(StageReport { tensors, read: stage.byte_len(), placed, places, time: start.elapsed(), checked })
    }

    /// Bytes taken at every place, in the order of [`LoadDevices::places`].
    pub fn used(&self) -> &[u64] {
        &self.used
    }

    /// What was loaded.
    pub fn finish(self) -> Loaded {
        self.loaded
    }

    /// The place of every weight of a stage, and then of its towers.
    fn places_of(&self, stage: &LoadStage<'_>) -> Result<Vec<usize>> {
        let architecture = self.bundle.manifest().model.model_type.as_deref().and_then(Architecture::of);
        // A map of an earlier version has the checkpoint's name where the class's was not known.
        let module = |weight: &Weight<'_>| {
            let name = weight.name.as_str();
            [key_of(architecture, name), key_of(None, name)]
        };
        let towers = stage.towers.iter().map(|tower| [tower.module.to_owned(), tower.module.to_owned()]);
        let place = |modules: [String; 2]| {
            let device = modules.iter().find_map(|module| self.profile.device_of(module));
            let [module, _] = modules;
            let device = device.ok_or(LoadError::NotInMap { module })?;
            Ok(self.devices.place_of(device).ok_or(LoadError::NoDevice { device })?)
        };
        stage.weights.iter().map(module).chain(towers).map(place).collect()
    }

    fn device(&self, place: usize, name: &str) -> Result<&'a candle_core::Device> {
        let place = self.devices.places().get(place);
        Ok(place.map(|place| &place.device).ok_or_else(|| LoadError::NotInMap { module: name.to_owned() })?)
    }

    /// The files of a stage that were not compared with the seal yet.
    fn unchecked_files(&self, stage: &LoadStage<'a>) -> Vec<&'a FileRecord> {
        let shards = stage.weights.iter().flat_map(|weight| weight.parts).map(|part| part.shard.as_str());
        let shards: HashSet<&str> =
            shards.chain(stage.towers.iter().map(|tower| tower.file.path.as_str())).collect();
        let files = self.bundle.manifest().files.iter();
        let is_due = |path: &str| shards.contains(path) && !self.checked.contains(path);
        files.filter(|file| self.options.verify && is_due(&file.path)).collect()
    }
}
