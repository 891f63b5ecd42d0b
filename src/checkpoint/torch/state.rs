//! The state dict in a pickle: which of its dictionaries are the weights, chosen by rule.
//!
//! The root is the state dict where it holds tensors itself. Otherwise the first of [`WRAPPERS`] that it has is
//! looked into, and so on inward; what is beside it (optimizer, epoch) is not read, and a notice says so. A tensor
//! anywhere else inside the state dict is refused: weights must not get lost in silence.

use std::collections::HashSet;

use super::objects::{Arena, Object, Value};
use super::pickle::Pickle;
use crate::error::TorchFault;
use crate::tensor::{MAX_NAME_LEN, TensorName};

/// Keys under which trainers keep the state dict, in the order in which they are tried.
pub(super) const WRAPPERS: [&str; 4] = ["state_dict", "model", "module", "model_state_dict"];

/// Most wrappers inside each other.
const MAX_WRAPPERS: usize = 8;

/// Most values looked at for a stray tensor.
const MAX_LOOKS: usize = 1_000_000;

/// Most names kept for a notice.
const MAX_LEFT: usize = 8;

/// The tensors of a pickle, and what was passed over.
#[derive(Debug)]
pub(super) struct Chosen {
    /// Names and [`Object::Tensor`]s, in the order of the file.
    pub(super) tensors: Vec<(TensorName, Value)>,
    /// The keys that lead to the state dict, outermost first.
    pub(super) path: Vec<String>,
    /// Keys that are not read: the first of them.
    pub(super) left: Vec<String>,
}

/// Finds the state dict.
pub(super) fn choose(pickle: &Pickle) -> Result<Chosen, TorchFault> {
    let arena = &pickle.arena;
    let mut dict = arena.dict(pickle.root).ok_or(TorchFault::NotADict)?;
    let (mut path, mut left) = (Vec::new(), Vec::new());
    while !dict.iter().any(|(_, value)| is_tensor(arena, *value)) {
        let inner = WRAPPERS.iter().find_map(|wrapper| {
            let named = |(key, value): &(Value, Value)| {
                (arena.text(*key) == Some(wrapper)).then(|| arena.dict(*value)).flatten()
            };
            // The last of a key counts, as in Python; doubles are refused below.
            Some((*wrapper, dict.iter().rev().find_map(named)?))
        });
        let Some((wrapper, inner)) = inner.filter(|_| path.len() < MAX_WRAPPERS) else {
            let keys = dict.iter().filter_map(|(key, _)| arena.text(*key)).take(MAX_LEFT).map(str::to_owned);
            return Err(TorchFault::NoTensors { keys: keys.collect() });
        };
        check_keys(arena, dict)?;
        let others = dict.iter().filter_map(|(key, _)| arena.text(*key)).filter(|key| *key != wrapper);
        left.extend(others.map(str::to_owned).take(MAX_LEFT));
        path.push(wrapper.to_owned());
        dict = inner;
    }
    check_keys(arena, dict)?;
    let mut looks = 0;
    let mut tensors = Vec::with_capacity(dict.len());
    for &(key, value) in dict {
        let name = arena.text(key).ok_or(TorchFault::NotText)?;
        if is_tensor(arena, value) {
            let name = TensorName::new(name)
                .ok_or_else(|| TorchFault::BadName { name: name.to_owned(), limit: MAX_NAME_LEN })?;
            tensors.push((name, value));
        } else if holds_tensor(arena, value, &mut looks)? {
            return Err(TorchFault::StrayTensor { key: name.to_owned() });
        } else if left.len() < 2 * MAX_LEFT {
            left.push(name.to_owned());
        }
    }
    Ok(Chosen { tensors, path, left })
}

fn is_tensor(arena: &Arena, value: Value) -> bool {
    matches!(arena.get(value), Some(Object::Tensor(_)))
}

/// No key twice: the last would count in Python, and a scanner may have looked at the first.
fn check_keys(arena: &Arena, dict: &[(Value, Value)]) -> Result<(), TorchFault> {
    let mut seen = HashSet::with_capacity(dict.len());
    let twice = dict.iter().filter_map(|(key, _)| arena.text(*key)).find(|key| !seen.insert(*key));
    twice.map_or(Ok(()), |key| Err(TorchFault::DuplicateKey { key: key.to_owned() }))
}

/// Whether a tensor lies anywhere in a value. Objects are looked at once each, so cycles end.
fn holds_tensor(arena: &Arena, value: Value, looks: &mut usize) -> Result<bool, TorchFault> {
    let mut seen = HashSet::new();
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        *looks += 1;
        if *looks > MAX_LOOKS {
            return Err(TorchFault::PickleLimit {
                what: "values beside its tensors",
                limit: MAX_LOOKS as u64,
            });
        }
        let Value::Object(number) = value else { continue };
        if !seen.insert(number) {
            continue;
        }
        match arena.get(value) {
            Some(Object::Tensor(_)) => return Ok(true),
            Some(Object::Tuple(items)) => open.extend(items.iter().copied().filter(is_object)),
            Some(Object::List(items)) => open.extend(items.iter().copied().filter(is_object)),
            Some(Object::Dict(pairs)) => {
                open.extend(pairs.iter().flat_map(|(key, value)| [*key, *value]).filter(is_object));
            }
            _ => {}
        }
    }
    Ok(false)
}

fn is_object(value: &Value) -> bool {
    matches!(value, Value::Object(_))
}
