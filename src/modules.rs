//! From the tensors of a bundle, planned or finished, to the device maps of it.
//!
//! Owns the step from tensors to modules in layer order with their true sizes, and the default workload. Leaves
//! the placing to `device_map`. Carries out formats/bundle.md, "Device map".

use indexmap::IndexMap;

use crate::device::{Device, MemoryTable};
use crate::device_map::{
    self, Alternatives, Attention, Classes, Decoder, DeviceMap, Encoders, IMAGE_TOKENS, IMAGE_TOKENS_HD,
    Module, Profile, ProfileMemory, Request, Reserves, TensorKind, Vision, Workload,
};
use crate::error::{DeviceMapError, Result};
use crate::family::Variant;
use crate::manifest::{Manifest, ModuleRecord};
use crate::plan::Plan;
use crate::scheme::Scheme;
use crate::structure::{Role, role_of_module};
use crate::subject::Subject;
use crate::tensor::byte_len;

/// What the user asks of a device map.
#[derive(Clone, Debug)]
pub struct MapRequest {
    /// `--gpus`, each a profile of its own; none places everything on one device and says how much it needs.
    pub memory: Vec<MemoryTable>,
    /// `--context`: tokens of prompt and answer, images apart.
    pub context: u64,
    /// `--batch`: sequences at a time.
    pub batch: u64,
    /// `--reserve`: bytes kept free on every device.
    pub reserve: u64,
    /// `--allow-cpu`: bytes of host memory that decoder layers and norm may take; `None` allows none.
    pub allow_cpu: Option<u64>,
    /// `--attention`; `None` is what the versions that the bundle names select.
    pub attention: Option<Attention>,
}

impl Default for MapRequest {
    fn default() -> Self {
        Self {
            memory: Vec::new(),
            context: 2048,
            batch: 1,
            reserve: 512 << 20,
            allow_cpu: None,
            attention: None,
        }
    }
}

/// A model as the planner `mgm` sees it.
#[derive(Clone, Debug)]
pub struct ModelModules {
    /// In layer order, with the bytes they take on a device.
    modules: Vec<Module>,
    /// Whether `lm_head` shares its weight with the embedding.
    tied_head: bool,
    /// `None` for language models.
    variant: Option<Variant>,
    /// `None` where config.json does not have the heads.
    decoder: Option<Decoder>,
    /// What the versions that the bundle names select.
    attention: Attention,
    /// Positions of the model, where config.json has them.
    positions: Option<u64>,
}

impl ModelModules {
    /// Those of a bundle that is planned. `towers`: module and bytes of each tower that lies beside the shards.
    pub fn of_plan(plan: &Plan, towers: &[(String, u64)], subject: &Subject) -> Self {
        let tensors = plan.tensors.iter().map(|tensor| {
            let bytes: u64 = tensor.outputs.iter().map(|output| output.byte_len).sum();
            (tensor.name.as_str(), bytes)
        });
        let torch = subject.family().and_then(|family| Some(family.requirement("torch")?.pin.as_str()));
        Self::new(sizes(tensors, towers, subject), subject, torch, plan.scheme)
    }

    /// Each module with the bytes it takes on a device, in layer order.
    pub fn records(&self) -> Vec<ModuleRecord> {
        let record = |module: &Module| ModuleRecord { module: module.name.clone(), bytes: module.bytes };
        self.modules.iter().map(record).collect()
    }

    /// Those of a finished bundle. `subject`: what its config.json says it is.
    pub fn of_manifest(manifest: &Manifest, subject: &Subject) -> Self {
        let torch = manifest.requirements.iter().find(|required| required.package == "torch");
        let torch = torch.map(|required| required.pin.as_str());
        let sizes = match &manifest.modules {
            Some(modules) => modules.iter().map(|record| (record.module.clone(), record.bytes)).collect(),
            None => sizes_of_version_1(manifest, subject),
        };
        Self::new(sizes, subject, torch, manifest.scheme.name)
    }

