//! The planner `accelerate-0.25-sequential`: what `infer_auto_device_map` of accelerate 0.25.0 answers.
//!
//! Owns the order of its decisions, its oddities included: the reserve on the first accelerator and the host,
//! ties found by substring, devices that are never returned to, and the inputs it fails on. Leaves better
//! ideas to the planner `mgm`. Source: accelerate 0.25.0 (`utils/modeling.py`), checked against maps that the
//! library itself made.

use std::collections::{HashMap, HashSet, VecDeque};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::memory::Unit;
use super::{DeviceMap, DeviceUse, ModelTree, PlannerId, Sizes, Sizing, Why};
use crate::device::{Device, MemoryTable};
use crate::error::{DeviceMapError, Exception};
use crate::size::gib;

/// Name and version of this planner.
pub(crate) const ACCELERATE: (&str, u32) = ("accelerate-0.25-sequential", 1);

/// A device as the caller of accelerate writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MemoryKey {
    /// An accelerator.
    Id(u32),
    /// `mps`, `cpu` or `disk`; anything else is refused.
    Word(String),
}

/// A size as the caller of accelerate writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MemorySize {
    /// Bytes. Zero and negative values are accepted.
    Bytes(i64),
    /// Bytes with a fraction, as transformers makes them by its factor 0.9.
    Fraction(f64),
    /// A number with a unit.
    Text(String),
}

/// Accelerate's `max_memory` as it was written: unsorted and unchecked.
pub type MaxMemory = Vec<(MemoryKey, MemorySize)>;

impl From<&MemoryTable> for MaxMemory {
    fn from(table: &MemoryTable) -> Self {
        let key = |device: Device| match device {
            Device::Gpu(id) => MemoryKey::Id(id),
            other => MemoryKey::Word(other.word().unwrap_or_default().to_owned()),
        };
        let size = |bytes| MemorySize::Bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
        table.entries().iter().map(|&(device, bytes)| (key(device), size(bytes))).collect()
    }
}

/// Plans a map as accelerate 0.25.0 does.
///
/// `no_split`: classes whose modules stay whole. The map's `used` holds weights only. The disk has no limit:
/// its budget, and what a reason says of its room, are 0.
///
/// # Errors
/// [`DeviceMapError::Accelerate`] with the exception that accelerate would raise.
pub fn plan_accelerate(
    tree: &ModelTree,
    sizing: &Sizing,
    memory: &[(MemoryKey, MemorySize)],
    no_split: &[impl AsRef<str>],
) -> Result<DeviceMap, DeviceMapError> {
    let devices = sorted_devices(memory)?;
    let sizes = tree.sizes(sizing);
    let graph = Graph::new(tree, &sizes, no_split.iter().map(AsRef::as_ref).collect());
    let (mut map, why) = graph.fill(&devices)?;
    clean(&mut map, "");
    let mut used: IndexMap<Device, DeviceUse> = IndexMap::new();
    let mut bits: HashMap<Device, u128> = HashMap::new();
    for (name, device) in &map {
        *bits.entry(*device).or_default() += sizes.bits(name);
    }
    for &Slot { device, limit } in &devices {
        let weights = bits.get(&device).copied().unwrap_or(0).div_ceil(8);
        let weights = u64::try_from(weights).unwrap_or(u64::MAX);
        used.insert(device, DeviceUse { weights, budget: limit.map_or(0, to_bytes), ..DeviceUse::default() });
    }
    Ok(DeviceMap {
        planner: PlannerId { name: ACCELERATE.0.to_owned(), version: ACCELERATE.1 },
        map,
        used,
        why,
        longest: None,
    })
}

/// A device in accelerate's order, with its size in bits; `None` has no limit.
#[derive(Clone, Copy)]
struct Slot {
    device: Device,
    limit: Option<i128>,
}

