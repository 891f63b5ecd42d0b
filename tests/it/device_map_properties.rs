//! What holds for every device map of the planner `mgm`, whatever the model and the memory table.

use mgpack::error::DeviceMapError;
use mgpack::internals::device_map::{
    Alternatives, Device, DeviceMap, MaxMemory, MemoryTable, ModelTree, Module, Request, Reserves, Sizing,
    TensorKind, TreeModule, TreeTensor, Working, broken_rules, plan_accelerate, plan_mgm,
};
use mgpack::internals::structure::Role;
use mgpack::internals::tensor::Dtype;
use proptest::prelude::*;

/// A model, the table it should fit and what is to be kept free. Sizes are small numbers, so that exact fits,
/// zero sizes and ties happen often.
#[derive(Clone, Debug)]
struct Case {
    modules: Vec<Module>,
    gpus: Vec<u64>,
    tied_head: bool,
    reserves: Reserves,
    allow_cpu: Option<u64>,
}

impl Case {
    fn memory(&self) -> MemoryTable {
        table(&self.gpus)
    }

    fn plan(&self) -> Result<DeviceMap, DeviceMapError> {
        plan_mgm(&Request {
            modules: &self.modules,
            memory: &self.memory(),
            is_mgm: true,
            tied_head: self.tied_head,
            reserves: self.reserves,
            allow_cpu: self.allow_cpu,
            alternatives: Alternatives::default(),
        })
    }

    fn is_pinned(&self, module: &Module) -> bool {
        module.role.is_vision()
            || module.role == Role::Embedding
            || (module.role == Role::Head && self.tied_head)
    }

    /// What a module puts on its device.
    fn load(&self, module: &Module) -> Load {
        let has_layers = matches!(module.role, Role::Layer(_));
        let kept = if has_layers { self.reserves.kv_per_layer } else { 0 };
        Load { bytes: module.bytes + kept, has_layers, has_head: module.role == Role::Head }
    }

    fn pinned(&self) -> Load {
        let pinned = self.modules.iter().filter(|module| self.is_pinned(module));
        pinned.map(|module| self.load(module)).fold(Load::default(), Load::and)
    }

    /// What a device must have for a load, whatever it works in included.
    fn need(&self, load: Load, is_home: bool) -> u64 {
        let Working { home, layers, embedded, head } = self.reserves.working;
        let mut working = 0;
        if is_home {
            working = working.max(home);
        }
        if load.has_layers {
            working = working.max(if is_home { layers + embedded } else { layers });
        }
        if load.has_head {
            working = working.max(head);
        }
        load.bytes + self.reserves.per_device + working
    }
}

/// Bytes that add up, and what works on a device.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    bytes: u64,
    has_layers: bool,
    has_head: bool,
}

impl Load {
    fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            has_layers: self.has_layers || other.has_layers,
            has_head: self.has_head || other.has_head,
        }
    }
}

fn table(gpus: &[u64]) -> MemoryTable {
    MemoryTable::new((0..).map(Device::Gpu).zip(gpus.iter().copied())).unwrap()
}

fn module(name: &str, bytes: u64) -> Module {
    Module::new(name.to_owned(), bytes)
}

