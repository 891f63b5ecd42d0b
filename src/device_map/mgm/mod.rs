//! The planner `mgm`: contiguous runs in layer order, no blanket reserve, and a refusal instead of a disk.
//!
//! Rules (their numbers are those of the refusals' documentation): R1–R4 projector, both towers, `vlm_uni_*`
//! and the embedding are together on the first accelerator in use, with explicit keys; R5 a tied `lm_head`
//! is with the embedding, another with the last layer where that is possible, else behind it; R6 only
//! decoder layers and the norm may go to the host, and only on request; nothing goes to a disk; R7 cache and
//! working memory are budgeted: the parts on a device work one after the other, so the largest counts.
//!
//! Why it is complete: what is pinned is charged first, the rest is a sequence of loads that goes to a
//! sequence of budgets. A part of a run never needs more than the run, so filling each device as far as it goes loses
//! nothing: any other contiguous placement can be shifted forward onto it. Every choice that remains (which accelerator is the
//! first in use, how many layers go to the host) is tried. So a placement is found whenever there is one, and
//! more memory never turns a fitting model into an unfitting one. Where there is none, `refusal` says what is missing and
//! what would help.

mod refusal;

use std::iter::Sum;

use indexmap::IndexMap;

use super::{
    Attention, DeviceMap, DeviceUse, LongestContext, Module, PlannerId, Request, Reserves, Why, Workload,
};
use crate::device::Device;
use crate::error::DeviceMapError;
use crate::size::gib;
use crate::structure::Role;

/// Name and version of this planner.
pub(super) const MGM: (&str, u32) = ("mgm", 3);

/// Keys that a map of an MGM model always has: its loader creates these modules after the map is made, and a
/// checkpoint key without an entry is a `KeyError` (rule R4).
const EXPLICIT_KEYS: [&str; 5] = [
    "model.vision_tower",
    "model.vision_tower_aux",
    "model.vlm_uni_query_projector",
    "model.vlm_uni_aux_projector",
    "model.vlm_uni_val_projector",
];

/// Plans a map by the rules of this module.
///
/// # Errors
/// [`DeviceMapError::DoesNotFit`] with the shortfall and what would help; [`DeviceMapError::NoAccelerator`];
/// [`DeviceMapError::DuplicateModule`].
pub fn plan_mgm(req: &Request<'_>) -> Result<DeviceMap, DeviceMapError> {
    let mut seen = std::collections::HashSet::new();
    if let Some(twice) = req.modules.iter().find(|module| !seen.insert(module.name.as_str())) {
        return Err(DeviceMapError::DuplicateModule { module: twice.name.clone() });
    }
    if req.memory.gpus().next().is_none() {
        return Err(DeviceMapError::NoAccelerator);
    }
    let problem = Problem::new(req);
    match problem.place(req.allow_cpu) {
        Some(placement) => {
            let longest = req.alternatives.workload.map(|workload| longest(req, workload, &placement));
            Ok(DeviceMap { longest, ..problem.tell(&placement, req.allow_cpu.unwrap_or(0)) })
        }
        None => Err(DeviceMapError::DoesNotFit(Box::new(problem.refuse(req)))),
    }
}

/// The longest contexts with which a placement still fits.
fn longest(req: &Request<'_>, workload: Workload, placement: &Placement) -> LongestContext {
    let holds = |attention: Attention, context: u64| {
        let reserves = Workload { attention, context, ..workload }.reserves(req.reserves.per_device);
        Problem::new(&Request { reserves, ..*req }).holds(placement)
    };
    let longest = |attention| {
        // The partition of 0, 1, … at the first context that is too long.
        let (mut good, mut bad) = (0, workload.most_context().saturating_add(1));
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if holds(attention, middle) { good = middle } else { bad = middle }
        }
        good
    };
    let sdpa = workload.decoder.has_sdpa.then(|| longest(Attention::Sdpa));
    LongestContext { eager: longest(Attention::Eager), sdpa }
}

