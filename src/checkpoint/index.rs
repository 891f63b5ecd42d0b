//! `model.safetensors.index.json` and `pytorch_model.bin.index.json`: which shard holds which tensor.
//!
//! Owns the index's text and the rules for shard names. Opens no file; whether the shards hold what it
//! says is for the folder's owner. `metadata` is for people: a wrong `total_size` is worth a notice and is
//! never used as a size.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::json::{Faults, Kept, Unique};
use super::limits::{Left, Limits};
use crate::error::{IndexFault, ShardNameRule};
use crate::tensor::{MAX_NAME_LEN, TensorName};

/// Name of the index of safetensors files in a checkpoint's folder.
pub const INDEX_NAME: &str = "model.safetensors.index.json";

/// Name of the index of torch files.
pub const TORCH_INDEX_NAME: &str = "pytorch_model.bin.index.json";

/// Longest index accepted, in bytes. The largest public ones (100,000 tensors) have 10 MB.
pub const MAX_INDEX_LEN: u64 = 64 << 20;

/// Longest part of a path, in bytes: that of every common file system.
const MAX_PART_LEN: usize = 255;

/// What one index says.
#[derive(Debug, PartialEq)]
pub struct Index {
    /// The entries of `weight_map`, sorted by tensor name; at least one.
    pub entries: Vec<IndexEntry>,
    /// `metadata.total_size`.
    pub total_size: TotalSize,
}

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The tensor.
    pub name: TensorName,
    /// The shard: a plain relative path with `/`, checked.
    pub shard: String,
}

/// Which files an index lists; they end in its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardKind {
    /// `.safetensors`.
    Safetensors,
    /// `.bin`.
    Torch,
}

/// What an index says about the bytes of all tensors. Nothing is allocated from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TotalSize {
    /// Nothing.
    Absent,
    /// A whole number of bytes. Old writers put `1.0e9`; that counts.
    Bytes(u64),
    /// Something that is no number of bytes.
    NotANumber,
}

impl Index {
    /// The shards named, sorted, each once.
    pub fn shards(&self) -> Vec<&str> {
        let mut shards: Vec<&str> = self.entries.iter().map(|entry| entry.shard.as_str()).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }
}

/// Parses the text of an index.
///
/// Keys beside `metadata` and `weight_map` are let pass, for real indexes have them; a key twice is
/// refused at every level.
///
/// # Errors
/// The first fault found.
pub fn parse(text: &[u8], listed: ShardKind) -> Result<Index, IndexFault> {
    parse_within(text, listed, Limits::default())
}

pub(super) fn parse_within(text: &[u8], listed: ShardKind, limits: Limits) -> Result<Index, IndexFault> {
    let text = std::str::from_utf8(text).map_err(|source| IndexFault::NotUtf8 { source })?;
    let faults = Faults::new();
    let mut json = serde_json::Deserializer::from_str(text);
    let raw = IndexSeed(&faults, limits)
        .deserialize(&mut json)
        .and_then(|raw| json.end().map(|()| raw))
        .map_err(|source| match faults.take() {
            Some(fault) => fault,
            None if source.is_data() => IndexFault::WrongType { source },
            None => IndexFault::Json { source },
        })?;
    let weight_map = raw.weight_map.ok_or(IndexFault::NoWeightMap)?;
    if weight_map.is_empty() {
        return Err(IndexFault::Empty);
    }
    let mut entries = Vec::with_capacity(weight_map.len());
    for (name, shard) in weight_map {
        let Some(name) = TensorName::new(name.as_str()) else {
            return Err(IndexFault::BadTensorName { name, limit: MAX_NAME_LEN });
        };
        if let Err(rule) = check_shard_name(&shard, listed) {
            return Err(IndexFault::BadShardName { tensor: name.to_string(), shard, rule });
        }
        entries.push(IndexEntry { name, shard });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    for pair in entries.windows(2) {
        if let [a, b] = pair
            && a.name == b.name
        {
            return Err(IndexFault::DuplicateKey { key: a.name.to_string() });
        }
    }
    Ok(Index { entries, total_size: raw.total_size })
}

/// Checks that `name` is a plain path below the checkpoint, on Windows too: `C:x` and `..\x` are refused
/// everywhere. The rule is huggingface_hub's (`PureWindowsPath`, no drive, root or `..`), and backslashes
/// are refused besides, for they mean two things.
pub fn check_shard_name(name: &str, listed: ShardKind) -> Result<(), ShardNameRule> {
    let separator = |c| c == '/' || c == '\\';
    if name.is_empty() {
        return Err(ShardNameRule::Empty);
    }
    if name.chars().any(char::is_control) {
        return Err(ShardNameRule::ControlCharacter);
    }
    if name.starts_with(separator) {
        return Err(ShardNameRule::Rooted);
    }
    if name.contains(':') {
        return Err(ShardNameRule::Drive);
    }
    if name.split(separator).any(|part| part == "..") {
        return Err(ShardNameRule::ParentFolder);
    }
    if name.contains('\\') {
        return Err(ShardNameRule::Backslash);
    }
    if name.split('/').any(|part| part.is_empty() || part == ".") {
        return Err(ShardNameRule::OddPart);
    }
    if name.split('/').any(|part| part.len() > MAX_PART_LEN) {
        return Err(ShardNameRule::TooLong);
    }
    match listed {
        ShardKind::Safetensors if !name.ends_with(".safetensors") => Err(ShardNameRule::Extension),
        ShardKind::Torch if !name.ends_with(".bin") => Err(ShardNameRule::BinExtension),
        ShardKind::Safetensors | ShardKind::Torch => Ok(()),
    }
}

/// An index as written.
struct Raw {
    weight_map: Option<Vec<(String, String)>>,
    total_size: TotalSize,
}

struct IndexSeed<'a>(&'a Faults<IndexFault>, Limits);

