//! Torch files of torch 0.1: a tar archive of `storages`, `tensors` and `pickle`. torch.load still reads them.
//!
//! `storages` holds pickles of key, place and type, each followed by a storage; then the list of views of
//! storages. `tensors` holds pickles of key, storage and type, each followed by rank, shape, strides and start.
//! `pickle` is the state dict, in which a persistent id is a tensor's key. Little-endian, without CRCs. Source:
//! `legacy_load` inside `_legacy_load` in torch/serialization.py.

use std::collections::HashMap;

use super::objects::{Element, Global, Object, StorageKind, StorageRef, TensorRef, Value};
use super::pickle::{self, MAX_PICKLE_LEN, Pickle};
use super::storage::TorchStorage;
use super::{ReadAt, TorchFile, TorchReadFault, join, width_of};
use crate::checkpoint::limits::Left;
use crate::error::TorchFault;
use crate::tensor::MAX_RANK;

/// Bytes of a header, and what members are padded to.
const BLOCK_LEN: u64 = 512;

/// Bytes read for a pickle between storages. Each is some sixty long; the lists have 30 an entry.
const SMALL_LEN: u64 = 4 << 20;

/// Most storages and tensors.
const MAX_ENTRIES: i64 = 100_000;

/// Reads the metadata of a tar file.
pub(super) fn open(file: &dyn ReadAt, file_len: u64, left: &mut Left) -> Result<TorchFile, TorchReadFault> {
    let members = read_members(file, file_len)?;
    let find = |name: &'static str| {
        members
            .get(name)
            .copied()
            .ok_or(TorchFault::LegacyHead { what: "it lacks `storages`, `tensors` or `pickle`" })
    };
    let (storages, tensors, text) = (find("storages")?, find("tensors")?, find("pickle")?);
    let storages = read_storages(file, storages)?;
    let tensors = read_tensors(file, tensors)?;
    let (start, end) = text;
    if end - start > MAX_PICKLE_LEN {
        let len = end - start;
        return Err(TorchFault::TooLarge { what: "the pickle", len, limit: MAX_PICKLE_LEN }.into());
    }
    left.take_text(end - start).map_err(TorchFault::from)?;
    let mut text = vec![0; (end - start) as usize];
    file.read_exact_at(&mut text, start)?;
    let mut state = pickle::read_with_keys(&text)?;
    if state.len != text.len() {
        return Err(TorchFault::AfterPickle { extra: (text.len() - state.len) as u64 }.into());
    }
    resolve(&mut state, &storages, &tensors)?;
    let found = |told: &StorageRef| match storages.get(told.key.as_ref()) {
        Some(held) => Ok(TorchStorage::stored(told.key.to_string(), held.offset, held.len)),
        None => Err(TorchFault::StorageMissing { key: told.key.to_string() }),
    };
    Ok(join(&state, left, found)?)
}

/// Where each member's bytes begin and end. Each name once; regular files only; nothing but zeros after them.
fn read_members(file: &dyn ReadAt, file_len: u64) -> Result<HashMap<String, (u64, u64)>, TorchReadFault> {
    let bad = |what| TorchReadFault::from(TorchFault::LegacyHead { what });
    let mut members = HashMap::new();
    let mut at = 0;
    while at + BLOCK_LEN <= file_len {
        let mut head = [0; BLOCK_LEN as usize];
        file.read_exact_at(&mut head, at)?;
        if head.iter().all(|byte| *byte == 0) {
            break;
        }
        let field = |from: usize, to: usize| {
            let text = head.get(from..to).unwrap_or_default();
            text.split(|byte| *byte == 0).next().unwrap_or_default()
        };
        let octal = |from, to| {
            let text = std::str::from_utf8(field(from, to)).ok()?;
            u64::from_str_radix(text.trim(), 8).ok()
        };
        let sum: u64 = head
            .iter()
            .enumerate()
            .map(|(place, byte)| if (148..156).contains(&place) { 32 } else { u64::from(*byte) })
            .sum();
        if octal(148, 156) != Some(sum) {
            return Err(bad("a header of the tar archive does not have its checksum"));
        }
        if !matches!(head.get(156), Some(0 | b'0')) {
            return Err(bad("the tar archive holds something else than files"));
        }
        let name = String::from_utf8_lossy(field(0, 100)).trim_start_matches("./").to_owned();
        let start = at + BLOCK_LEN;
        let end = octal(124, 136).and_then(|len| start.checked_add(len)).filter(|end| *end <= file_len);
        let end = end.ok_or_else(|| bad("the tar archive is cut off"))?;
        if members.len() >= 16 || members.insert(name, (start, end)).is_some() {
            return Err(bad("the tar archive holds a file twice, or too many"));
        }
        at = end.checked_next_multiple_of(BLOCK_LEN).ok_or_else(|| bad("the tar archive is cut off"))?;
    }
    Ok(members)
}