/// A module with all that comes to its device along with it.
#[derive(Clone, Copy)]
struct Item<'a> {
    module: &'a Module,
    /// Key-value cache, for decoder layers.
    kv: u64,
    /// Whether it is the head: the first that is listed.
    is_head: bool,
}

impl Item<'_> {
    fn load(&self) -> Load {
        Load {
            bytes: u128::from(self.module.bytes) + u128::from(self.kv),
            layers: matches!(self.module.role, Role::Layer(_)),
            head: self.is_head,
        }
    }
}

/// What an accelerator holds: bytes that add up, and the parts that work there one after the other.
#[derive(Clone, Copy, Default)]
struct Load {
    bytes: u128,
    layers: bool,
    head: bool,
}

impl Load {
    fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            layers: self.layers || other.layers,
            head: self.head || other.head,
        }
    }
}

impl Sum for Load {
    fn sum<I: Iterator<Item = Self>>(loads: I) -> Self {
        loads.fold(Self::default(), Self::and)
    }
}

/// A request, sorted into what is pinned to the first accelerator and what follows in order.
struct Problem<'a> {
    gpus: Vec<(Device, u64)>,
    reserves: Reserves,
    /// All of them: the map lists its keys in this order.
    modules: &'a [Module],
    pinned: Vec<Item<'a>>,
    flow: Vec<Item<'a>>,
    /// Where in `flow` the last decoder layer is, if an untied head comes behind it: from here on,
    /// everything should share a device.
    tail: Option<usize>,
    is_mgm: bool,
    tied_head: bool,
    /// Whether the head is a module that is not listed: tied, it works where the embedding is.
    has_loose_head: bool,
}

/// Indices into `Problem::gpus` for each flow item; `None` is the host.
struct Placement {
    home: usize,
    flow: Vec<Option<usize>>,
    /// Bytes on the first accelerator for offloaded layers: room for the largest to pass through.
    passage: u64,
}