/// Checks and sorts a memory table: accelerators, `mps`, `cpu`, `disk` (added if absent, and never limited).
fn sorted_devices(memory: &[(MemoryKey, MemorySize)]) -> Result<Vec<Slot>, DeviceMapError> {
    // All texts are read before any key is checked: of two mistakes that is the one reported.
    let mut bits = Vec::with_capacity(memory.len());
    for (_, size) in memory {
        bits.push(match size {
            MemorySize::Bytes(bytes) => i128::from(*bytes) * 8,
            // Sizes are whole bits, so a limit's fraction of a bit never decides. NaN compares as no limit.
            MemorySize::Fraction(bytes) if bytes.is_nan() => i128::MAX,
            MemorySize::Fraction(bytes) => (bytes * 8.0).floor() as i128,
            MemorySize::Text(text) => text_bytes(text)?.saturating_mul(8),
        });
    }
    let mut slots: Vec<Slot> = Vec::new();
    for ((key, _), bits) in memory.iter().zip(bits) {
        let device = match key {
            MemoryKey::Id(id) => Device::Gpu(*id),
            MemoryKey::Word(word) => match word.as_str() {
                "mps" => Device::Mps,
                "cpu" => Device::Cpu,
                "disk" => Device::Disk,
                other => {
                    return Err(raise(
                        Exception::ValueError,
                        format!(
                            "Device {other} is not recognized, available devices are integers(for GPU/XPU), \
                             'mps', 'cpu' and 'disk'"
                        ),
                    ));
                }
            },
        };
        slots.retain(|slot| slot.device != device);
        slots.push(Slot { device, limit: (device != Device::Disk).then_some(bits) });
    }
    if !slots.iter().any(|slot| slot.device == Device::Disk) {
        slots.push(Slot { device: Device::Disk, limit: None });
    }
    slots.sort_by_key(|slot| slot.device);
    Ok(slots)
}

/// Bytes of a size text; Python's `int(float(number) * unit)`, bits for decimal units with a lower-case `b`.
fn text_bytes(text: &str) -> Result<i128, DeviceMapError> {
    let bad = || {
        let hint = "Use an integer for bytes, or a string with an unit (like '5.0GB').";
        raise(Exception::ValueError, format!("`size` {text} is not in a valid format. {hint}"))
    };
    let unit = Unit::split(text).ok_or_else(bad)?;
    let bytes = python_float(unit.number).ok_or_else(bad)? * unit.bytes;
    if bytes.is_infinite() {
        let message = "cannot convert float infinity to integer".to_owned();
        return Err(raise(Exception::OverflowError, message));
    }
    if bytes.is_nan() {
        return Err(bad());
    }
    let bytes = bytes.trunc() as i128;
    let bytes = if unit.is_bits { bytes.div_euclid(8) } else { bytes };
    if bytes > 0 { Ok(bytes) } else { Err(bad()) }
}

/// A number as Python's `float` reads it: blanks around it and single underscores between digits are allowed.
/// Digits of other scripts, which Python also takes, are not.
fn python_float(text: &str) -> Option<f64> {
    let text = text.trim();
    let digit = |at: Option<usize>| at.and_then(|at| text.as_bytes().get(at)).is_some_and(u8::is_ascii_digit);
    let well_placed = text.match_indices('_').all(|(at, _)| digit(at.checked_sub(1)) && digit(Some(at + 1)));
    if !well_placed {
        return None;
    }
    text.replace('_', "").parse().ok()
}

fn raise(exception: Exception, message: String) -> DeviceMapError {
    DeviceMapError::Accelerate { exception, message }
}

fn to_bytes(bits: i128) -> u64 {
    u64::try_from(bits.max(0) / 8).unwrap_or(u64::MAX)
}

/// Something that still has to be placed.
#[derive(Clone, Debug)]
struct Node {
    name: String,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// The module of this index.
    Module(usize),
    Param,
    Buffer,
}

impl What {
    fn python_class(self) -> &'static str {
        match self {
            What::Module(_) => "Module",
            What::Param => "Parameter",
            What::Buffer => "Tensor",
        }
    }
}

/// The largest unit that is left, and the names of all units of that size.
struct Largest {
    bits: u128,
    names: Vec<String>,
}