/// A storage, or a view of one.
struct Held {
    kind: StorageKind,
    /// Elements.
    count: u64,
    offset: u64,
    /// Bytes.
    len: u64,
}

fn read_storages(
    file: &dyn ReadAt,
    (mut at, end): (u64, u64),
) -> Result<HashMap<String, Held>, TorchReadFault> {
    let bad = |what| TorchReadFault::from(TorchFault::LegacyHead { what });
    let mut held: HashMap<String, Held> = HashMap::new();
    let count = count(&next(file, &mut at, end)?)?;
    for _ in 0..count {
        let head = next(file, &mut at, end)?;
        let (key, kind) = match head.arena.tuple(head.root) {
            Some(&[key, _, kind]) => (key_text(&head, key), head.arena.get(kind)),
            _ => (None, None),
        };
        let (Some(key), Some(Object::Global(Global::Storage(kind)))) = (key, kind) else {
            return Err(bad("a storage's head is not one"));
        };
        let count = read_number(file, &mut at, end)?;
        let len = count.checked_mul(width_of(*kind));
        let stop = len.and_then(|len| at.checked_add(len)).filter(|stop| *stop <= end);
        let (Some(len), Some(stop)) = (len, stop) else { return Err(bad("a storage is cut off")) };
        if held.insert(key, Held { kind: *kind, count, offset: at, len }).is_some() {
            return Err(bad("a storage is there twice"));
        }
        at = stop;
    }
    let views = next(file, &mut at, end)?;
    let Some(Object::List(items)) = views.arena.get(views.root) else {
        return Err(bad("its list of views is none"));
    };
    for item in items {
        let Some(&[key, root, Value::Int(start), Value::Int(count)]) = views.arena.tuple(*item) else {
            return Err(bad("a view of a storage is not one"));
        };
        let (key, root) = (key_text(&views, key), key_text(&views, root));
        let root = root.and_then(|root| held.get(&root));
        let view = root.and_then(|root| {
            let (start, count) = (u64::try_from(start).ok()?, u64::try_from(count).ok()?);
            let inside = start.checked_add(count)? <= root.count;
            let width = width_of(root.kind);
            inside.then(|| Held {
                kind: root.kind,
                count,
                offset: root.offset + start * width,
                len: count * width,
            })
        });
        let (Some(key), Some(view)) = (key, view) else {
            return Err(bad("a view of a storage is not inside it"));
        };
        if held.insert(key, view).is_some() {
            return Err(bad("a storage is there twice"));
        }
    }
    if at == end { Ok(held) } else { Err(bad("something follows the storages")) }
}

/// A tensor as `tensors` describes it.
struct Told {
    storage: String,
    start: u64,
    shape: Box<[u64]>,
    strides: Box<[u64]>,
}

