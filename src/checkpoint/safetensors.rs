//! The header of one safetensors file, read strictly.
//!
//! Owns what a header may say and that its ranges cover the data exactly once; touches no file but to read
//! the header's bytes, and never a weight. Stricter than the `safetensors` crate where that one lets two
//! readers disagree: a key twice, an unknown field, text before the brace, 65 dimensions. No input can make
//! it panic or allocate more than the file holds.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::json::{Faults, Whole};
use super::limits::{Left, Limits};
use crate::error::{Disguise, HeaderFault};
use crate::tensor::{Dtype, MAX_NAME_LEN, MAX_RANK, TensorName, byte_len};

/// Longest header accepted, in bytes: the limit of the `safetensors` crate, so that what it writes is read.
pub const MAX_HEADER_LEN: u64 = 100_000_000;

/// Bytes before the header: its length, a little-endian u64.
pub const PREFIX_LEN: u64 = 8;

/// Bytes that an entry of `__metadata__` takes in memory beside its text, more or less.
const METADATA_LEN: u64 = 128;

/// Bytes that are read to find out what a file is that is not safetensors.
const SNIFF_LEN: usize = 512;

/// What one header says, checked against the file's length.
#[derive(Debug)]
pub struct Header {
    /// The tensors, sorted by name.
    pub tensors: Vec<HeaderTensor>,
    /// `__metadata__`; empty where the header has none, or `null`.
    pub metadata: BTreeMap<String, String>,
    /// Where the data starts, in bytes from the start of the file.
    pub data_start: u64,
}

/// One tensor of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderTensor {
    /// Its name.
    pub name: TensorName,
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions, outermost first; empty for a 0-d tensor.
    pub shape: Vec<u64>,
    /// Its first byte, from the start of the data.
    pub start: u64,
    /// The first byte after it.
    pub end: u64,
}

/// A read that failed: in the system, or on what was read.
#[derive(Debug)]
pub(super) enum ReadFault {
    Io(io::Error),
    Header(HeaderFault),
}

impl From<HeaderFault> for ReadFault {
    fn from(fault: HeaderFault) -> Self {
        Self::Header(fault)
    }
}

/// Reads and checks the header of `file`, which is `file_len` bytes long. `left`: what the checkpoint may still hold.
pub(super) fn read_header(file: &File, file_len: u64, left: &mut Left) -> Result<Header, ReadFault> {
    let mut prefix = [0; PREFIX_LEN as usize];
    if file_len < PREFIX_LEN {
        return Err(sniff(file, file_len).unwrap_or(HeaderFault::TooShort { len: file_len }).into());
    }
    file.read_exact_at(&mut prefix, 0).map_err(ReadFault::Io)?;
    let len = u64::from_le_bytes(prefix);
    let header_len = match header_len(len, file_len) {
        Ok(len) => len,
        Err(fault) => return Err(sniff(file, file_len).unwrap_or(fault).into()),
    };
    left.take_text(len).map_err(HeaderFault::from)?;
    let mut text = vec![0; header_len];
    file.read_exact_at(&mut text, PREFIX_LEN).map_err(ReadFault::Io)?;
    let data_start = PREFIX_LEN + len;
    Ok(parse_within(&text, file_len - data_start, left)?)
}

/// Bytes of the head of a file of `file_len` bytes that begins with `prefix`: of the length and the header.
///
/// # Errors
/// The fault in the length.
pub fn head_len(prefix: [u8; PREFIX_LEN as usize], file_len: u64) -> Result<u64, HeaderFault> {
    header_len(u64::from_le_bytes(prefix), file_len).map(|len| PREFIX_LEN + len as u64)
}

/// The header in `head`, the first bytes of a file of `file_len` bytes.
pub(super) fn parse_head(head: &[u8], file_len: u64, left: &mut Left) -> Result<Header, HeaderFault> {
    let too_short = HeaderFault::TooShort { len: head.len() as u64 };
    let Some((prefix, text)) = head.split_first_chunk() else { return Err(too_short) };
    let len = header_len(u64::from_le_bytes(*prefix), file_len)?;
    if text.len() != len {
        return Err(too_short);
    }
    left.take_text(len as u64)?;
    parse_within(text, file_len - head.len() as u64, left)
}

