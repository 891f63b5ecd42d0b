//! Plans device maps without converting anything: for a bundle, a checkpoint, or a family by its name.
//!
//! Owns the ways to a model's modules and tree. Neither weights nor devices are touched: a bundle tells its
//! sizes in the manifest, a checkpoint in its headers, and a family or a bare config.json through the tree that
//! mgpack builds. Carries out formats/bundle.md, "Device map".

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bundle;
use crate::checkpoint::{self, Checkpoint, Reading, SourceTensor, Span};
use crate::device::MemoryTable;
use crate::device_map::{
    self, Attention, BrokenRule, MaxMemory, MemorySize, Profile, ProfileMemory, Sizing, TensorKind, Vision,
};
use crate::digest::Digest;
use crate::error::{BundleError, CheckpointError, DeviceMapError, Error, LocateError, PlanError, Result};
use crate::family::{self, Family, Variant};
use crate::locate::{self, Places};
use crate::manifest::Manifest;
use crate::modules::{MapRequest, ModelModules};
use crate::plan::{DEFAULT_MAX_SHARD_LEN, Plan, Prepared, WeightOptions};
use crate::scheme::{Layout, Scheme};
use crate::structure::{Role, role_of};
use crate::subject::Subject;
use crate::tensor::TensorName;

/// Part of its memory that transformers 4.36.2 leaves accelerate on every device with bitsandbytes.
const BNB_SHARE: f64 = 0.90;

/// Who plans: [`device_map::plan_mgm`] or [`device_map::plan_accelerate`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Planner {
    /// Layer order, everything MGM needs together on the first GPU, a refusal where it does not fit
    #[default]
    #[serde(rename = "mgm")]
    Mgm,
    /// What transformers 4.36.2 with accelerate 0.25.0 makes of device_map="sequential"
    #[serde(rename = "accelerate-0.25-sequential")]
    #[cfg_attr(feature = "cli", value(name = "accelerate-0.25-sequential"))]
    Accelerate,
}

/// What a loader leaves room for; what it leaves open is as in the bundle's first map.
#[derive(Clone, Copy, Debug, Default)]
pub struct Workload {
    /// Tokens of prompt and answer, images apart.
    pub context: Option<u64>,
    /// Sequences at a time.
    pub batch: Option<u64>,
    /// Bytes kept free on every GPU.
    pub reserve: Option<u64>,
    /// Bytes of host memory that layers may take.
    pub allow_cpu: Option<u64>,
    /// The attention that will run; `None` where that is not known.
    pub attention: Option<Attention>,
}

/// A model that maps can be planned for.
#[derive(Debug)]
pub struct Model {
    /// Its name, with the scheme where it is no bundle.
    pub name: String,
    /// How it is stored.
    pub scheme: Scheme,
    /// The maps that a bundle has already.
    pub profiles: Vec<Profile>,
    subject: Subject,
    modules: ModelModules,
    int8: Option<ModelModules>,
}

/// A map and what is wrong with it.
#[derive(Debug, Serialize)]
pub struct Planned {
    /// The map and what it was planned for.
    pub profile: Profile,
    /// Rules of MGM that it breaks; empty for maps by `mgm` and for other models.
    #[serde(rename = "broken_rules")]
    pub broken: Vec<BrokenRule>,
}

impl Model {
    /// The model that `name` means: a bundle's or a checkpoint's folder, an alias of a family or a hub id. An
    /// alias never needs files. `weights` is for what is no bundle yet.
    ///
    /// # Errors
    /// [`DeviceMapError::NoScheme`] without options for the weights; whatever opening and planning report.
    pub fn find(name: &str, weights: Option<&WeightOptions>, places: &Places) -> Result<Self> {
        let path = Path::new(name);
        if bundle::is_at(path)? {
            return Self::of_bundle(path);
        }
        let weights = weights.ok_or_else(|| DeviceMapError::NoScheme { model: name.to_owned() })?;
        let is_there = locate::is_there(path)?;
        if !is_there && !name.contains('/') {
            if locate::is_tiny(name) {
                return Err(LocateError::BuiltIn.into());
            }
            let (family, variant) = Family::by_alias(name)?;
            return Self::of_family(family, variant, weights);
        }
        let dir = match (locate::checkpoint(name, places), Family::by_hub_id(name)) {
            (Ok(located), _) => located.dir,
            (Err(_), Some((family, variant))) => return Self::of_family(family, variant, weights),
            (Err(error), None) => return Err(error),
        };
        Self::of_checkpoint(&dir, weights, places)
    }