/// `most_layers` and `most_gpus` keep the exhaustive search small.
fn cases(most_layers: usize, most_gpus: usize) -> impl Strategy<Value = Case> {
    let sizes = (0u64..30, prop::collection::vec(0u64..12, 0..=most_layers), 0u64..4, 0u64..30);
    let vision = prop::option::of((0u64..8, 0u64..20, 0u64..20, 0u64..3));
    let shape = (any::<bool>(), any::<bool>(), any::<bool>());
    let kept = (0u64..3, 0u64..6, 0u64..10, (0u64..8, 0u64..3), 0u64..3, any::<bool>());
    let gpus = prop::collection::vec(0u64..60, 1..=most_gpus);
    let allow_cpu = prop::option::of(0u64..80);
    (sizes, vision, shape, kept, gpus, allow_cpu).prop_map(
        |((embed, layers, norm, head), vision, (tied_head, early, late), kept, gpus, allow_cpu)| {
            let mut modules = vec![module("model.embed_tokens", embed)];
            if early {
                modules.push(module("model.early", 2));
            }
            modules.extend(
                layers
                    .into_iter()
                    .enumerate()
                    .map(|(at, bytes)| module(&format!("model.layers.{at}"), bytes)),
            );
            if late {
                modules.push(module("model.late", 1));
            }
            modules.push(module("model.norm", norm));
            if let Some((projector, tower, aux, uni)) = vision {
                modules.push(module("model.vision_tower", tower));
                modules.push(module("model.mm_projector", projector));
                modules.push(module("model.vision_tower_aux", aux));
                for name in ["query", "aux", "val"] {
                    modules.push(module(&format!("model.vlm_uni_{name}_projector"), uni));
                }
            }
            modules.push(module("lm_head", if tied_head { 0 } else { head }));
            let (per_device, home, head, (layers, embedded), kv_per_layer, none) = kept;
            let working = Working { home, layers, embedded, head };
            let reserves =
                if none { Reserves::default() } else { Reserves { per_device, kv_per_layer, working } };
            Case { modules, gpus, tied_head, reserves, allow_cpu }
        },
    )
}

/// The order in which modules that are not pinned run.
fn flow(case: &Case) -> Vec<&Module> {
    case.modules.iter().filter(|module| !case.is_pinned(module)).collect()
}

/// Whether any placement at all is allowed with this first accelerator: every way to cut the flow into runs.
fn exists(case: &Case, flow: &[Load], home: usize) -> bool {
    fn cut(case: &Case, flow: &[Load], home: usize, at: usize, held: Load) -> bool {
        let fits = |at: usize, load| case.need(load, at == home) <= case.gpus[at];
        let Some((&first, rest)) = flow.split_first() else { return true };
        let here = held.and(first);
        (fits(at, here) && cut(case, rest, home, at, here))
            || (at + 1..case.gpus.len()).any(|next| fits(next, first) && cut(case, rest, home, next, first))
    }
    case.need(case.pinned(), true) <= case.gpus[home] && cut(case, flow, home, home, case.pinned())
}

/// The case as a tree of single tensors of one byte an element, for accelerate's planner.
fn tree(case: &Case) -> ModelTree {
    let mut modules = vec![("", "M"), ("model", "M")];
    let layers = ["model.layers".to_owned()];
    let mut seen_layers = false;
    for module in &case.modules {
        if matches!(module.role, Role::Layer(_)) && !std::mem::replace(&mut seen_layers, true) {
            modules.push((&layers[0], "ModuleList"));
        }
        let class = if matches!(module.role, Role::Layer(_)) { "Layer" } else { "Leaf" };
        modules.push((&module.name, class));
    }
    let is_alias = |module: &Module| case.tied_head && module.role == Role::Head;
    let tensors = case.modules.iter().filter(|module| !is_alias(module)).map(|module| TreeTensor {
        name: format!("{}.weight", module.name),
        shape: vec![module.bytes],
        dtype: Dtype::U8,
        kind: TensorKind::Param { linear: false },
    });
    let tied = vec!["lm_head.weight".to_owned(), "model.embed_tokens.weight".to_owned()];
    ModelTree {
        modules: modules
            .into_iter()
            .map(|(name, class)| TreeModule { name: name.to_owned(), class: class.to_owned() })
            .collect(),
        tensors: tensors.collect(),
        tied: if case.tied_head { vec![tied] } else { Vec::new() },
        ..ModelTree::default()
    }
    .with_direct_params()
}

/// The device of a module in a map that may name what contains it.
fn device_of(map: &DeviceMap, module: &str) -> Option<Device> {
    let mut name = module;
    loop {
        if let Some(device) = map.map.get(name) {
            return Some(*device);
        }
        name = match name.rsplit_once('.') {
            Some((parent, _)) => parent,
            None if name.is_empty() => return None,
            None => "",
        };
    }
}