/// A tree with its children and sizes at hand.
struct Graph<'a> {
    tree: &'a ModelTree,
    sizes: &'a Sizes,
    no_split: HashSet<&'a str>,
    children: Vec<Vec<usize>>,
}

impl<'a> Graph<'a> {
    fn new(tree: &'a ModelTree, sizes: &'a Sizes, no_split: HashSet<&'a str>) -> Self {
        let index: HashMap<&str, usize> =
            tree.modules.iter().enumerate().map(|(at, module)| (module.name.as_str(), at)).collect();
        let mut children = vec![Vec::new(); tree.modules.len()];
        for (at, module) in tree.modules.iter().enumerate().filter(|(_, module)| !module.name.is_empty()) {
            let parent = module.name.rsplit_once('.').map_or("", |(parent, _)| parent);
            if let Some(siblings) = index.get(parent).and_then(|&parent| children.get_mut(parent)) {
                siblings.push(at);
            }
        }
        Self { tree, sizes, no_split, children }
    }

    fn children(&self, module: usize) -> &[usize] {
        self.children.get(module).map_or(&[], Vec::as_slice)
    }

    fn node(&self, module: usize) -> Option<Node> {
        let name = self.tree.modules.get(module)?.name.clone();
        Some(Node { name, what: What::Module(module) })
    }

    fn is_splittable(&self, module: usize) -> bool {
        let class = self.tree.modules.get(module).map_or("", |module| module.class.as_str());
        !self.children(module).is_empty() && !self.no_split.contains(class)
    }

    /// A module's own parameters, then its children. Its own buffers are not among them: accelerate loses them.
    fn split(&self, module: usize) -> Vec<Node> {
        let name = self.tree.modules.get(module).map_or("", |module| module.name.as_str());
        let leaves = self.tree.direct_params.get(name).map_or(&[][..], Vec::as_slice);
        let params = leaves.iter().map(|leaf| {
            let name = if name.is_empty() { leaf.clone() } else { format!("{name}.{leaf}") };
            Node { name, what: What::Param }
        });
        params.chain(self.children(module).iter().filter_map(|&child| self.node(child))).collect()
    }

    /// What is at the root: its parameters, its children, its buffers.
    fn roots(&self) -> VecDeque<Node> {
        let buffers = self.tree.tensors.iter().filter(|tensor| {
            matches!(tensor.kind, super::TensorKind::Buffer { .. }) && !tensor.name.contains('.')
        });
        let buffers = buffers.map(|tensor| Node { name: tensor.name.clone(), what: What::Buffer });
        let mut todo = if self.tree.modules.is_empty() { Vec::new() } else { self.split(0) };
        todo.extend(buffers);
        todo.into()
    }