fn read_tensors(
    file: &dyn ReadAt,
    (mut at, end): (u64, u64),
) -> Result<HashMap<String, Told>, TorchReadFault> {
    let bad = |what| TorchReadFault::from(TorchFault::LegacyHead { what });
    let mut tensors = HashMap::new();
    let count = count(&next(file, &mut at, end)?)?;
    for _ in 0..count {
        let head = next(file, &mut at, end)?;
        let keys = match head.arena.tuple(head.root) {
            Some(&[key, storage, _]) => key_text(&head, key).zip(key_text(&head, storage)),
            _ => None,
        };
        let (key, storage) = keys.ok_or_else(|| bad("a tensor's head is not one"))?;
        // Eight bytes, of which four are the rank.
        let rank = read_number(file, &mut at, end)? & 0xffff_ffff;
        if rank > MAX_RANK as u64 {
            return Err(TorchFault::Rank { limit: MAX_RANK }.into());
        }
        let mut numbers =
            || (0..rank).map(|_| read_number(file, &mut at, end)).collect::<Result<Box<[u64]>, _>>();
        let (shape, strides) = (numbers()?, numbers()?);
        let start = read_number(file, &mut at, end)?;
        if tensors.insert(key, Told { storage, start, shape, strides }).is_some() {
            return Err(bad("a tensor is there twice"));
        }
    }
    if at == end { Ok(tensors) } else { Err(bad("something follows the tensors")) }
}

/// Puts the tensors where the state dict has their keys.
fn resolve(
    state: &mut Pickle,
    storages: &HashMap<String, Held>,
    tensors: &HashMap<String, Told>,
) -> Result<(), TorchFault> {
    for number in state.arena.keys() {
        let Some(Object::Key(key)) = state.arena.get(number) else { continue };
        let missing = || TorchFault::StorageMissing { key: key.to_string() };
        let told = tensors.get(key.as_ref()).ok_or_else(missing)?;
        let held = storages.get(&told.storage).ok_or_else(missing)?;
        let StorageKind::Of(element) = held.kind else { return Err(missing()) };
        let element: Element = element;
        let storage =
            StorageRef { key: told.storage.as_str().into(), kind: held.kind, len: held.count, start: 0 };
        let (start, shape, strides) = (told.start, told.shape.clone(), told.strides.clone());
        let storage = state.arena.add(Object::Storage(Box::new(storage)))?;
        let tensor = TensorRef { storage, element, start, shape, strides };
        if let Some(object) = state.arena.get_mut(number) {
            *object = Object::Tensor(Box::new(tensor));
        }
    }
    Ok(())
}

/// The next pickle between `at` and `end`; `at` moves behind it.
fn next(file: &dyn ReadAt, at: &mut u64, end: u64) -> Result<Pickle, TorchReadFault> {
    let mut len = 4096;
    loop {
        let mut text = vec![0; (end - *at).min(len) as usize];
        file.read_exact_at(&mut text, *at)?;
        match pickle::read(&text) {
            Err(TorchFault::PickleCutOff) if len < SMALL_LEN && len < end - *at => len = SMALL_LEN,
            Err(fault) => return Err(fault.into()),
            Ok(pickle) => {
                *at += pickle.len as u64;
                return Ok(pickle);
            }
        }
    }
}

fn count(pickle: &Pickle) -> Result<i64, TorchFault> {
    match pickle.root {
        Value::Int(count @ 0..=MAX_ENTRIES) => Ok(count),
        _ => Err(TorchFault::LegacyHead { what: "it does not tell how many there are" }),
    }
}

/// A key, which is a number, as text.
fn key_text(pickle: &Pickle, key: Value) -> Option<String> {
    match key {
        Value::Int(key) => Some(key.to_string()),
        key => pickle.arena.text(key).map(str::to_owned),
    }
}

fn read_number(file: &dyn ReadAt, at: &mut u64, end: u64) -> Result<u64, TorchReadFault> {
    if end - *at < 8 {
        return Err(TorchFault::LegacyHead { what: "it is cut off" }.into());
    }
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, *at)?;
    *at += 8;
    Ok(u64::from_le_bytes(bytes))
}