/// Checks the length in a file's first eight bytes, before anything is allocated.
fn header_len(len: u64, file_len: u64) -> Result<usize, HeaderFault> {
    let out_of_range = HeaderFault::HeaderLen { len, limit: MAX_HEADER_LEN };
    if !(2..=MAX_HEADER_LEN).contains(&len) {
        return Err(out_of_range);
    }
    let held = file_len.saturating_sub(PREFIX_LEN);
    if len > held {
        return Err(HeaderFault::HeaderCutOff { header_len: len, missing: len - held });
    }
    usize::try_from(len).map_err(|_| out_of_range)
}

/// Parses the header `text` (without the eight bytes before it) of a file with `data_len` bytes of data.
///
/// The tensors' ranges must cover the data exactly once, in any order; a zero-size tensor may be at any
/// border. Bytes that no tensor covers could hide a second file, and two tensors on one range let a small
/// file claim endless memory.
///
/// # Errors
/// The first fault found: in the text, then in an entry, then between entries, then in the data's length.
pub fn parse(text: &[u8], data_len: u64) -> Result<Header, HeaderFault> {
    parse_within(text, data_len, &mut Left::of(Limits::default()))
}

fn parse_within(text: &[u8], data_len: u64, left: &mut Left) -> Result<Header, HeaderFault> {
    let header_len = text.len() as u64;
    let text = std::str::from_utf8(text).map_err(|source| HeaderFault::NotUtf8 { source })?;
    if !text.starts_with('{') {
        return Err(HeaderFault::NotAnObject { found: text.chars().next() });
    }
    let faults = Faults::new();
    let mut json = serde_json::Deserializer::from_str(text.trim_end_matches(' '));
    let Raw { mut tensors, metadata } = HeaderSeed(&faults, &RefCell::new(left))
        .deserialize(&mut json)
        .map_err(|source| match (faults.take(), faults.take_entry()) {
            (Some(fault), _) => fault,
            (None, Some(entry)) if source.is_data() => HeaderFault::WrongType { entry, source },
            (None, _) => HeaderFault::Json { source },
        })?;
    json.end().map_err(|_| HeaderFault::TrailingText)?;
    if !text.trim_end_matches(' ').ends_with('}') {
        return Err(HeaderFault::TrailingText);
    }

    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    for pair in tensors.windows(2) {
        if let [a, b] = pair
            && a.name == b.name
        {
            return Err(HeaderFault::DuplicateKey { key: a.name.to_string() });
        }
    }
    for tensor in &tensors {
        check_size(tensor)?;
    }
    check_cover(&tensors, data_len)?;
    Ok(Header { tensors, metadata: metadata.unwrap_or_default(), data_start: PREFIX_LEN + header_len })
}

/// The range of one tensor must be as long as its shape and type need.
fn check_size(tensor: &HeaderTensor) -> Result<(), HeaderFault> {
    let name = || tensor.name.to_string();
    let &HeaderTensor { start, end, dtype, .. } = tensor;
    let needed = byte_len(dtype, &tensor.shape)
        .ok_or_else(|| HeaderFault::ShapeTooLarge { tensor: name(), shape: tensor.shape.clone() })?;
    let found =
        end.checked_sub(start).ok_or_else(|| HeaderFault::EndBeforeStart { tensor: name(), start, end })?;
    if found != needed {
        return Err(HeaderFault::SizeMismatch {
            tensor: name(),
            dtype: dtype.to_string(),
            shape: tensor.shape.clone(),
            needed,
            found,
        });
    }
    Ok(())
}

/// The ranges, sorted, must follow each other without a gap from 0 to `data_len`.
fn check_cover(tensors: &[HeaderTensor], data_len: u64) -> Result<(), HeaderFault> {
    let mut sorted: Vec<&HeaderTensor> = tensors.iter().collect();
    sorted.sort_by_key(|tensor| (tensor.start, tensor.end));
    let mut covered = 0;
    let mut last: Option<&HeaderTensor> = None;
    for tensor in sorted {
        if tensor.start > covered {
            return Err(HeaderFault::Hole {
                start: covered,
                end: tensor.start,
                before: tensor.name.to_string(),
            });
        }
        if tensor.start < covered {
            return Err(HeaderFault::Overlap {
                first: last.map_or_else(String::new, |last| last.name.to_string()),
                second: tensor.name.to_string(),
                first_end: covered,
                second_start: tensor.start,
            });
        }
        covered = tensor.end;
        last = Some(tensor);
    }
    if covered > data_len {
        return Err(HeaderFault::MissingBytes { missing: covered - data_len, described: covered });
    }
    if covered < data_len {
        return Err(HeaderFault::ExtraBytes { extra: data_len - covered, described: covered });
    }
    Ok(())
}