    fn largest<'n>(&self, nodes: impl Iterator<Item = &'n Node>) -> Largest {
        let mut largest = Largest { bits: 0, names: Vec::new() };
        let mut meet = |name: &str| {
            let bits = self.sizes.bits(name);
            if bits > largest.bits {
                largest = Largest { bits, names: vec![name.to_owned()] };
            } else if bits == largest.bits {
                largest.names.push(name.to_owned());
            }
        };
        for node in nodes {
            let What::Module(module) = node.what else {
                meet(&node.name);
                continue;
            };
            let mut stack = vec![module];
            while let Some(module) = stack.pop() {
                if self.is_splittable(module) {
                    stack.extend(self.children(module).iter().rev());
                } else if let Some(module) = self.tree.modules.get(module) {
                    meet(&module.name);
                }
            }
        }
        largest
    }

    fn largest_module(&self, todo: &VecDeque<Node>) -> Largest {
        self.largest(todo.iter().filter(|node| matches!(node.what, What::Module(_))))
    }

    /// Names that share a parameter with `name` but lie outside it. "Inside" is a substring test, as in 0.25.
    fn tied_outside(&self, name: &str) -> Vec<&'a str> {
        let tree: &'a ModelTree = self.tree;
        let groups = tree.tied.iter().filter(|group| group.iter().any(|member| member.contains(name)));
        groups.flatten().map(String::as_str).filter(|member| !member.contains(name)).collect()
    }

    fn fill(&self, devices: &[Slot]) -> Result<(IndexMap<String, Device>, Vec<Why>), DeviceMapError> {
        let mut map: IndexMap<String, Device> = IndexMap::new();
        let mut why = Vec::new();
        let main = main_devices(devices);
        let mut todo = self.roots();
        let mut largest = self.largest(todo.iter());
        let mut at = 0;
        let mut used: i128 = 0;
        let mut moved: Option<String> = None;
        while let Some(node) = todo.pop_front() {
            let inside = format!("{}.", node.name);
            largest.names.retain(|name| *name != node.name && !name.starts_with(&inside));
            if largest.names.is_empty() {
                largest = self.largest_module(&todo);
            }
            let size = signed(self.sizes.bits(&node.name));
            let tied = self.tied_outside(&node.name);
            // The disk is last and has no limit, so there is always a device.
            let Some(&Slot { device, limit }) = devices.get(at) else { break };
            let reserve = if main.contains(&device) { signed(largest.bits) } else { 0 };
            let limit = limit.map(|limit| limit.saturating_sub(reserve));
            let fits = |size: i128| limit.is_none_or(|limit| used.saturating_add(size) <= limit);
            // The disk has no limit, which is written as 0.
            let left = || limit.map_or(0, |limit| to_bytes(limit.saturating_sub(used)));
            let next_device = || {
                let (left, needs) = (gib(left()), gib(to_bytes(size)));
                let kept = match to_bytes(reserve) {
                    0 => String::new(),
                    kept => format!(" beside {} kept for a layer", gib(kept)),
                };
                Some(format!("{device} has {left} left{kept}, it takes {needs}"))
            };

            if !fits(size) {
                match node.what {
                    What::Buffer => return Err(no_children(node.what)),
                    What::Module(module) if self.is_splittable(module) => {
                        for part in self.split(module).into_iter().rev() {
                            todo.push_front(part);
                        }
                        largest = self.largest_module(&todo);
                    }
                    What::Module(_) | What::Param => {
                        moved = next_device();
                        at += 1;
                        used = 0;
                        todo.push_front(node);
                    }
                }
                continue;
            }
            let mut place = |name: &str, bytes: u64, free_before: u64, reason: String| {
                map.insert(name.to_owned(), device);
                let limit = limit.map_or(0, to_bytes);
                why.push(Why { module: name.to_owned(), device, bytes, free_before, limit, reason });
            };
            let reason = |moved: &mut Option<String>| {
                moved.take().unwrap_or_else(|| "next in order, and there is room".to_owned())
            };
            if tied.is_empty() {
                place(&node.name, to_bytes(size), left(), reason(&mut moved));
                used = used.saturating_add(size);
                continue;
            }

            let mut owners: Vec<Node> = Vec::with_capacity(tied.len());
            for member in &tied {
                let owner = todo.iter().find(|entry| member.contains(entry.name.as_str()));
                let Some(owner) = owner else {
                    return Err(raise(Exception::IndexError, "list index out of range".to_owned()));
                };
                owners.push(owner.clone());
            }
            // An owner of several tied parameters is counted once for each of them, as accelerate does.
            let with_ties = owners.iter().zip(&tied).fold(size, |sum, (owner, member)| {
                sum + signed(self.sizes.bits(&owner.name)) - signed(self.sizes.bits(member))
            });
            if fits(with_ties) {
                place(&node.name, to_bytes(size), left(), reason(&mut moved));
                for owner in &owners {
                    todo.retain(|entry| entry.name != owner.name);
                    let text = format!("shares a parameter with {}", node.name);
                    place(&owner.name, self.sizes.bytes(&owner.name), left(), text);
                }
                used = used.saturating_add(with_ties);
                continue;
            }
            let mut split = None;
            for owner in &owners {
                match owner.what {
                    What::Module(module) if self.is_splittable(module) => {
                        split = Some((owner, module));
                        break;
                    }
                    What::Module(_) => {}
                    What::Param | What::Buffer => return Err(no_children(owner.what)),
                }
            }
            match split {
                Some((owner, module)) => {
                    let place = todo.iter().position(|entry| entry.name == owner.name).unwrap_or(0);
                    let behind = todo.split_off(place);
                    todo.extend(self.split(module));
                    todo.extend(behind.into_iter().skip(1));
                    todo.push_front(node);
                    largest = self.largest_module(&todo);
                }
                None => {
                    moved = next_device();
                    at += 1;
                    used = 0;
                    todo.push_front(node);
                }
            }
        }
        Ok((map, why))
    }
}