impl<'de> DeserializeSeed<'de> for IndexSeed<'_> {
    type Value = Raw;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for IndexSeed<'_> {
    type Value = Raw;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `weight_map`")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut raw = Raw { weight_map: None, total_size: TotalSize::Absent };
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if seen.contains(&key) {
                return Err(self.0.stop(IndexFault::DuplicateKey { key }));
            }
            match key.as_str() {
                "weight_map" => {
                    raw.weight_map = Some(map.next_value_seed(PairsSeed(self.0, Left::of(self.1)))?)
                }
                "metadata" => raw.total_size = map.next_value_seed(MetadataSeed(self.0))?,
                _ => {
                    map.next_value_seed(unique(self.0))?;
                }
            }
            seen.insert(key);
        }
        Ok(raw)
    }
}

/// `weight_map`: an object of strings, in the order written, doubles included.
struct PairsSeed<'a>(&'a Faults<IndexFault>, Left);

impl<'de> DeserializeSeed<'de> for PairsSeed<'_> {
    type Value = Vec<(String, String)>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for PairsSeed<'_> {
    type Value = Vec<(String, String)>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of shard names")
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            self.1.take_tensor().map_err(|over| self.0.stop(over.into()))?;
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

/// `metadata`: an object of anything, or null.
struct MetadataSeed<'a>(&'a Faults<IndexFault>);

impl<'de> DeserializeSeed<'de> for MetadataSeed<'_> {
    type Value = TotalSize;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<TotalSize, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed<'_> {
    type Value = TotalSize;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_unit<E>(self) -> Result<TotalSize, E> {
        Ok(TotalSize::Absent)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TotalSize, A::Error> {
        let mut total = TotalSize::Absent;
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(unique(self.0))?;
            if seen.contains(&key) {
                return Err(self.0.stop(IndexFault::DuplicateKey { key }));
            }
            if key == "total_size" {
                total = to_total(value);
            }
            seen.insert(key);
        }
        Ok(total)
    }
}

fn unique(faults: &Faults<IndexFault>) -> Unique<'_, IndexFault> {
    Unique { faults, report: |key| IndexFault::DuplicateKey { key } }
}

fn to_total(value: Kept) -> TotalSize {
    /// Above this an f64 may not be the whole number that was written.
    const EXACT: f64 = (1u64 << 53) as f64;
    match value {
        Kept::Whole(bytes) => TotalSize::Bytes(bytes),
        Kept::Number(number) if (0.0..=EXACT).contains(&number) && number.fract() == 0.0 => {
            TotalSize::Bytes(number as u64)
        }
        Kept::Number(_) | Kept::Other => TotalSize::NotANumber,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_shard_names_as_windows_paths_on_every_system() {
        use ShardNameRule::*;
        let cases = [
            ("model-00001-of-00002.safetensors", Ok(())),
            ("part/x.safetensors", Ok(())),
            ("a..b.safetensors", Ok(())),
            ("", Err(Empty)),
            ("../x.safetensors", Err(ParentFolder)),
            ("a/../x.safetensors", Err(ParentFolder)),
            ("..\\x.safetensors", Err(ParentFolder)),
            ("/x.safetensors", Err(Rooted)),
            ("\\x.safetensors", Err(Rooted)),
            ("\\\\host\\share\\x.safetensors", Err(Rooted)),
            ("C:\\x.safetensors", Err(Drive)),
            ("C:x.safetensors", Err(Drive)),
            ("x.safetensors:y.safetensors", Err(Drive)),
            ("a\\x.safetensors", Err(Backslash)),
            ("./x.safetensors", Err(OddPart)),
            ("a//x.safetensors", Err(OddPart)),
            ("a\n.safetensors", Err(ControlCharacter)),
            ("x.bin", Err(Extension)),
            ("x.safetensors/", Err(OddPart)),
            ("x.SAFETENSORS", Err(Extension)),
        ];
        let long = format!("{}.safetensors", "x".repeat(244));
        assert_eq!(check_shard_name("pytorch_model-00001-of-00002.bin", ShardKind::Torch), Ok(()));
        assert_eq!(check_shard_name("x.safetensors", ShardKind::Torch), Err(BinExtension));
        for (name, wanted) in cases.into_iter().chain([(long.as_str(), Err(TooLong)), (&long[1..], Ok(()))]) {
            assert_eq!(check_shard_name(name, ShardKind::Safetensors), wanted, "{name:?}");
        }
    }

    #[test]
    fn takes_a_total_size_only_where_it_is_a_number_of_bytes() {
        let total = |text: &str| {
            let json =
                format!(r#"{{"metadata":{{"total_size":{text}}},"weight_map":{{"a":"m.safetensors"}}}}"#);
            parse(json.as_bytes(), ShardKind::Safetensors).expect("a sound index").total_size
        };
        assert_eq!(total("12"), TotalSize::Bytes(12));
        assert_eq!(total("1.2e1"), TotalSize::Bytes(12));
        assert_eq!(total("18446744073709551615"), TotalSize::Bytes(u64::MAX));
        for text in ["-1", "1.5", "1e300", "\"12\"", "null", "{}"] {
            assert_eq!(total(text), TotalSize::NotANumber, "{text}");
        }
    }
}
