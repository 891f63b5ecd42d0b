//! A device, and the memory table: how many bytes each device may take.
//!
//! Owns the two words and their form in JSON. How people write a table is `device_map`'s, what real devices have is
//! `devices`'. Carries out formats/bundle.md, "Device map", for `map` and `memory.table`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};

use crate::size::gib;

/// A place for weights. Serializes as accelerate writes it: `0`, `1`, `"mps"`, `"cpu"`, `"disk"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// The accelerator of this number.
    Gpu(u32),
    /// Apple's accelerator; only accelerate's planner knows it.
    Mps,
    /// Host memory.
    Cpu,
    /// Files; only accelerate's planner uses it.
    Disk,
}

impl Device {
    /// The number of an accelerator.
    pub fn gpu(self) -> Option<u32> {
        match self {
            Device::Gpu(id) => Some(id),
            Device::Mps | Device::Cpu | Device::Disk => None,
        }
    }

    /// The word for the device in a map, except for accelerators, which are numbers.
    pub(crate) fn word(self) -> Option<&'static str> {
        match self {
            Device::Gpu(_) => None,
            Device::Mps => Some("mps"),
            Device::Cpu => Some("cpu"),
            Device::Disk => Some("disk"),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.word()) {
            (Device::Gpu(id), _) => write!(f, "gpu {id}"),
            (_, word) => f.write_str(word.unwrap_or_default()),
        }
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Device::Gpu(id) => serializer.serialize_u32(*id),
            other => serializer.serialize_str(other.word().unwrap_or_default()),
        }
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl de::Visitor<'_> for Word {
            type Value = Device;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a device number, \"mps\", \"cpu\" or \"disk\"")
            }
            fn visit_u64<E: de::Error>(self, id: u64) -> Result<Device, E> {
                u32::try_from(id).map(Device::Gpu).map_err(|_| E::custom("a device number is too large"))
            }
            // The keys of a JSON object are strings, also for accelerators.
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Device, E> {
                match word {
                    "mps" => Ok(Device::Mps),
                    "cpu" => Ok(Device::Cpu),
                    "disk" => Ok(Device::Disk),
                    id if id.bytes().all(|b| b.is_ascii_digit()) => id
                        .parse()
                        .map(Device::Gpu)
                        .map_err(|_| E::invalid_value(de::Unexpected::Str(id), &self)),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }
        }
        deserializer.deserialize_any(Word)
    }
}

/// Most devices in one table. Machines have up to 72; the limit stops `99999999x24GiB`.
pub const MAX_DEVICES: u32 = 128;

/// Bytes per device, accelerators first by number, then the host.
///
/// In JSON an object in that order, sizes in bytes: `{"0": 25769803776, "cpu": 68719476736}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryTable {
    entries: Vec<(Device, u64)>,
}

impl MemoryTable {
    /// A table of the given entries, sorted. `None` if a device occurs twice, or is the disk (which has no size).
    pub fn new(entries: impl IntoIterator<Item = (Device, u64)>) -> Option<Self> {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by_key(|&(device, _)| device);
        let twice = entries.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a == b));
        let disk = entries.iter().any(|&(device, _)| device == Device::Disk);
        (!twice && !disk).then_some(Self { entries })
    }

    /// The entries: accelerators by number, then the host.
    pub fn entries(&self) -> &[(Device, u64)] {
        &self.entries
    }

    /// The accelerators, by number.
    pub fn gpus(&self) -> impl DoubleEndedIterator<Item = (Device, u64)> {
        self.entries.iter().copied().filter(|(device, _)| device.gpu().is_some())
    }

    /// Bytes of `device`, if it is in the table.
    pub fn get(&self, device: Device) -> Option<u64> {
        self.entries.iter().find(|(entry, _)| *entry == device).map(|&(_, bytes)| bytes)
    }
}

impl fmt::Display for MemoryTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (device, bytes)) in self.entries.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{device} {}", gib(*bytes))?;
        }
        Ok(())
    }
}

impl Serialize for MemoryTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.entries.len()))?;
        for (device, bytes) in &self.entries {
            map.serialize_entry(device, bytes)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for MemoryTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> de::Visitor<'de> for Entries {
            type Value = Vec<(Device, u64)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of devices and bytes")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    if entries.len() > MAX_DEVICES as usize {
                        return Err(de::Error::custom("a memory table has at most 128 devices"));
                    }
                    entries.push(entry);
                }
                Ok(entries)
            }
        }
        let entries = deserializer.deserialize_map(Entries)?;
        Self::new(entries).ok_or_else(|| de::Error::custom("a device is there twice, or the disk has a size"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indexmap::IndexMap;

    #[test]
    fn devices_are_written_as_accelerate_writes_them() {
        let map: IndexMap<String, Device> =
            serde_json::from_str(r#"{"a":0,"b":"cpu","c":"disk","d":"mps"}"#).unwrap();
        assert_eq!(
            map.values().copied().collect::<Vec<_>>(),
            [Device::Gpu(0), Device::Cpu, Device::Disk, Device::Mps]
        );
        assert_eq!(serde_json::to_string(&map).unwrap(), r#"{"a":0,"b":"cpu","c":"disk","d":"mps"}"#);
        let keys: IndexMap<Device, u8> = [(Device::Gpu(3), 1), (Device::Cpu, 2)].into_iter().collect();
        let json = serde_json::to_string(&keys).unwrap();
        assert_eq!(json, r#"{"3":1,"cpu":2}"#);
        assert_eq!(serde_json::from_str::<IndexMap<Device, u8>>(&json).unwrap(), keys);
        assert!(serde_json::from_str::<Device>("\"tpu\"").is_err());
        assert!(serde_json::from_str::<Device>("\"\"").is_err());
    }

    #[test]
    fn survives_json() {
        let gpus = [(Device::Gpu(1), 24 << 30), (Device::Gpu(0), 24 << 30)];
        let table = MemoryTable::new([(Device::Cpu, 1 << 30)].into_iter().chain(gpus)).unwrap();
        let json = serde_json::to_string(&table).unwrap();
        assert_eq!(json, r#"{"0":25769803776,"1":25769803776,"cpu":1073741824}"#);
        assert_eq!(serde_json::from_str::<MemoryTable>(&json).unwrap(), table);
        assert!(serde_json::from_str::<MemoryTable>(r#"{"0":1,"0":2}"#).is_err());
    }
}