impl<'a> Problem<'a> {
    fn new(req: &Request<'a>) -> Self {
        let (mut pinned, mut flow) = (Vec::new(), Vec::new());
        let mut listed_head = false;
        for module in req.modules {
            let is_head = module.role == Role::Head && !std::mem::replace(&mut listed_head, true);
            let item =
                Item { module, kv: if module.has_cache { req.reserves.kv_per_layer } else { 0 }, is_head };
            let is_pinned = match module.role {
                Role::Embedding | Role::Projector | Role::Tower | Role::Uni => true,
                Role::Head => req.tied_head,
                Role::Layer(_) | Role::Final => false,
            };
            if is_pinned { pinned.push(item) } else { flow.push(item) }
        }
        let last = |role: fn(&Role) -> bool| flow.iter().rposition(|item: &Item<'_>| role(&item.module.role));
        let layer = last(|role| matches!(role, Role::Layer(_)));
        let head = last(|role| *role == Role::Head);
        Self {
            gpus: req.memory.gpus().collect(),
            reserves: req.reserves,
            modules: req.modules,
            pinned,
            tail: layer.filter(|&layer| head.is_some_and(|head| head > layer)),
            flow,
            is_mgm: req.is_mgm,
            tied_head: req.tied_head,
            has_loose_head: req.tied_head && !listed_head,
        }
    }

    /// What the first accelerator in use holds before any layer comes.
    fn home_load(&self) -> Load {
        let loose = Load { head: self.has_loose_head, ..Load::default() };
        self.pinned.iter().map(Item::load).sum::<Load>().and(loose)
    }

    /// Bytes that an accelerator must have for a load: the reserve and what the load works in included.
    fn need(&self, load: Load, is_home: bool) -> u128 {
        let working = self.reserves.working.of(is_home, load.layers, load.head);
        load.bytes + u128::from(self.reserves.per_device) + u128::from(working)
    }

    /// Whether accelerator `at` has the bytes for a load.
    fn fits(&self, at: usize, home: usize, load: Load) -> bool {
        let budget = self.gpus.get(at).map_or(0, |&(_, budget)| u128::from(budget));
        self.need(load, at == home) <= budget
    }

    /// What accelerator `at` holds from the start; `None` where not even that fits.
    fn start(&self, at: usize, home: usize, extra: Load) -> Option<Load> {
        let load = if at == home { self.home_load().and(extra) } else { Load::default() };
        self.fits(at, home, load).then_some(load)
    }

    /// Fills the accelerators from `home` on with `loads`, each as far as it goes. `extra`: more on `home`.
    fn fill(&self, home: usize, extra: Load, loads: impl Iterator<Item = Load>) -> Option<Vec<usize>> {
        let mut at = home;
        let mut held = self.start(home, home, extra)?;
        let mut places = Vec::new();
        for load in loads {
            while !self.fits(at, home, held.and(load)) {
                // A later device that has no room even for its reserve is passed over.
                (at, held) = (at + 1..self.gpus.len())
                    .find_map(|next| Some((next, self.start(next, home, Load::default())?)))?;
            }
            held = held.and(load);
            places.push(at);
        }
        // Without pinned modules the first in use is simply where the first layer went.
        (!self.pinned.is_empty() || places.first().is_none_or(|&first| first == home)).then_some(places)
    }

    fn place(&self, allow_cpu: Option<u64>) -> Option<Placement> {
        let all_on_gpus = (0..self.gpus.len()).find_map(|home| {
            let flow = self
                .fill_together(home)
                .or_else(|| self.fill(home, Load::default(), self.flow.iter().map(Item::load)))?;
            Some(Placement { home, flow: flow.into_iter().map(Some).collect(), passage: 0 })
        });
        all_on_gpus.or_else(|| self.place_with_host(allow_cpu?))
    }

    /// Fills with the head beside the last layer, whatever is between them included.
    fn fill_together(&self, home: usize) -> Option<Vec<usize>> {
        let (before, tail) = self.flow.split_at_checked(self.tail?)?;
        let loads = before.iter().map(Item::load).chain([tail.iter().map(Item::load).sum()]);
        let mut places = self.fill(home, Load::default(), loads)?;
        let last = *places.last()?;
        places.resize(self.flow.len(), last);
        Some(places)
    }

    /// The placement with the fewest bytes in host memory, at most `budget`.
    ///
    /// Offloaded layers still run on the first accelerator: their cache is there, and the largest passes
    /// through it. What may not be offloaded follows the last layer that is not.
    fn place_with_host(&self, budget: u64) -> Option<Placement> {
        let mut best: Option<(u128, Placement)> = None;
        for home in 0..self.gpus.len() {
            for keep in (0..self.flow.len()).rev() {
                let (kept, rest) = self.flow.split_at(keep);
                if !rest.first().is_some_and(|item| item.module.is_offloadable()) {
                    continue;
                }
                let off = || rest.iter().filter(|item| item.module.is_offloadable());
                let bytes: u128 = off().map(|item| u128::from(item.module.bytes)).sum();
                if bytes > u128::from(budget) || best.as_ref().is_some_and(|(least, _)| *least <= bytes) {
                    break;
                }
                let passage = off().map(|item| item.module.bytes).max().unwrap_or(0);
                let extra = self.offloaded(off(), passage);
                let stay = rest.iter().filter(|item| !item.module.is_offloadable());
                let Some(places) = self.fill(home, extra, kept.iter().chain(stay).map(Item::load)) else {
                    continue;
                };
                let mut places = places.into_iter();
                let flow = self.flow.iter().enumerate().map(|(at, item)| {
                    if at >= keep && item.module.is_offloadable() { None } else { places.next() }
                });
                best = Some((bytes, Placement { home, flow: flow.collect(), passage }));
                break;
            }
        }
        best.map(|(_, placement)| placement)
    }

    /// What layers in host memory take of the first accelerator, where they run: cache, working memory, and room for
    /// the largest to pass through.
    fn offloaded<'i>(&self, items: impl Iterator<Item = &'i Item<'i>>, passage: u64) -> Load {
        let load: Load = items.map(|item| Load { bytes: u128::from(item.kv), ..item.load() }).sum();
        load.and(Load { bytes: u128::from(passage), ..Load::default() })
    }

