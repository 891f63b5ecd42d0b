//! Torch files before the zip form (torch 1.5 and earlier, and `_use_new_zipfile_serialization=False`).
//!
//! Five pickles one after the other: a magic number, a version, the system, the state dict, the storages' keys.
//! Then, in the order of the keys, each storage: its number of elements in eight bytes and its elements. Always
//! little-endian. There is no CRC. Source: `_legacy_save` and `_legacy_load` in torch/serialization.py.

use std::collections::HashMap;

use super::objects::{Arena, Object, StorageRef, Value};
use super::pickle::{self, MAX_PICKLE_LEN, Pickle};
use super::storage::TorchStorage;
use super::{ReadAt, TorchFile, TorchReadFault, join, width_of};
use crate::checkpoint::limits::Left;
use crate::error::TorchFault;

/// The first pickle's number, 0x1950a86a20f9469cfc6c, as LONG1 has it.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The second pickle's number.
const VERSION: i64 = 1001;

/// Bytes read first; most checkpoints' pickles fit.
const FIRST_LEN: u64 = 1 << 20;

/// Reads the metadata of a legacy file.
pub(super) fn open(file: &dyn ReadAt, file_len: u64, left: &mut Left) -> Result<TorchFile, TorchReadFault> {
    let limit = MAX_PICKLE_LEN.min(left.text());
    let mut len = FIRST_LEN.min(limit);
    loop {
        let mut text = vec![0; file_len.min(len) as usize];
        file.read_exact_at(&mut text, 0)?;
        match read_pickles(&text) {
            // Cut off by what was read, not by the file's end: once more with all that may be read.
            Err(TorchFault::PickleCutOff) if len < file_len && len < limit => len = limit,
            Err(TorchFault::PickleCutOff) if len < file_len => {
                left.take_text(MAX_PICKLE_LEN).map_err(TorchFault::from)?;
                return Err(TorchFault::TooLarge {
                    what: "the pickle",
                    len: file_len,
                    limit: MAX_PICKLE_LEN,
                }
                .into());
            }
            Err(fault) => return Err(fault.into()),
            Ok((state, keys, end)) => {
                left.take_text(end).map_err(TorchFault::from)?;
                let storages = read_storages(file, file_len, &state.arena, &keys, end)?;
                return Ok(join(&state, left, |told| find(&storages, told))?);
            }
        }
    }
}

/// The state dict's pickle, the keys of the storages in order, and where the first storage begins.
fn read_pickles(text: &[u8]) -> Result<(Pickle, Vec<String>, u64), TorchFault> {
    let mut at = 0;
    let mut next = || -> Result<Pickle, TorchFault> {
        let pickle = pickle::read(text.get(at..).unwrap_or_default())?;
        at += pickle.len;
        Ok(pickle)
    };
    let magic = next()?;
    if !matches!(magic.arena.get(magic.root), Some(Object::Big(number)) if **number == MAGIC) {
        return Err(TorchFault::LegacyHead { what: "it does not begin with torch's magic number" });
    }
    if next()?.root != Value::Int(VERSION) {
        return Err(TorchFault::LegacyHead { what: "its version is not 1001" });
    }
    let system = next()?;
    let little = system.arena.dict(system.root).and_then(|pairs| {
        let named = |(key, _): &&(Value, Value)| system.arena.text(*key) == Some("little_endian");
        pairs.iter().find(named).map(|(_, value)| *value)
    });
    if little != Some(Value::Bool(true)) {
        return Err(TorchFault::LegacyHead { what: "it was not written on a little-endian system" });
    }
    let state = next()?;
    let keys = next()?;
    let Some(Object::List(items)) = keys.arena.get(keys.root) else {
        return Err(TorchFault::LegacyHead { what: "its list of storages is no list" });
    };
    let text = |item: &Value| keys.arena.text(*item).map(str::to_owned);
    let keys = items.iter().map(text).collect::<Option<Vec<_>>>();
    let keys = keys.ok_or(TorchFault::LegacyHead { what: "a storage's key is no text" })?;
    Ok((state, keys, at as u64))
}

type Found = HashMap<String, (u64, u64)>;

/// Walks over the storages; they must end with the file. Gives where each begins and its length in bytes.
fn read_storages(
    file: &dyn ReadAt,
    file_len: u64,
    arena: &Arena,
    keys: &[String],
    mut at: u64,
) -> Result<Found, TorchReadFault> {
    // The length before a storage counts elements; only the state dict has their type.
    let mut widths: HashMap<&str, u64> = HashMap::new();
    for storage in arena.storages() {
        widths.insert(&storage.key, width_of(storage.kind));
    }
    let mut found = Found::new();
    for key in keys {
        let fault = |what| TorchReadFault::from(TorchFault::LegacyStorage { key: key.clone(), what });
        let width = *widths.get(key.as_str()).ok_or_else(|| fault("no tensor names it"))?;
        if at.checked_add(8).is_none_or(|start| start > file_len) {
            return Err(fault("the file ends before it"));
        }
        let mut head = [0; 8];
        file.read_exact_at(&mut head, at)?;
        at += 8;
        let len = u64::from_le_bytes(head).checked_mul(width);
        let end = len.and_then(|len| at.checked_add(len)).filter(|end| *end <= file_len);
        let end = end.ok_or_else(|| fault("the file ends inside it"))?;
        if found.insert(key.clone(), (at, end - at)).is_some() {
            return Err(fault("it is listed twice"));
        }
        at = end;
    }
    if at == file_len { Ok(found) } else { Err(TorchFault::AfterStorages { extra: file_len - at }.into()) }
}

fn find(storages: &Found, told: &StorageRef) -> Result<TorchStorage, TorchFault> {
    let key = told.key.to_string();
    let Some(&(offset, len)) = storages.get(&key) else { return Err(TorchFault::StorageMissing { key }) };
    Ok(TorchStorage::stored(key, offset, len))
}
