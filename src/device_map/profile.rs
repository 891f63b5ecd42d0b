//! A profile: a device map with what it was planned for, as a bundle's manifest keeps it.
//!
//! Owns the record and the choice among several by what the devices have free. Carries out formats/bundle.md,
//! "Device map".

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{Attention, DeviceMap, DeviceUse, LongestContext, PlannerId, Why};
use crate::device::{Device, MemoryTable};
use crate::names::of_module;

/// A map and the memory it was planned for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Who made the map.
    pub planner: PlannerId,
    /// Module → device: what `from_pretrained(device_map=…)` takes.
    #[serde(deserialize_with = "of_module")]
    pub map: IndexMap<String, Device>,
    /// Bytes per device, every device of the memory table included.
    pub used: IndexMap<Device, DeviceUse>,
    /// One entry per module, in the order of placement.
    pub why: Vec<Why>,
    /// What it was planned for.
    pub memory: ProfileMemory,
}

/// What a map was planned for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileMemory {
    /// Bytes per device.
    pub table: MemoryTable,
    /// Whether the user gave the table; otherwise it is one device as large as the model, nothing is reserved,
    /// and the numbers below are null.
    pub given: bool,
    /// Tokens of prompt and answer, images apart.
    pub context: Option<u64>,
    /// Sequences at a time.
    pub batch: Option<u64>,
    /// Bytes kept free on every accelerator in use.
    pub reserve: Option<u64>,
    /// Bytes of host memory that layers may take; null where none was allowed.
    pub allow_cpu: Option<u64>,
    /// The attention whose working memory was reserved; null where none was.
    pub attention: Option<Attention>,
    /// The longest contexts that the map holds, with the same batch and reserve; null where nothing was reserved.
    pub longest_context: Option<LongestContext>,
}

impl ProfileMemory {
    /// A table alone: no workload and no reserve were asked for.
    pub fn of_table(table: MemoryTable, given: bool) -> Self {
        Self {
            table,
            given,
            context: None,
            batch: None,
            reserve: None,
            allow_cpu: None,
            attention: None,
            longest_context: None,
        }
    }
}

impl Profile {
    /// A map with what it was planned for.
    pub fn new(map: DeviceMap, memory: ProfileMemory) -> Self {
        let DeviceMap { planner, map, used, why, longest } = map;
        let memory = ProfileMemory { longest_context: longest, ..memory };
        Self { planner, map, used, why, memory }
    }

    /// Where a module of the model is: by its own entry, or by that of the root.
    pub fn device_of(&self, module: &str) -> Option<Device> {
        self.map.get(module).or_else(|| self.map.get("")).copied()
    }

    /// Bytes of all weights and buffers, wherever they are placed.
    pub fn weights(&self) -> u64 {
        self.used.values().map(|used| used.weights).fold(0, u64::saturating_add)
    }

    /// Whether every device has at least what this map takes of it. `free`: bytes per device. A host whose free memory
    /// nobody says has enough. `attention`: what will run, where that is known; a map that keeps memory for `sdpa` is too
    /// small for `eager`.
    ///
    /// False for a map that was planned without a memory table: it reserves nothing.
    pub fn fits(&self, free: &MemoryTable, attention: Option<Attention>) -> bool {
        let is_enough = |(device, used): (&Device, &DeviceUse)| {
            let unknown = || *device == Device::Cpu;
            used.total() == 0 || free.get(*device).map_or_else(unknown, |free| free >= used.total())
        };
        let is_short = attention == Some(Attention::Eager) && self.memory.attention == Some(Attention::Sdpa);
        self.memory.given && !is_short && self.used.iter().all(is_enough)
    }

    /// The first of `profiles` that the devices can take.
    pub fn choose<'a>(
        profiles: &'a [Profile],
        free: &MemoryTable,
        attention: Option<Attention>,
    ) -> Option<&'a Profile> {
        profiles.iter().find(|profile| profile.fits(free, attention))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(table: &str, given: bool, takes: &[u64]) -> Profile {
        let table = MemoryTable::parse(table).unwrap();
        let used = table.gpus().zip(takes);
        let used = used.map(|((device, budget), &weights)| {
            (device, DeviceUse { weights, budget, ..DeviceUse::default() })
        });
        Profile {
            planner: PlannerId { name: "mgm".into(), version: 1 },
            map: IndexMap::new(),
            used: used.collect(),
            why: Vec::new(),
            memory: ProfileMemory::of_table(table, given),
        }
    }

    #[test]
    fn the_first_profile_that_the_devices_can_take_is_chosen() {
        let gib = 1 << 30;
        let profiles = [
            profile("80GiB", true, &[40 * gib]),
            profile("2x24GiB", true, &[20 * gib, 20 * gib]),
            profile("4x12GiB", true, &[11 * gib, 11 * gib, 11 * gib, 7 * gib]),
        ];
        let chosen = |free: &str| {
            let free = MemoryTable::parse(free).unwrap();
            Profile::choose(&profiles, &free, None).map(|profile| profile.memory.table.to_string())
        };
        assert_eq!(chosen("40GiB").as_deref(), Some("gpu 0 80.00 GiB"));
        assert_eq!(chosen("0=20GiB,1=21GiB").as_deref(), Some("gpu 0 24.00 GiB, gpu 1 24.00 GiB"));
        assert_eq!(chosen("0=20GiB,1=19GiB"), None);
        assert!(chosen("0=11GiB,1=11GiB,2=11GiB,3=7GiB").unwrap().starts_with("gpu 0 12.00 GiB, "));
    }

    #[test]
    fn a_map_planned_without_a_table_is_never_chosen() {
        let free = MemoryTable::parse("80GiB").unwrap();
        assert_eq!(Profile::choose(&[profile("1GiB", false, &[1])], &free, None), None);
    }

    #[test]
    fn a_device_that_holds_nothing_need_not_be_there() {
        let free = MemoryTable::parse("24GiB").unwrap();
        assert!(profile("2x24GiB", true, &[1 << 30, 0]).fits(&free, None));
    }

    #[test]
    fn layers_on_the_host_need_its_memory_where_that_is_known() {
        // Once, what a machine had free never named the host, and no map with layers there was ever taken.
        let mut offloaded = profile("24GiB", true, &[1 << 30]);
        offloaded.used.insert(Device::Cpu, DeviceUse { weights: 4 << 30, ..DeviceUse::default() });
        let fits = |free: &str| offloaded.fits(&MemoryTable::parse(free).unwrap(), None);
        assert!(fits("24GiB,cpu=4GiB") && fits("24GiB"));
        assert!(!fits("24GiB,cpu=3GiB"));
    }

    #[test]
    fn a_map_for_sdpa_is_too_small_for_eager() {
        let free = MemoryTable::parse("24GiB").unwrap();
        let mut of_sdpa = profile("24GiB", true, &[1 << 30]);
        of_sdpa.memory.attention = Some(Attention::Sdpa);
        assert!(of_sdpa.fits(&free, None) && of_sdpa.fits(&free, Some(Attention::Sdpa)));
        assert!(!of_sdpa.fits(&free, Some(Attention::Eager)));
        of_sdpa.memory.attention = Some(Attention::Eager);
        assert!(of_sdpa.fits(&free, Some(Attention::Sdpa)));
    }
}