/// The devices on which room for the largest unit is kept.
fn main_devices(devices: &[Slot]) -> Vec<Device> {
    let gpu = devices.iter().map(|slot| slot.device).find(|device| device.gpu().is_some());
    if devices.iter().any(|slot| slot.device == Device::Mps) {
        vec![Device::Mps]
    } else if let Some(gpu) = gpu {
        vec![gpu, Device::Cpu]
    } else {
        vec![Device::Cpu]
    }
}

fn no_children(what: What) -> DeviceMapError {
    let class = what.python_class();
    raise(Exception::AttributeError, format!("'{class}' object has no attribute 'named_children'"))
}

fn signed(bits: u128) -> i128 {
    i128::try_from(bits).unwrap_or(i128::MAX)
}

/// Replaces the entries below a module by one for the module where they agree, from the root down.
fn clean(map: &mut IndexMap<String, Device>, module: &str) {
    let prefix = if module.is_empty() { String::new() } else { format!("{module}.") };
    let mut values = map.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, device)| *device);
    if let Some(first) = values.next() {
        let (mut more, mut equal) = (false, true);
        for device in values {
            more = true;
            equal &= device == first;
        }
        if more && equal {
            map.retain(|key, _| !key.starts_with(&prefix));
            map.insert(module.to_owned(), first);
        }
    }
    let mut children: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    for key in map.keys().filter(|key| key.starts_with(&prefix) && key.len() > module.len()) {
        let end = key.get(prefix.len()..).and_then(|rest| rest.find('.')).map(|at| at + prefix.len());
        let child = key.get(..end.unwrap_or(key.len())).unwrap_or(key);
        if seen.insert(child.to_owned()) {
            children.push(child.to_owned());
        }
    }
    for child in children {
        clean(map, &child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exception(text: &str) -> Option<Exception> {
        match text_bytes(text) {
            Err(DeviceMapError::Accelerate { exception, .. }) => Some(exception),
            _ => None,
        }
    }

    #[test]
    fn reads_sizes_as_python_does() {
        for (text, bytes) in [
            ("10GiB", 10 << 30),
            ("20GB", 20_000_000_000),
            ("20Gb", 2_500_000_000),
            ("20gib", 20 << 30),
            (" 1_000.5 KB", 1_000_500),
            ("1e3MiB", 1000 << 20),
        ] {
            assert_eq!(text_bytes(text).unwrap(), bytes, "{text}");
        }
        for text in
            ["12XB", "24", "GiB", "1__0GB", "_1GB", "0GiB", "-1GiB", "nanGB", "0.0009KB", "7e-3kb", ""]
        {
            assert_eq!(exception(text), Some(Exception::ValueError), "{text}");
        }
        assert_eq!(exception("infGiB"), Some(Exception::OverflowError));
    }

    #[test]
    fn sorts_devices_and_never_limits_the_disk() {
        let memory: MaxMemory =
            serde_json::from_str(r#"[["disk", 5], ["cpu", 1.5], [3, 2], [1, -1], ["mps", "1KB"]]"#).unwrap();
        let slots = sorted_devices(&memory).unwrap();
        let found: Vec<_> = slots.iter().map(|slot| (slot.device, slot.limit)).collect();
        assert_eq!(
            found,
            [
                (Device::Gpu(1), Some(-8)),
                (Device::Gpu(3), Some(16)),
                (Device::Mps, Some(8000)),
                (Device::Cpu, Some(12)),
                (Device::Disk, None),
            ]
        );
    }
}
