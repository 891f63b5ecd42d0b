//! The model tree: modules, tensors and ties as the model class registers them, and their sizes.
//!
//! Owns what accelerate looks at when it plans: names, classes, the order of children, parameters and buffers
//! (also those that no checkpoint holds, such as rotary caches). Leaves the building of trees to `models`
//! and the placing to the planners. Sizes are in bits, because accelerate counts a bool as an eighth of a byte
//! and a 4-bit weight as half of one.

use std::collections::{HashMap, HashSet};

use super::Module;
use crate::tensor::{Dtype, element_count};

/// One module: its dotted name (`""` at the root) and the name of its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeModule {
    /// Dotted name.
    pub name: String,
    /// Python class, which decides whether a planner may split the module.
    pub class: String,
}

/// One tensor of a model: a parameter or a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeTensor {
    /// Dotted name.
    pub name: String,
    /// Dimensions; `[]` for a scalar.
    pub shape: Vec<u64>,
    /// Element type in memory.
    pub dtype: Dtype,
    /// What it is and whether checkpoints hold it.
    pub kind: TensorKind,
}

/// What a tensor is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorKind {
    /// A parameter.
    Param {
        /// Whether it is the weight of a `Linear`, which is what quantizers replace.
        linear: bool,
    },
    /// A buffer.
    Buffer {
        /// Whether it is part of the state dict.
        persistent: bool,
    },
}

/// A model as accelerate sees it.
///
/// Every tensor is listed once, under the first name that holds it: parameters in the order of the tree, then
/// buffers. Further names of a shared tensor are in `direct_params` and `tied` only, and count nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelTree {
    /// Modules before their children, children in the order of registration; the root is first.
    pub modules: Vec<TreeModule>,
    /// Parameters, then buffers.
    pub tensors: Vec<TreeTensor>,
    /// Per module, the last components of the parameters it holds itself, shared ones included.
    pub direct_params: HashMap<String, Vec<String>>,
    /// Groups of names that share one parameter, each sorted.
    pub tied: Vec<Vec<String>>,
}

impl ModelTree {
    /// Fills `direct_params` from the tensors and the names in `tied` that are no tensor's.
    ///
    /// Right wherever a module that holds a shared parameter holds no other parameter behind it.
    pub fn with_direct_params(mut self) -> Self {
        let mut direct: HashMap<String, Vec<String>> = HashMap::new();
        let mut seen: HashSet<&str> = HashSet::new();
        let params = self.tensors.iter().filter(|tensor| matches!(tensor.kind, TensorKind::Param { .. }));
        let names =
            params.map(|tensor| tensor.name.as_str()).chain(self.tied.iter().flatten().map(String::as_str));
        for name in names.filter(|name| seen.insert(name)) {
            let (module, leaf) = name.rsplit_once('.').unwrap_or(("", name));
            direct.entry(module.to_owned()).or_default().push(leaf.to_owned());
        }
        self.direct_params = direct;
        self
    }

    /// Sizes of all modules and tensors.
    pub fn sizes(&self, sizing: &Sizing) -> Sizes {
        let mut bits: HashMap<String, u128> = HashMap::new();
        for tensor in &self.tensors {
            let size = sizing.bits(tensor);
            for end in tensor.name.match_indices('.').map(|(at, _)| at).chain([0, tensor.name.len()]) {
                let prefix = tensor.name.get(..end).unwrap_or_default();
                match bits.get_mut(prefix) {
                    Some(sum) => *sum += size,
                    None => {
                        bits.insert(prefix.to_owned(), size);
                    }
                }
            }
        }
        Sizes { bits }
    }

