//! Which device holds which module: memory tables, sizes, and two planners.
//!
//! Pure: module sizes and a memory table go in, a map with its reasons comes out. No files, no threads and
//! no devices are touched, so a map can be planned for a machine that is not there. Two planners have names:
//!
//! - `mgm` ([`plan_mgm`]) fills devices in layer order without a blanket reserve, keeps what MGM needs on the
//!   first accelerator there, and refuses when the model does not fit.
//! - `accelerate-0.25-sequential` ([`plan_accelerate`]) says what accelerate 0.25.0 would do, to the byte.
//!
//! Sizes come from a bundle, or from a tree ([`build_tree`]) that follows from `config.json`. [`broken_rules`]
//! says what is wrong with a map that somebody else made.

mod accelerate;
mod decoder;
mod memory;
mod mgm;
mod models;
mod profile;
mod reserves;
mod rules;
mod tree;
mod working;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::names::{Line, ModuleName, Word, of_module, text_of};
use crate::structure::{Role, role_of_module};

pub use crate::device::{Device, MemoryTable};
pub use crate::error::Remedy;
pub(crate) use accelerate::ACCELERATE;
pub use accelerate::{MaxMemory, MemoryKey, MemorySize, plan_accelerate};
pub(crate) use decoder::Classes;
pub use decoder::Decoder;
pub(crate) use memory::GpuTable;
pub use memory::parse_size;
pub use mgm::plan_mgm;
pub(crate) use models::tree_of_config;
pub use models::{ModelConfig, TreeKind, Vision, build_tree, no_split_classes};
pub use profile::Profile;
pub(crate) use profile::ProfileMemory;
pub(crate) use reserves::IMAGE_TOKENS_HD;
pub(crate) use reserves::LongestContext;
pub use reserves::{Alternatives, IMAGE_TOKENS, Reserves, Working, Workload};
pub(crate) use rules::BrokenRule;
pub use rules::broken_rules;
pub use tree::{ModelTree, Sizes, Sizing, TensorKind, TreeModule, TreeTensor, torch_dtype};
pub use working::{Attention, Encoders};

/// One unit that a planner places whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its key in the map, e.g. `model.layers.0`.
    pub name: String,
    /// Bytes of its weights and buffers as they will lie on the device.
    pub bytes: u64,
    /// The part it plays; this decides where the `mgm` planner may put it.
    pub role: Role,
    /// Whether it keeps a cache that grows with the context: decoder layers do, but those of linear attention.
    pub has_cache: bool,
}

impl Module {
    /// A module of that size, whose name says what part it plays.
    pub fn new(name: String, bytes: u64) -> Self {
        let role = role_of_module(&name);
        Self { name, bytes, role, has_cache: matches!(role, Role::Layer(_)) }
    }

    /// Whether the module works from host memory (rule R6: decoder layers and norm, nothing else).
    pub fn is_offloadable(&self) -> bool {
        match self.role {
            Role::Layer(_) => true,
            Role::Final => self.name.contains("norm") || self.name.ends_with("ln_f"),
            Role::Embedding | Role::Projector | Role::Head | Role::Uni | Role::Tower => false,
        }
    }
}

/// Everything the `mgm` planner needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The units, in the order in which the model runs its layers.
    pub modules: &'a [Module],
    /// Bytes per device. An entry for the host is not used; see `allow_cpu`.
    pub memory: &'a MemoryTable,
    /// Whether MGM's loader takes the map: it makes modules after the map is made, and these have keys too (rule R4).
    pub is_mgm: bool,
    /// Whether `lm_head` shares its weight with the embedding.
    pub tied_head: bool,
    /// Bytes to keep for other things than weights.
    pub reserves: Reserves,
    /// Bytes of host memory that decoder layers and norm may take, if they may at all.
    pub allow_cpu: Option<u64>,
    /// What else could be had, for the remedies of a refusal. Does not influence a map.
    pub alternatives: Alternatives<'a>,
}

/// Name and version of a planner: a map is only as good as the rules that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannerId {
    /// `mgm` or `accelerate-0.25-sequential`.
    #[serde(deserialize_with = "text_of::<Word, _>")]
    pub name: String,
    /// Grows when the same inputs may give another map.
    pub version: u32,
}

/// A finished map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMap {
    /// Who made it.
    pub planner: PlannerId,
    /// Module name → device: what `from_pretrained(device_map=…)` takes.
    #[serde(deserialize_with = "of_module")]
    pub map: IndexMap<String, Device>,
    /// Bytes per device, every device of the memory table included.
    pub used: IndexMap<Device, DeviceUse>,
    /// One entry per module, in the order of placement.
    pub why: Vec<Why>,
    /// The longest contexts that it holds, where the request had a workload.
    pub longest: Option<LongestContext>,
}

/// What a device is filled with, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceUse {
    /// Weights and buffers.
    pub weights: u64,
    /// Key-value cache of the layers that run here.
    pub kv: u64,
    /// The most that the modules here work in at one time, and the buffer through which offloaded layers pass.
    pub activations: u64,
    /// Kept free on request.
    pub reserve: u64,
    /// What the memory table gives.
    pub budget: u64,
}

impl DeviceUse {
    /// Bytes taken in all, the reserve included.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv).saturating_add(self.activations).saturating_add(self.reserve)
    }
}

/// Why a module is where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The module.
    #[serde(deserialize_with = "text_of::<ModuleName, _>")]
    pub module: String,
    /// Its device.
    pub device: Device,
    /// Bytes of its weights.
    pub bytes: u64,
    /// Bytes that were free on the device before it came.
    pub free_before: u64,
    /// Bytes of the device that could be used at all: its budget without reserve and activations. 0 on the disk
    /// and on the host.
    pub limit: u64,
    /// In words.
    #[serde(deserialize_with = "text_of::<Line, _>")]
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_norms_work_from_host_memory_and_nothing_else() {
        let is_offloadable = |name: &str| Module::new(name.to_owned(), 1).is_offloadable();
        for name in ["model.layers.12", "transformer.h.0", "model.norm", "transformer.ln_f"] {
            assert!(is_offloadable(name), "{name}");
        }
        for name in
            ["model.embed_tokens", "model.rotary_emb", "model.mm_projector", "lm_head", "model.visual"]
        {
            assert!(!is_offloadable(name), "{name}");
        }
    }
}