    /// What each accelerator holds in a placement.
    fn loads(&self, placement: &Placement) -> Vec<Load> {
        let mut loads = vec![Load::default(); self.gpus.len()];
        let off =
            self.flow.iter().zip(&placement.flow).filter(|(_, place)| place.is_none()).map(|(item, _)| item);
        let at_home = self.home_load().and(self.offloaded(off, placement.passage));
        let placed = self.flow.iter().zip(&placement.flow).filter_map(|(item, &at)| Some((at?, item.load())));
        for (at, load) in placed.chain([(placement.home, at_home)]) {
            if let Some(held) = loads.get_mut(at) {
                *held = held.and(load);
            }
        }
        loads
    }

    /// Whether a placement, made for this problem or another workload of its model, fits.
    fn holds(&self, placement: &Placement) -> bool {
        let in_use = |at: usize| at == placement.home || placement.flow.contains(&Some(at));
        let loads = self.loads(placement);
        loads.iter().enumerate().all(|(at, &load)| !in_use(at) || self.fits(at, placement.home, load))
    }

    /// The map, the bytes per device and the reasons of a placement. `host_budget`: what layers may take of it.
    fn tell(&self, placement: &Placement, host_budget: u64) -> DeviceMap {
        let home = placement.home;
        let mut uses: Vec<DeviceUse> =
            self.gpus.iter().map(|&(_, budget)| DeviceUse { budget, ..DeviceUse::default() }).collect();
        let mut host = DeviceUse { budget: host_budget, ..DeviceUse::default() };
        let mut why = Vec::new();
        let mut places: IndexMap<&str, Device> = IndexMap::new();
        let device_of = |at: usize| self.gpus.get(at).map_or(Device::Cpu, |&(device, _)| device);
        // The cache of offloaded layers is where they run, from the start.
        let kv_of_offloaded: u64 = self
            .flow
            .iter()
            .zip(&placement.flow)
            .filter(|(_, place)| place.is_none())
            .map(|(item, _)| item.kv)
            .fold(0, u64::saturating_add);
        for ((at, used), load) in uses.iter_mut().enumerate().zip(self.loads(placement)) {
            let in_use = at == home || placement.flow.contains(&Some(at));
            used.reserve = if in_use { self.reserves.per_device } else { 0 };
            used.activations = self.reserves.working.of(at == home, load.layers, load.head);
            if at == home {
                used.kv = kv_of_offloaded;
                used.activations = used.activations.saturating_add(placement.passage);
            }
        }
        let limits: Vec<u64> = uses.iter().map(|used| used.budget.saturating_sub(used.total())).collect();

        let pinned = self.pinned.iter().map(|item| (item, Some(home), true));
        let flow = self.flow.iter().zip(&placement.flow).map(|(item, &place)| (item, place, false));
        let mut before = home;
        for (item, place, is_pinned) in pinned.chain(flow) {
            let module = item.module;
            let Some(at) = place else {
                why.push(Why {
                    module: module.name.clone(),
                    device: Device::Cpu,
                    bytes: module.bytes,
                    free_before: 0,
                    limit: 0,
                    reason: "the accelerators are full and host memory was allowed".to_owned(),
                });
                host.weights = host.weights.saturating_add(module.bytes);
                places.insert(&module.name, Device::Cpu);
                continue;
            };
            let free = |at: usize, uses: &[DeviceUse]| {
                uses.get(at).map_or(0, |used| used.budget.saturating_sub(used.total()))
            };
            let reason = if is_pinned {
                let passed = if home == 0 { "" } else { "; the ones before are too small" };
                format!("{}{passed}", pin_reason(module.role))
            } else if at == before {
                "next in order, and there is room".to_owned()
            } else {
                let left = free(before, &uses);
                let cost = u64::try_from(item.load().bytes).unwrap_or(u64::MAX);
                let from = device_of(before);
                if cost <= left {
                    format!("{from} has {} left, too little for it and what must stand beside it", gib(left))
                } else {
                    format!("{from} has {} left, it takes {}", gib(left), gib(cost))
                }
            };
            why.push(Why {
                module: module.name.clone(),
                device: device_of(at),
                bytes: module.bytes,
                free_before: free(at, &uses),
                limit: limits.get(at).copied().unwrap_or(0),
                reason,
            });
            if let Some(used) = uses.get_mut(at) {
                used.weights = used.weights.saturating_add(module.bytes);
                used.kv = used.kv.saturating_add(item.kv);
            }
            places.insert(&module.name, device_of(at));
            before = at;
        }

        let mut map: IndexMap<String, Device> = self
            .modules
            .iter()
            .filter_map(|module| {
                places.get(module.name.as_str()).map(|&device| (module.name.clone(), device))
            })
            .collect();
        let mut explicit = Vec::new();
        if self.is_mgm {
            explicit.extend(EXPLICIT_KEYS);
        }
        if self.tied_head && !self.modules.iter().any(|module| module.role == Role::Head) {
            explicit.push("lm_head");
        }
        for key in explicit {
            map.entry(key.to_owned()).or_insert(device_of(home));
        }
        let mut used: IndexMap<Device, DeviceUse> =
            self.gpus.iter().map(|&(device, _)| device).zip(uses).collect();
        if placement.flow.iter().any(Option::is_none) {
            used.insert(Device::Cpu, host);
        }
        let planner = PlannerId { name: MGM.0.to_owned(), version: MGM.1 };
        DeviceMap { planner, map, used, why, longest: None }
    }
}