    /// The units that the `mgm` planner places: the root's and `model`'s children, and each decoder layer.
    ///
    /// Bytes as accelerate counts them; a caller that knows a bundle's true sizes should set those instead.
    pub fn units(&self, sizing: &Sizing) -> Vec<Module> {
        let sizes = self.sizes(sizing);
        let is_unit = |name: &str| match name.split('.').collect::<Vec<_>>().as_slice() {
            ["model", "layers", _] => true,
            ["model", child] => *child != "layers",
            [child] => !child.is_empty() && *child != "model",
            _ => false,
        };
        let units = self.modules.iter().filter(|module| is_unit(&module.name));
        units.map(|module| Module::new(module.name.clone(), sizes.bytes(&module.name))).collect()
    }
}

/// How accelerate counts a tensor: the smaller of its own type and a target, unless its name is listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizing {
    /// Bits per element of the type the model is loaded in; `None` keeps every tensor's own.
    pub target: Option<u32>,
    /// Bits per element of tensors by full name. Wins over everything, even where it is larger.
    pub special: HashMap<String, u32>,
}

impl Sizing {
    /// Everything in its own type, but at most `bits` per element.
    pub fn at_most(bits: u32) -> Self {
        Self { target: Some(bits), special: HashMap::new() }
    }

    /// The same with the named tensors counted at `bits` per element.
    pub fn with_special<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>, bits: u32) -> Self {
        self.special.extend(names.into_iter().map(|name| (name.into(), bits)));
        self
    }

    /// Bits that a tensor counts for.
    fn bits(&self, tensor: &TreeTensor) -> u128 {
        let own = own_bits(tensor.dtype);
        let per_element = match (self.special.get(&tensor.name), self.target) {
            (Some(&special), _) => special,
            (None, Some(target)) => target.min(own),
            (None, None) => own,
        };
        u128::from(element_count(&tensor.shape).unwrap_or(u64::MAX)) * u128::from(per_element)
    }
}

/// Bits per element by accelerate's count: a bool is one bit.
fn own_bits(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::BOOL => 1,
        other => u32::try_from(other.bitsize()).unwrap_or(u32::MAX),
    }
}

/// Sizes by module and tensor name; what is not listed has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    bits: HashMap<String, u128>,
}

impl Sizes {
    /// Bits of the module or tensor `name`; 0 for a shared tensor's further names.
    pub fn bits(&self, name: &str) -> u128 {
        self.bits.get(name).copied().unwrap_or(0)
    }

    /// The same in bytes, rounded up.
    pub fn bytes(&self, name: &str) -> u64 {
        u64::try_from(self.bits(name).div_ceil(8)).unwrap_or(u64::MAX)
    }
}

/// The element type that torch calls `name`: `float16`, `bool`, …
pub fn torch_dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "bool" => Dtype::BOOL,
        "uint8" => Dtype::U8,
        "int8" => Dtype::I8,
        "int16" => Dtype::I16,
        "int32" => Dtype::I32,
        "int64" => Dtype::I64,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "float32" => Dtype::F32,
        "float64" => Dtype::F64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_fractions_prefixes_and_listed_names() {
        let tensor = |name: &str, len, dtype| TreeTensor {
            name: name.to_owned(),
            shape: vec![len],
            dtype,
            kind: TensorKind::Param { linear: false },
        };
        let tree = ModelTree {
            tensors: vec![
                tensor("a.b.w", 3, Dtype::F32),
                tensor("a.flag", 3, Dtype::BOOL),
                tensor("i", 1, Dtype::I64),
            ],
            ..ModelTree::default()
        };
        let sizes = tree.sizes(&Sizing::at_most(4));
        assert_eq!((sizes.bits("a.b"), sizes.bits("a"), sizes.bits("")), (12, 15, 19));
        assert_eq!(tree.sizes(&Sizing::default()).bits(""), 96 + 3 + 64);
        let listed = Sizing::at_most(8).with_special(["a.flag"], 16);
        assert_eq!(tree.sizes(&listed).bits("a"), 24 + 48);
        assert_eq!((sizes.bits("none"), sizes.bytes("")), (0, 3));
    }
}
