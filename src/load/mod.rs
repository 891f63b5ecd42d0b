//! Loads a bundle onto devices, one part of the model after the other.
//!
//! Owns the stages (embeddings, each decoder layer, norm, projector, head, `vlm_uni`), their order, and what each
//! device has left. `tensors` makes candle's tensors. One tensor is in host memory at a time. Before a stage is
//! loaded, every shard it reads from is compared with the seal, once.

mod devices;
mod tensors;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

pub use candle_core::DType;
pub use devices::{Devices, Place};
pub use tensors::{Form, Stored};

use crate::bundle::{Bundle, Weight};
use crate::device_map::Profile;
use crate::error::{LoadError, Result};
use crate::kernels::Isa;
use crate::modules::unit_of;
use crate::progress::{Progress, Silent, Stage, Stop};
use crate::structure::{Role, role_of};

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
}

/// What one stage did.
#[derive(Clone, Debug)]
pub struct StageReport {
    /// Bytes read from the shards.
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
pub struct Loader<'a> {
    bundle: &'a Bundle,
    profile: &'a Profile,
    devices: &'a Devices,
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
    pub fn load(&self, devices: &Devices) -> Result<Loaded> {
        let profile =
            self.manifest().device_maps.first().ok_or(LoadError::NoProfile { number: 1, count: 0 })?;
        let mut loader = Loader::new(self, profile, devices, LoadOptions::default());
        for stage in self.stages() {
            loader.load(&stage, &Silent, &Stop::new())?;
        }
        Ok(loader.finish())
    }

    /// The parts of the model in the order they are loaded. Towers that lie beside the shards are not among them.
    pub fn stages(&self) -> Vec<LoadStage<'_>> {
        let mut stages: Vec<LoadStage<'_>> = Vec::new();
        for weight in self.weights() {
            let role = role_of(weight.name.as_str());
            match stages.last_mut() {
                Some(stage) if stage.role == role => stage.weights.push(weight),
                _ => stages.push(LoadStage { role, weights: vec![weight] }),
            }
        }
        stages
    }
}

impl LoadStage<'_> {
    /// Bytes its tensors have in the shards.
    pub fn byte_len(&self) -> u64 {
        self.weights.iter().map(Weight::byte_len).fold(0, u64::saturating_add)
    }

    /// How many tensors of the checkpoint it has.
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// Never true: a stage is made of its first tensor.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }
}

impl<'a> Loader<'a> {
    /// Nothing loaded yet.
    pub fn new(bundle: &'a Bundle, profile: &'a Profile, devices: &'a Devices, options: LoadOptions) -> Self {
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
        for (weight, &place) in stage.weights.iter().zip(&places) {
            if let Some(used) = after.get_mut(place) {
                *used = used.saturating_add(self.options.form.placed_len(weight));
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
        for file in unchecked {
            self.bundle.check_file(file, progress, stop)?;
            self.checked.insert(&file.path);
        }
        for (weight, &place) in stage.weights.iter().zip(&places) {
            if stop.requested() {
                return Err(crate::error::ConvertError::Interrupted.into());
            }
            let device = self.devices.places().get(place).map(|place| &place.device);
            let device = device.ok_or_else(|| LoadError::NotInMap { module: weight.name.to_string() })?;
            let stored = tensors::load(self.bundle, weight, &self.options, device)?;
            self.loaded.tensors.insert(weight.name.to_string(), stored);
            progress.advance(weight.byte_len());
        }
        let placed = after.iter().sum::<u64>() - self.used.iter().sum::<u64>();
        self.used = after;
        let mut places = places;
        places.sort_unstable();
        places.dedup();
        Ok(StageReport { read: stage.byte_len(), placed, places, time: start.elapsed(), checked })
    }

    /// Bytes taken at every place, in the order of [`Devices::places`].
    pub fn used(&self) -> &[u64] {
        &self.used
    }

    /// What was loaded.
    pub fn finish(self) -> Loaded {
        self.loaded
    }

    /// The place of every weight of a stage.
    fn places_of(&self, stage: &LoadStage<'_>) -> Result<Vec<usize>> {
        let place = |weight: &Weight<'_>| {
            let module = unit_of(weight.name.as_str(), role_of(weight.name.as_str()));
            let device = self.profile.map.get(&module).copied();
            let device = device.ok_or(LoadError::NotInMap { module })?;
            Ok(self.devices.place_of(device).ok_or(LoadError::NoDevice { device })?)
        };
        stage.weights.iter().map(place).collect()
    }

    /// The shards of a stage that were not compared with the seal yet.
    fn unchecked_files(&self, stage: &LoadStage<'a>) -> Vec<&'a crate::manifest::FileRecord> {
        let shards: HashSet<&str> =
            stage.weights.iter().flat_map(|weight| weight.parts).map(|part| part.shard.as_str()).collect();
        let files = self.bundle.manifest().files.iter();
        let is_due = |path: &str| shards.contains(path) && !self.checked.contains(path);
        files.filter(|file| self.options.verify && is_due(&file.path)).collect()
    }
}