proptest! {
    // Tests write nothing beside themselves: a failure is shown whole, and becomes a test of its own.
    // Of cases that a claim is not about there may be four times as many as of the others, and no more.
    #![proptest_config(ProptestConfig {
        cases: 3000,
        max_global_rejects: 12_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_module_is_placed_once_within_every_budget(case in cases(10, 5)) {
        let plan = case.plan();
        prop_assume!(plan.is_ok());
        let map = plan.unwrap();
        prop_assert_eq!(map.why.len(), case.modules.len());
        for module in &case.modules {
            prop_assert!(map.map.contains_key(&module.name));
            prop_assert_eq!(map.why.iter().filter(|why| why.module == module.name).count(), 1);
        }
        let home = map.map["model.embed_tokens"];
        let offloaded: Vec<_> =
            case.modules.iter().filter(|module| map.map[&module.name] == Device::Cpu).collect();
        for (&device, used) in &map.used {
            // Counted anew from the map alone.
            let here = || case.modules.iter().filter(|module| map.map[&module.name] == device);
            let layers = here().filter(|module| matches!(module.role, Role::Layer(_))).count() as u64;
            let away = offloaded.iter().filter(|module| matches!(module.role, Role::Layer(_))).count() as u64;
            let has_head = here().any(|module| module.role == Role::Head);
            prop_assert_eq!(used.weights, here().map(|module| module.bytes).sum::<u64>());
            if device == Device::Cpu {
                prop_assert!(used.weights <= case.allow_cpu.unwrap());
                continue;
            }
            let (layers, passage) = if device == home {
                (layers + away, offloaded.iter().map(|module| module.bytes).max().unwrap_or(0))
            } else {
                (layers, 0)
            };
            prop_assert_eq!(used.kv, layers * case.reserves.kv_per_layer);
            let works = Load { bytes: 0, has_layers: layers > 0, has_head };
            let is_in_use = here().next().is_some();
            let working = case.need(works, device == home) - case.reserves.per_device;
            prop_assert_eq!(used.activations, if is_in_use { working } else { 0 } + passage);
            let is_used = here().next().is_some();
            prop_assert_eq!(used.reserve, if is_used { case.reserves.per_device } else { 0 });
            prop_assert!(used.total() <= used.budget);
        }
        // The reasons' numbers: each module had the room it took.
        for why in map.why.iter().filter(|why| why.device != Device::Cpu) {
            prop_assert!(why.bytes <= why.free_before && why.free_before <= why.limit);
        }
    }

    #[test]
    fn runs_are_contiguous_and_rules_are_kept(case in cases(10, 5)) {
        let plan = case.plan();
        prop_assume!(plan.is_ok());
        let map = plan.unwrap();
        let home = map.map["model.embed_tokens"];
        prop_assert!(home.gpu().is_some());
        for module in case.modules.iter().filter(|module| case.is_pinned(module)) {
            prop_assert_eq!(map.map[&module.name], home);
        }
        let places: Vec<_> = flow(&case).into_iter().map(|module| (module, map.map[&module.name])).collect();
        let on_gpu: Vec<_> = places.iter().filter_map(|(_, device)| device.gpu()).collect();
        prop_assert!(on_gpu.is_sorted());
        prop_assert!(on_gpu.first().is_none_or(|&first| Device::Gpu(first) >= home));
        let mut offloading = false;
        for (module, device) in places {
            prop_assert!(device != Device::Disk && device != Device::Mps);
            if device == Device::Cpu {
                prop_assert!(case.allow_cpu.is_some() && module.is_offloadable());
                offloading = true;
            } else {
                prop_assert!(!(offloading && module.is_offloadable()), "a layer came back from the host");
            }
        }
        if case.modules.iter().any(|module| module.role.is_vision()) {
            prop_assert_eq!(broken_rules(&map.map, case.tied_head), []);
        }
    }

    #[test]
    fn the_head_stands_with_the_last_layer_wherever_that_fits(case in cases(6, 3)) {
        let case = Case { allow_cpu: None, ..case };
        let plan = case.plan();
        prop_assume!(plan.is_ok());
        let map = plan.unwrap();
        let flow = flow(&case);
        let Some(last) = flow.iter().rposition(|module| matches!(module.role, Role::Layer(_))) else {
            return Ok(());
        };
        if case.tied_head || map.map["lm_head"] == map.map[&flow[last].name] {
            return Ok(());
        }
        // They were parted: then there is no placement from the same first accelerator that joins them.
        let home = map.map["model.embed_tokens"].gpu().unwrap() as usize;
        let loads: Vec<_> = flow.iter().map(|module| case.load(module)).collect();
        let tail = loads[last..].iter().copied().fold(Load::default(), Load::and);
        let joined: Vec<_> = loads[..last].iter().copied().chain([tail]).collect();
        prop_assert!(!exists(&case, &joined, home));
    }

    #[test]
    fn a_placement_is_found_exactly_when_there_is_one(case in cases(6, 3)) {
        let case = Case { allow_cpu: None, ..case };
        let loads: Vec<_> = flow(&case).into_iter().map(|module| case.load(module)).collect();
        let found = (0..case.gpus.len()).any(|home| exists(&case, &loads, home));
        prop_assert_eq!(case.plan().is_ok(), found);
    }

    #[test]
    fn more_memory_never_makes_a_fitting_model_unfit(
        case in cases(10, 5),
        more in prop::collection::vec(0u64..40, 5),
        further in prop::option::of(0u64..60),
        more_host in 0u64..40,
    ) {
        if case.plan().is_err() {
            return Ok(());
        }
        let gpus = case.gpus.iter().zip(more).map(|(gpu, more)| gpu + more).chain(further).collect();
        let larger = Case { gpus, allow_cpu: case.allow_cpu.map(|host| host + more_host), ..case };
        prop_assert!(larger.plan().is_ok());
    }

    #[test]
    fn a_refusal_names_for_each_device_exactly_what_it_would_need(case in cases(8, 4)) {
        let plan = case.plan();
        prop_assume!(matches!(plan, Err(DeviceMapError::DoesNotFit(_))));
        let Err(DeviceMapError::DoesNotFit(miss)) = plan else { unreachable!() };
        prop_assert!(miss.shortfall > 0);
        let missing = |need: &mgpack::error::DeviceNeed| need.needed - need.budget;
        prop_assert_eq!(miss.needs.iter().map(missing).min(), Some(miss.shortfall));
        for need in &miss.needs {
            let with = |bytes: u64| {
                let mut case = case.clone();
                match need.device {
                    Device::Gpu(id) => {
                        // Host memory could close the gap of a device before it is large enough by itself.
                        case.allow_cpu = None;
                        case.gpus[id as usize] = bytes;
                    }
                    _ => case.allow_cpu = Some(bytes),
                }
                case.plan().is_ok()
            };
            prop_assert!(with(need.needed) && !with(need.needed - 1), "{:?}", need);
        }
    }

    #[test]
    fn fits_a_language_model_whenever_accelerate_fits_it(case in cases(10, 5)) {
        let mut case = Case { reserves: Reserves::default(), allow_cpu: None, ..case };
        case.modules.retain(|module| !module.role.is_vision());
        let memory = MaxMemory::from(&case.memory());
        let Ok(theirs) = plan_accelerate(&tree(&case), &Sizing::default(), &memory, &["Layer"]) else {
            return Ok(());
        };
        if theirs.map.values().all(|device| device.gpu().is_some()) {
            prop_assert!(case.plan().is_ok(), "{:?}", theirs.map);
        }
    }

    /// With a vision half this cannot hold always: accelerate may put it where MGM fails. It holds whenever
    /// the first device that accelerate uses also has room for what the rules pin there.
    #[test]
    fn fits_an_mgm_model_whenever_accelerate_fits_it_with_room_on_its_first_device(case in cases(10, 5)) {
        let case = Case { reserves: Reserves::default(), allow_cpu: None, ..case };
        let memory = MaxMemory::from(&case.memory());
        let Ok(theirs) = plan_accelerate(&tree(&case), &Sizing::default(), &memory, &["Layer"]) else {
            return Ok(());
        };
        if !theirs.map.values().all(|device| device.gpu().is_some()) {
            return Ok(());
        }
        let first = device_of(&theirs, "model.embed_tokens").unwrap();
        let moved: u64 = case
            .modules
            .iter()
            .filter(|module| case.is_pinned(module) && device_of(&theirs, &module.name) != Some(first))
            .map(|module| module.bytes)
            .sum();
        let used = theirs.used[&first];
        if used.weights + moved <= used.budget {
            prop_assert!(case.plan().is_ok(), "{:?}", theirs.map);
        }
    }
}