/// Finds by its first bytes what a file is that cannot be safetensors. `None` for a file that cannot be read.
fn sniff(file: &File, file_len: u64) -> Option<HeaderFault> {
    let mut start = vec![0; usize::try_from(file_len).unwrap_or(SNIFF_LEN).min(SNIFF_LEN)];
    file.read_exact_at(&mut start, 0).ok()?;
    disguise(&start).map(HeaderFault::OtherKind)
}

pub(super) fn disguise(start: &[u8]) -> Option<Disguise> {
    let text = start.trim_ascii_start();
    let begins = |word: &[u8]| text.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word));
    match start {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(Disguise::Zip),
        [b'G', b'G', b'U', b'F', ..] => Some(Disguise::Gguf),
        // PROTO n: every pickle since protocol 2 begins so.
        [0x80, 2..=5, ..] => Some(Disguise::Pickle),
        _ if start.get(257..262) == Some(b"ustar") => Some(Disguise::Tar),
        _ if start.starts_with(b"version https://git-lfs") => Some(Disguise::LfsPointer),
        _ if begins(b"<!doctype html") || begins(b"<html") => Some(Disguise::Html),
        _ if begins(b"<?xml") => Some(Disguise::Xml),
        _ if begins(b"{") => Some(Disguise::Json),
        _ if is_onnx(start) => Some(Disguise::Onnx),
        _ if is_ctranslate2(start) => Some(Disguise::CTranslate2),
        _ => None,
    }
}

/// A protobuf message: the version of ONNX (field 1), then the program that wrote it as text (field 2). Bytes 4 to 7 of
/// a safetensors file are zero.
fn is_onnx(start: &[u8]) -> bool {
    let [8, 1..=63, 0x12, len @ 1..=127, rest @ ..] = start else { return false };
    rest.get(..usize::from(*len)).is_some_and(|writer| writer.iter().all(u8::is_ascii_graphic))
}

/// The version of the format in four bytes, then the length of a specification's name in two, and the name, which ends
/// in a zero.
fn is_ctranslate2(start: &[u8]) -> bool {
    let [1..=63, 0, 0, 0, len @ 2..=127, 0, rest @ ..] = start else { return false };
    let name = rest.get(..usize::from(*len)).and_then(<[u8]>::split_last);
    name.is_some_and(|(end, name)| *end == 0 && name.iter().all(u8::is_ascii_alphanumeric))
}

/// A header as written, before its entries are compared with each other.
struct Raw {
    tensors: Vec<HeaderTensor>,
    metadata: Option<BTreeMap<String, String>>,
}

struct HeaderSeed<'a, 'b>(&'a Faults<HeaderFault>, &'a RefCell<&'b mut Left>);

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_, '_> {
    type Value = Raw;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_, '_> {
    type Value = Raw;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut tensors = Vec::new();
        let mut metadata = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == "__metadata__" {
                if metadata.is_some() {
                    return Err(self.0.stop(HeaderFault::DuplicateKey { key }));
                }
                let value = map.next_value_seed(MetadataSeed(self.0, self.1));
                metadata = Some(value.inspect_err(|_| self.0.within(&key))?);
                continue;
            }
            let Some(name) = TensorName::new(key.as_str()) else {
                return Err(self.0.stop(HeaderFault::BadName { name: key, limit: MAX_NAME_LEN }));
            };
            self.1.borrow_mut().take_tensor().map_err(|over| self.0.stop(over.into()))?;
            let tensor = map.next_value_seed(TensorSeed { faults: self.0, name });
            tensors.push(tensor.inspect_err(|_| self.0.within(&key))?);
        }
        Ok(Raw { tensors, metadata: metadata.flatten() })
    }
}

/// `__metadata__`: null, or an object of strings.
struct MetadataSeed<'a, 'b>(&'a Faults<HeaderFault>, &'a RefCell<&'b mut Left>);

impl<'de> DeserializeSeed<'de> for MetadataSeed<'_, '_> {
    type Value = Option<BTreeMap<String, String>>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed<'_, '_> {
    type Value = Option<BTreeMap<String, String>>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if entries.contains_key(&key) {
                return Err(self.0.stop(HeaderFault::DuplicateKey { key: format!("__metadata__.{key}") }));
            }
            let value = map.next_value::<String>()?;
            self.1.borrow_mut().take_text(METADATA_LEN).map_err(|over| self.0.stop(over.into()))?;
            entries.insert(key, value);
        }
        Ok(Some(entries))
    }
}