fn pin_reason(role: Role) -> &'static str {
    match role {
        Role::Embedding => "the inputs go to the first accelerator",
        Role::Projector => "stands with the inputs, never on cpu, disk or meta",
        Role::Tower => "stands with the projector that reads it",
        Role::Uni => "is created on the projector's device",
        Role::Head => "shares its weight with the embedding",
        Role::Layer(_) | Role::Final => "is pinned",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryTable;
    use crate::device_map::Alternatives;
    use crate::error::{DoesNotFit, Remedy};

    pub(super) const GIB: u64 = 1 << 30;

    fn module(name: &str, bytes: u64) -> Module {
        Module::new(name.to_owned(), bytes)
    }

    /// Embedding 1, `layers` of 2 each, norm 0, projector 1, head 1 (GiB).
    pub(super) fn model(layers: usize) -> Vec<Module> {
        let mut modules = vec![module("model.embed_tokens", GIB)];
        modules.extend((0..layers).map(|at| module(&format!("model.layers.{at}"), 2 * GIB)));
        modules.extend([module("model.norm", 0), module("model.mm_projector", GIB), module("lm_head", GIB)]);
        modules
    }

    pub(super) fn request<'a>(modules: &'a [Module], memory: &'a MemoryTable) -> Request<'a> {
        Request {
            modules,
            memory,
            tied_head: false,
            reserves: Reserves::default(),
            is_mgm: true,
            allow_cpu: None,
            alternatives: Alternatives::default(),
        }
    }

    pub(super) fn table(text: &str) -> MemoryTable {
        MemoryTable::parse(text).unwrap()
    }

    pub(super) fn refusal(error: DeviceMapError) -> DoesNotFit {
        match error {
            DeviceMapError::DoesNotFit(miss) => *miss,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn keeps_the_vision_half_on_the_first_accelerator_and_writes_its_keys() {
        let (modules, memory) = (model(4), table("2x6GiB"));
        let map = plan_mgm(&request(&modules, &memory)).unwrap();
        for key in ["model.embed_tokens", "model.mm_projector"].into_iter().chain(EXPLICIT_KEYS) {
            assert_eq!(map.map[key], Device::Gpu(0), "{key}");
        }
        assert_eq!(map.map["model.layers.1"], Device::Gpu(0));
        assert_eq!(map.map["model.layers.2"], Device::Gpu(1));
        assert_eq!(map.map["lm_head"], Device::Gpu(1));
        assert_eq!(map.used[&Device::Gpu(0)].weights, 6 * GIB);
        assert_eq!(map.why.len(), modules.len());
    }

    #[test]
    fn moves_the_last_layer_so_that_the_head_can_stand_with_it() {
        // The last layer alone would fit on the first device, the head would not.
        let (modules, memory) = (model(2), table("2x6GiB"));
        let map = plan_mgm(&request(&modules, &memory)).unwrap();
        assert_eq!(map.map["model.layers.0"], Device::Gpu(0));
        assert_eq!(map.map["model.layers.1"], Device::Gpu(1));
        assert_eq!(map.map["lm_head"], Device::Gpu(1));
    }

    #[test]
    fn parts_the_head_from_the_last_layer_rather_than_refuse() {
        let (modules, memory) = (model(2), table("0=6GiB,1=1GiB"));
        let map = plan_mgm(&request(&modules, &memory)).unwrap();
        assert_eq!(map.map["model.layers.1"], Device::Gpu(0));
        assert_eq!(map.map["lm_head"], Device::Gpu(1));
    }

    #[test]
    fn passes_over_devices_that_hold_nothing() {
        let (modules, memory) = (model(3), table("0=1GiB,1=4GiB,2=1GiB,3=6GiB"));
        let map = plan_mgm(&request(&modules, &memory)).unwrap();
        assert_eq!(map.map["model.mm_projector"], Device::Gpu(1));
        assert_eq!(map.map["model.layers.0"], Device::Gpu(1));
        assert_eq!(map.map["model.layers.1"], Device::Gpu(3));
        assert_eq!(map.used[&Device::Gpu(0)].total(), 0);
    }

    /// Found by comparing with accelerate: such a module was pinned to the embedding's device, and models that
    /// fit only with it on the next one were refused.
    #[test]
    fn what_comes_before_the_first_layer_may_follow_the_embedding_on_the_next_device() {
        let modules = [
            module("model.embed_tokens", 2 * GIB),
            module("model.positions", GIB),
            module("model.layers.0", GIB),
        ];
        let map = plan_mgm(&request(&modules, &table("2x2GiB"))).unwrap();
        assert_eq!(map.map["model.positions"], Device::Gpu(1));
    }

    #[test]
    fn a_tied_head_stands_with_the_embedding_even_if_it_is_not_listed() {
        let mut modules = model(4);
        modules.pop();
        let memory = table("2x6GiB");
        let map = plan_mgm(&Request { tied_head: true, ..request(&modules, &memory) }).unwrap();
        assert_eq!(map.map["lm_head"], Device::Gpu(0));
    }

    #[test]
    fn only_layers_and_norm_go_to_the_host_and_only_when_allowed() {
        let (modules, memory) = (model(5), table("0=8GiB,cpu=64GiB"));
        assert!(plan_mgm(&request(&modules, &memory)).is_err());
        let map = plan_mgm(&Request { allow_cpu: Some(64 * GIB), ..request(&modules, &memory) }).unwrap();
        for (key, device) in &map.map {
            assert!(*device == Device::Gpu(0) || module(key, 0).is_offloadable(), "{key}");
        }
        // Embedding, projector and head are 3, the passage is 2: one layer stays.
        assert_eq!(map.map["model.layers.0"], Device::Gpu(0));
        assert_eq!(map.map["model.layers.1"], Device::Cpu);
        assert_eq!(map.used[&Device::Cpu].weights, 8 * GIB);
        assert_eq!(map.used[&Device::Gpu(0)].total(), 7 * GIB);

        let short = Request { allow_cpu: Some(7 * GIB), ..request(&modules, &memory) };
        let miss = refusal(plan_mgm(&short).unwrap_err());
        assert_eq!((miss.device, miss.shortfall), (Device::Cpu, GIB));
        assert_eq!(miss.remedies.last(), Some(&Remedy::AllowCpu { bytes: 8 * GIB }));
    }

    #[test]
    fn refuses_a_table_without_accelerators() {
        let (modules, memory) = (model(1), table("cpu=64GiB"));
        assert_eq!(plan_mgm(&request(&modules, &memory)).unwrap_err(), DeviceMapError::NoAccelerator);
    }
}