    /// `sizes`: modules and their bytes, in layer order.
    fn new(sizes: IndexMap<String, u64>, subject: &Subject, torch: Option<&str>, scheme: Scheme) -> Self {
        let tied_head = subject.ties_head();
        let modules = sizes.into_iter().map(|(name, bytes)| {
            let module = Module::new(name, bytes);
            let has_cache = matches!(module.role, Role::Layer(index) if subject.caches(index));
            Module { has_cache, ..module }
        });
        let modules = modules.collect();
        let decoder = Decoder::of(subject, scheme.is_quantized());
        let variant = subject.mgm().map(|found| found.variant);
        let attention = match (variant, torch, decoder) {
            (Some(_), Some(torch), _) => Attention::selected_by(torch),
            // transformers 5 needs a torch that has sdpa; not every class takes it.
            (None, _, Some(Decoder { classes: Classes::Other, .. })) => Attention::Eager,
            _ => Attention::Sdpa,
        };
        let positions = subject.number("max_position_embeddings");
        Self { modules, tied_head, variant, decoder, attention, positions }
    }

    /// Bytes of all modules.
    pub fn bytes(&self) -> u64 {
        self.modules.iter().map(|module| module.bytes).fold(0, u64::saturating_add)
    }

    /// Plans one profile for every memory table of the request, in its order; without one, a single profile for
    /// one device of whatever size. `int8`: the same model in int8, which a refusal then tries.
    ///
    /// # Errors
    /// [`DeviceMapError`] where the model does not fit, with the shortfall.
    pub fn plan(&self, request: &MapRequest, int8: Option<&Self>) -> Result<Vec<Profile>> {
        if request.memory.is_empty() {
            return Ok(vec![self.plan_unbounded(request)?]);
        }
        request.memory.iter().map(|memory| self.plan_for(memory, request, int8)).collect()
    }

    fn plan_for(&self, memory: &MemoryTable, request: &MapRequest, int8: Option<&Self>) -> Result<Profile> {
        let workload = self.workload(request);
        let reserves = match &workload {
            Some(workload) => workload.reserves(request.reserve),
            None => Reserves { per_device: request.reserve, ..Reserves::default() },
        };
        let alternatives = Alternatives { int8: int8.map(|model| model.modules.as_slice()), workload };
        let map = device_map::plan_mgm(&Request {
            modules: &self.modules,
            memory,
            is_mgm: self.variant.is_some(),
            tied_head: self.tied_head,
            reserves,
            allow_cpu: request.allow_cpu,
            alternatives,
        })?;
        let memory = ProfileMemory {
            table: memory.clone(),
            given: true,
            context: Some(request.context),
            batch: Some(request.batch),
            reserve: Some(request.reserve),
            allow_cpu: request.allow_cpu,
            attention: workload.map(|workload| workload.attention),
            longest_context: None, // the map has it
        };
        Ok(Profile::new(self.shortened(map), memory))
    }

    /// The map for one device as large as the model: it records what that takes.
    fn plan_unbounded(&self, request: &MapRequest) -> Result<Profile> {
        let table =
            MemoryTable::new([(Device::Gpu(0), self.bytes())]).ok_or(DeviceMapError::NoAccelerator)?;
        let map = device_map::plan_mgm(&Request {
            modules: &self.modules,
            memory: &table,
            is_mgm: self.variant.is_some(),
            tied_head: self.tied_head,
            reserves: Reserves::default(),
            allow_cpu: request.allow_cpu,
            alternatives: Alternatives::default(),
        })?;
        Ok(Profile::new(self.shortened(map), ProfileMemory::of_table(table, false)))
    }

    /// The map as one entry for the root where all stands on one device: right whatever names the loading class has.
    /// MGM's loader makes modules after the map and needs their keys.
    fn shortened(&self, mut map: DeviceMap) -> DeviceMap {
        let mut devices = map.map.values().copied();
        let first = devices.next().filter(|first| devices.all(|device| device == *first));
        if let Some(device) = first.filter(|_| self.variant.is_none()) {
            map.map = std::iter::once((String::new(), device)).collect();
        }
        map
    }