    /// A bundle, by its manifest and config.json. Its other files are not looked at.
    ///
    /// # Errors
    /// [`BundleError`] where it is none, [`BundleError::Digest`] where config.json is not the one that was sealed.
    pub fn of_bundle(dir: &Path) -> Result<Self> {
        let (manifest, _) = bundle::read_manifest(dir)?;
        let subject = Subject::of(sealed_config(dir, &manifest)?);
        Ok(Self {
            modules: ModelModules::of_manifest(&manifest, &subject),
            name: manifest.model.name.into(),
            scheme: manifest.scheme.name,
            profiles: manifest.device_maps,
            subject,
            int8: None,
        })
    }

    /// A published checkpoint of MGM, by what is known of it.
    ///
    /// # Errors
    /// [`PlanError`] where the scheme does not go with the family.
    pub fn of_family(family: &'static Family, variant: Variant, weights: &WeightOptions) -> Result<Self> {
        let stem = family.checkpoint(variant).map(|published| published.bundle_stem.to_string());
        let towers: Vec<_> =
            family.towers.iter().map(|tower| (tower.module.clone(), tower.bytes())).collect();
        let subject = Subject::of(family.config(variant));
        let tensors = tensors_of_tree(&subject)?;
        let stem = stem.unwrap_or_else(|| family.name.to_string());
        let prepared = Prepared::of(subject, &tensors, |_| false, weights, DEFAULT_MAX_SHARD_LEN)?;
        Ok(Self::planned(&stem, prepared, &tensors, &towers))
    }

    /// A checkpoint's folder: by its headers, or by its config.json alone where it has no weights.
    ///
    /// # Errors
    /// [`CheckpointError`]; [`DeviceMapError::NoTree`] without weights of a class that has no tree.
    pub fn of_checkpoint(dir: &Path, weights: &WeightOptions, places: &Places) -> Result<Self> {
        let checkpoint = match Checkpoint::open(dir) {
            Err(Error::Checkpoint(
                CheckpointError::NoWeights { .. } | CheckpointError::OtherWeights { .. },
            )) => None,
            opened => Some(opened?),
        };
        if let Some(checkpoint) = &checkpoint {
            checkpoint.check_codes()?;
        }
        let subject = Subject::of(checkpoint::config_of(dir)?);
        let tower_bytes = |tower: &family::Tower| {
            let configured = subject.config().get(&tower.config_key).and_then(Value::as_str);
            let located = locate::tower(tower, configured, dir, places).ok();
            let counted = located.and_then(|located| locate::tower_len(tower, &located.dir).ok());
            (tower.module.clone(), counted.unwrap_or_else(|| tower.bytes()))
        };
        let towers: Vec<_> =
            subject.family().iter().flat_map(|family| &family.towers).map(tower_bytes).collect();
        let built;
        let tensors = match &checkpoint {
            Some(checkpoint) => checkpoint.tensors(),
            None => {
                built = tensors_of_tree(&subject)?;
                &built
            }
        };
        let name =
            dir.canonicalize().ok().and_then(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()));
        let has_file =
            |path: &str| checkpoint.iter().flat_map(Checkpoint::side_files).any(|file| file.path == path);
        let prepared = Prepared::of(subject, tensors, has_file, weights, DEFAULT_MAX_SHARD_LEN)?;
        Ok(Self::planned(name.as_deref().unwrap_or("model"), prepared, tensors, &towers))
    }

    fn planned(stem: &str, prepared: Prepared, tensors: &[SourceTensor], towers: &[(String, u64)]) -> Self {
        let modules = |plan: &Plan| ModelModules::of_plan(plan, towers, &prepared.subject);
        let scheme = prepared.plan.scheme;
        Self {
            name: format!("{stem}-{}", scheme.suffix()),
            scheme,
            profiles: Vec::new(),
            modules: modules(&prepared.plan),
            int8: prepared.int8(tensors).as_ref().map(modules),
            subject: prepared.subject,
        }
    }

    /// Plans a map for every memory table of the request.
    ///
    /// # Errors
    /// [`DeviceMapError`]: the model does not fit, or the planner does not know it.
    pub fn map(&self, planner: Planner, request: &MapRequest) -> Result<Vec<Planned>> {
        match planner {
            Planner::Mgm => {
                let profiles = self.modules.plan(request, self.int8.as_ref())?;
                Ok(profiles.into_iter().map(|profile| Planned { profile, broken: Vec::new() }).collect())
            }
            Planner::Accelerate if request.memory.is_empty() => Err(DeviceMapError::NoTable.into()),
            Planner::Accelerate => request.memory.iter().map(|table| self.map_by_accelerate(table)).collect(),
        }
    }

    /// The map for devices that have `free` bytes each: of a bundle's own maps the first that they can take and that was
    /// planned for what is `asked`, or one planned anew for the GPUs among them.
    ///
    /// # Errors
    /// [`DeviceMapError`] with the shortfall where the model does not fit.
    pub fn place(&self, free: &MemoryTable, asked: &Workload) -> Result<Profile> {
        let Workload { context, batch, reserve, allow_cpu, attention } = *asked;
        if [context, batch, reserve, allow_cpu].iter().all(Option::is_none)
            && let Some(own) = Profile::choose(&self.profiles, free, attention)
        {
            return Ok(own.clone());
        }
        let default = MapRequest::default();
        let own = self.profiles.first().map(|profile| &profile.memory);
        let gpus = MemoryTable::new(free.gpus()).unwrap_or_default();
        let request = MapRequest {
            memory: vec![gpus],
            context: context.or_else(|| own?.context).unwrap_or(default.context),
            batch: batch.or_else(|| own?.batch).unwrap_or(default.batch),
            reserve: reserve.or_else(|| own?.reserve).unwrap_or(default.reserve),
            allow_cpu: allow_cpu.or_else(|| own?.allow_cpu),
            attention,
        };
        let planned = self.map(Planner::Mgm, &request)?.into_iter().next();
        Ok(planned.ok_or(DeviceMapError::NoTable)?.profile)
    }

    /// What accelerate 0.25.0 answers when transformers 4.36.2 loads the model with `device_map="sequential"`.
    fn map_by_accelerate(&self, table: &MemoryTable) -> Result<Planned> {
        let is_mgm = self.subject.mgm().is_some();
        let vision = if is_mgm { Vision::AsLoaded } else { Vision::None };
        let tree = device_map::tree_of_config(self.subject.config(), vision)?;
        let mut memory = MaxMemory::from(table);
        let sizing = match self.scheme.layout() {
            None => Sizing::at_most(16),
            Some(Layout::Bnb) => {
                for (_, size) in &mut memory {
                    if let MemorySize::Bytes(bytes) = *size {
                        *size = MemorySize::Fraction(bytes as f64 * BNB_SHARE);
                    }
                }
                Sizing::int8_hf(&tree)
            }
            Some(Layout::CompressedTensors) => {
                return Err(DeviceMapError::SchemeForPlanner { scheme: self.scheme.name() }.into());
            }
        };
        let map = device_map::plan_accelerate(&tree, &sizing, &memory, &device_map::no_split_classes(&tree))?;
        let is_tied = !tree.tied.is_empty();
        let broken = if is_mgm { device_map::broken_rules(&map.map, is_tied) } else { Vec::new() };
        let memory = ProfileMemory::of_table(table.clone(), true);
        Ok(Planned { profile: Profile::new(map, memory), broken })
    }
}