/// One tensor's entry.
struct TensorSeed<'a> {
    faults: &'a Faults<HeaderFault>,
    name: TensorName,
}

impl<'de> DeserializeSeed<'de> for TensorSeed<'_> {
    type Value = HeaderTensor;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<HeaderTensor, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TensorSeed<'_> {
    type Value = HeaderTensor;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `dtype`, `shape` and `data_offsets`")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderTensor, A::Error> {
        let Self { faults, name } = self;
        let (mut dtype, mut shape, mut range) = (None, None, None);
        let twice =
            |field| faults.stop::<A::Error>(HeaderFault::DuplicateField { tensor: name.to_string(), field });
        while let Some(field) = map.next_key::<String>()? {
            match field.as_str() {
                "dtype" if dtype.is_some() => return Err(twice("dtype")),
                "dtype" => dtype = Some(read_dtype(&map.next_value::<String>()?, &name, faults)?),
                "shape" if shape.is_some() => return Err(twice("shape")),
                "shape" => shape = Some(map.next_value_seed(ShapeSeed { faults, name: &name })?),
                "data_offsets" if range.is_some() => return Err(twice("data_offsets")),
                "data_offsets" => range = Some(map.next_value_seed(RangeSeed { faults, name: &name })?),
                _ => {
                    return Err(faults.stop(HeaderFault::UnknownField { tensor: name.to_string(), field }));
                }
            }
        }
        let missing =
            |field| faults.stop::<A::Error>(HeaderFault::MissingField { tensor: name.to_string(), field });
        let dtype = dtype.ok_or_else(|| missing("dtype"))?;
        let shape = shape.ok_or_else(|| missing("shape"))?;
        let (start, end) = range.ok_or_else(|| missing("data_offsets"))?;
        Ok(HeaderTensor { name, dtype, shape, start, end })
    }
}

fn read_dtype<E: serde::de::Error>(
    text: &str,
    name: &TensorName,
    faults: &Faults<HeaderFault>,
) -> Result<Dtype, E> {
    let tensor = || name.to_string();
    let parsed: Result<Dtype, serde::de::value::Error> =
        Dtype::deserialize(serde::de::value::StrDeserializer::new(text));
    match parsed {
        Ok(dtype) if !dtype.bitsize().is_multiple_of(8) => {
            Err(faults.stop(HeaderFault::UnsupportedDtype { tensor: tensor(), dtype: dtype.to_string() }))
        }
        Ok(dtype) => Ok(dtype),
        Err(_) => Err(faults.stop(HeaderFault::UnknownDtype { tensor: tensor(), dtype: text.to_owned() })),
    }
}

/// At most [`MAX_RANK`] dimensions; stops at the first one too many, so a long list costs nothing.
struct ShapeSeed<'a> {
    faults: &'a Faults<HeaderFault>,
    name: &'a TensorName,
}

impl<'de> DeserializeSeed<'de> for ShapeSeed<'_> {
    type Value = Vec<u64>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<u64>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ShapeSeed<'_> {
    type Value = Vec<u64>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of dimensions")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u64>, A::Error> {
        let mut shape = Vec::new();
        while let Some(dim) = seq.next_element_seed(Whole)? {
            if shape.len() == MAX_RANK {
                let fault = HeaderFault::RankTooLarge { tensor: self.name.to_string(), limit: MAX_RANK };
                return Err(self.faults.stop(fault));
            }
            shape.push(dim);
        }
        Ok(shape)
    }
}

/// Exactly two offsets.
struct RangeSeed<'a> {
    faults: &'a Faults<HeaderFault>,
    name: &'a TensorName,
}

impl<'de> DeserializeSeed<'de> for RangeSeed<'_> {
    type Value = (u64, u64);
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(u64, u64), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for RangeSeed<'_> {
    type Value = (u64, u64);
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of two offsets")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(u64, u64), A::Error> {
        let wrong = |found| {
            self.faults.stop::<A::Error>(HeaderFault::OffsetCount { tensor: self.name.to_string(), found })
        };
        let start = seq.next_element_seed(Whole)?.ok_or_else(|| wrong(0))?;
        let end = seq.next_element_seed(Whole)?.ok_or_else(|| wrong(1))?;
        match seq.next_element::<IgnoredAny>()? {
            None => Ok((start, end)),
            Some(_) => Err(wrong(3)),
        }
    }
}