    fn workload(&self, request: &MapRequest) -> Option<Workload> {
        let image_tokens = match self.variant {
            None => 0,
            Some(Variant::Plain) => IMAGE_TOKENS,
            Some(Variant::Hd) => IMAGE_TOKENS_HD,
        };
        let decoder = self.decoder?;
        let asked = request.attention.unwrap_or(self.attention);
        // transformers falls back to eager, and raises where sdpa was insisted on.
        let attention = if decoder.has_sdpa { asked } else { Attention::Eager };
        Some(Workload {
            decoder,
            encoders: self.variant.map(|variant| Encoders { is_hd: variant == Variant::Hd }),
            attention,
            context: request.context,
            image_tokens,
            batch: request.batch,
            positions: self.positions,
        })
    }
}

/// Bytes of every module, in layer order. `tensors`: names in the checkpoint and bytes in the bundle; `towers`: module and
/// bytes of each that lies beside the shards.
fn sizes<'a>(
    tensors: impl Iterator<Item = (&'a str, u64)>,
    towers: &[(String, u64)],
    subject: &Subject,
) -> IndexMap<String, u64> {
    let mut sizes: IndexMap<String, u64> = IndexMap::new();
    for (name, bytes) in tensors {
        let entry = sizes.entry(subject.key_of(name)).or_insert(0);
        *entry = entry.saturating_add(bytes);
    }
    for (module, bytes) in towers {
        let entry = sizes.entry(module.clone()).or_insert(0);
        *entry = (*entry).max(*bytes);
    }
    for (name, bytes) in buffers(subject) {
        if let Some(entry) = sizes.get_mut(&subject.key_of(&name)) {
            *entry = entry.saturating_add(bytes);
        }
    }
    if subject.ties_head() && !sizes.keys().any(|name| role_of_module(name) == Role::Head) {
        sizes.insert("lm_head".to_owned(), 0);
    }
    // T5's and BART's kind: both halves embed with one matrix, and the class has it under three names.
    let shared = sizes.keys().find(|name| name.rsplit('.').next() == Some("shared")).cloned();
    for half in ["encoder", "decoder"] {
        let Some(prefix) = shared.as_ref().and_then(|name| name.strip_suffix("shared")) else { break };
        sizes.entry(format!("{prefix}{half}.embed_tokens")).or_insert(0);
    }
    sizes.sort_by(|a, _, b, _| {
        role_of_module(a).cmp(&role_of_module(b)).then_with(|| crate::structure::natural(a, b))
    });
    sizes
}

/// The same of a bundle of version 1, which does not list its modules: what a loader keeps of the towers' folders is in
/// the reasons of its first map.
fn sizes_of_version_1(manifest: &Manifest, subject: &Subject) -> IndexMap<String, u64> {
    let tensors = manifest
        .tensors
        .iter()
        .map(|tensor| (tensor.source.as_str(), tensor.range[1].saturating_sub(tensor.range[0])));
    let placed = manifest.device_maps.first().map_or(&[][..], |profile| &profile.why);
    let towers: Vec<_> = placed
        .iter()
        .filter(|why| role_of_module(&why.module) == Role::Tower)
        .map(|why| (why.module.clone(), why.bytes))
        .collect();
    sizes(tensors, &towers, subject)
}

/// The buffers that MGM's classes make at load and no checkpoint holds: the rotary caches of every layer. Those
/// of other models depend on the version of transformers that loads them, and recent ones have next to none.
fn buffers(subject: &Subject) -> Vec<(String, u64)> {
    let tree =
        subject.mgm().and_then(|_| device_map::tree_of_config(subject.config(), Vision::AsLoaded).ok());
    let made = tree.into_iter().flat_map(|tree| tree.tensors);
    let made = made.filter(|tensor| tensor.kind == TensorKind::Buffer { persistent: false });
    made.filter_map(|tensor| Some((tensor.name, byte_len(tensor.dtype, &tensor.shape)?))).collect()
}