/// The config.json of a bundle, null where it has none. It is the one that the manifest describes, or an error.
fn sealed_config(dir: &Path, manifest: &Manifest) -> Result<Value> {
    const NAME: &str = "config.json";
    let Some(record) = manifest.files.iter().find(|file| file.path == NAME) else { return Ok(Value::Null) };
    let text = checkpoint::config_text_of(dir)?.unwrap_or_default();
    let found = Digest::of(text.as_bytes());
    if found != record.sha256 {
        return Err(BundleError::Digest { path: dir.join(NAME), expected: record.sha256, found }.into());
    }
    checkpoint::parse_config(&text)
}

/// The tensors that a checkpoint of the model has, towers apart. They lie in no file.
fn tensors_of_tree(subject: &Subject) -> Result<Vec<SourceTensor>> {
    let vision = if subject.mgm().is_some() { Vision::Full } else { Vision::None };
    let tree = device_map::tree_of_config(subject.config(), vision)?;
    let is_stored = |tensor: &&device_map::TreeTensor| {
        matches!(tensor.kind, TensorKind::Param { .. } | TensorKind::Buffer { persistent: true })
            && role_of(&tensor.name) != Role::Tower
    };
    let too_large = |name: &str| PlanError::TooLarge { name: name.to_owned() };
    let stored = tree.tensors.iter().filter(is_stored).map(|tensor| {
        let bytes = crate::tensor::byte_len(tensor.dtype, &tensor.shape);
        Ok(SourceTensor {
            name: TensorName::new(tensor.name.clone()).ok_or_else(|| too_large(&tensor.name))?,
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            byte_len: bytes.ok_or_else(|| too_large(&tensor.name))?,
            is_cache_scale: false,
            reading: Reading::Stored(Span { file: 0, offset: 0, view: None }),
        })
    });
    stored.collect()
}
