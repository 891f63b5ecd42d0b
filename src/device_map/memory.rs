//! How people write memory tables and sizes.
//!
//! Owns the reading of `--gpus` and of sizes with units. Leaves the table itself to [`crate::device`], and the
//! measuring of real devices to the caller: everything here is pure. Sizes follow accelerate 0.25.0: `GiB`, `MiB`,
//! `KiB` are binary, `GB`, `MB`, `KB` decimal.

use crate::device::{Device, MAX_DEVICES, MemoryTable};
use crate::error::DeviceMapError;
use crate::gpu_models::{Capability, GpuModel};

/// A memory table as a person gave it, and what is known of the GPUs that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuTable {
    /// Bytes per device.
    pub memory: MemoryTable,
    /// Compute capabilities of the models that were named.
    pub capabilities: Vec<Capability>,
}

impl MemoryTable {
    /// Reads a table: `2x24GiB`, `0=22GiB,1=24GiB`, `2xRTX-4090`.
    ///
    /// # Errors
    /// [`DeviceMapError::BadMemoryTable`]; [`DeviceMapError::UnknownGpu`].
    pub fn parse(text: &str) -> Result<Self, DeviceMapError> {
        GpuTable::parse(text).map(|table| table.memory)
    }
}

impl GpuTable {
    /// Reads a table: parts joined by commas, each `SIZE`, `COUNTxSIZE` (the next free numbers) or `ID=SIZE`.
    ///
    /// `2x24GiB` is `0=24GiB,1=24GiB`; `ID` is a number or `cpu`. Sizes as in [`parse_size`]; in the place of a size a
    /// model's name has that model's memory: `2xRTX-4090`.
    ///
    /// # Errors
    /// [`DeviceMapError::BadMemoryTable`] with the part that was not understood, [`DeviceMapError::UnknownGpu`].
    pub fn parse(text: &str) -> Result<Self, DeviceMapError> {
        let mut capabilities = Vec::new();
        let bad =
            |text: &str, reason| DeviceMapError::BadMemoryTable { text: text.trim().to_owned(), reason };
        let mut entries: Vec<(Device, u64)> = Vec::new();
        for part in text.split(',') {
            let mut size = |size: &str| {
                let size = size.trim();
                if let Some(bytes) = parse_size(size) {
                    return Ok(bytes);
                }
                if !size.starts_with(|letter: char| letter.is_ascii_alphabetic())
                    || Unit::split(size).is_some_and(|unit| unit.number.is_empty())
                {
                    return Err(bad(part, "a size is a positive number with a unit, such as 24GiB"));
                }
                let model = GpuModel::by_name(size)
                    .map_err(|near| DeviceMapError::UnknownGpu { name: size.to_owned(), near })?;
                if !capabilities.contains(&model.compute_capability) {
                    capabilities.push(model.compute_capability);
                }
                Ok(model.memory())
            };
            if let Some((id, bytes)) = part.split_once('=') {
                let device = match id.trim() {
                    "cpu" => Device::Cpu,
                    "disk" => return Err(bad(part, "the disk takes no size")),
                    id if id.bytes().all(|b| b.is_ascii_digit()) => match id.parse() {
                        Ok(id) if id < MAX_DEVICES => Device::Gpu(id),
                        _ => return Err(bad(part, "a device is a number from 0 to 127, or cpu")),
                    },
                    _ => return Err(bad(part, "a device is a number from 0 to 127, or cpu")),
                };
                entries.push((device, size(bytes)?));
            } else {
                // A model's name may have an x: `RTX-4090`.
                let counted = part.split_once(['x', 'X']);
                let counted =
                    counted.filter(|(count, _)| !count.trim().starts_with(|c: char| c.is_ascii_alphabetic()));
                let (count, bytes) = match counted {
                    Some((count, bytes)) => match count.trim().parse::<u32>() {
                        Ok(count) if (1..=MAX_DEVICES).contains(&count) => (count, size(bytes)?),
                        _ => return Err(bad(part, "a count is a number from 1 to 128")),
                    },
                    None => (1, size(part)?),
                };
                let next =
                    entries.iter().filter_map(|&(device, _)| device.gpu()).max().map_or(0, |id| id + 1);
                if next + count > MAX_DEVICES {
                    return Err(bad(part, "a table has at most 128 devices"));
                }
                entries.extend((next..next + count).map(|id| (Device::Gpu(id), bytes)));
            }
        }
        let memory = MemoryTable::new(entries).ok_or_else(|| bad(text, "it has a device twice"))?;
        Ok(Self { memory, capabilities })
    }
}

/// Bytes of a size with its unit, as accelerate 0.25.0 reads it: `24GiB`, `1.5 GB`, `8Gb` (a lower-case final
/// `b` after a decimal unit means bits, rounded down to bytes). `None` unless it comes to at least one byte.
pub fn parse_size(text: &str) -> Option<u64> {
    let unit = Unit::split(text)?;
    let number = unit.number.trim();
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let bytes = number.parse::<f64>().ok()? * unit.bytes;
    if bytes >= 9.2e18 {
        return None;
    }
    let bytes = bytes as u64;
    let bytes = if unit.is_bits { bytes / 8 } else { bytes };
    (bytes > 0).then_some(bytes)
}

/// The text of a size, cut before its unit as accelerate 0.25.0 does.
pub(super) struct Unit<'a> {
    /// What is before the unit.
    pub(super) number: &'a str,
    /// Bytes, or bits, of one unit.
    pub(super) bytes: f64,
    /// Whether it counts bits: a decimal unit with a lower-case final `b`.
    pub(super) is_bits: bool,
}

impl<'a> Unit<'a> {
    /// `None` where `text` ends in no unit.
    pub(super) fn split(text: &'a str) -> Option<Self> {
        const UNITS: [(&str, f64); 6] = [
            ("GIB", (1u64 << 30) as f64),
            ("MIB", (1u64 << 20) as f64),
            ("KIB", 1024.0),
            ("GB", 1e9),
            ("MB", 1e6),
            ("KB", 1e3),
        ];
        let upper = text.to_ascii_uppercase();
        let (unit, bytes) = UNITS.into_iter().find(|(unit, _)| upper.ends_with(unit))?;
        let number = text.get(..text.len() - unit.len())?;
        Some(Self { number, bytes, is_bits: unit.len() == 2 && text.ends_with('b') })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_counts_numbers_and_the_host() {
        let table = MemoryTable::parse("2x24GiB, cpu=64GB,8gib").unwrap();
        let gib = 1 << 30;
        let expected = [
            (Device::Gpu(0), 24 * gib),
            (Device::Gpu(1), 24 * gib),
            (Device::Gpu(2), 8 * gib),
            (Device::Cpu, 64_000_000_000),
        ];
        assert_eq!(table.entries(), expected);
        assert_eq!(MemoryTable::parse("1=2GiB,0=1GiB").unwrap().entries()[0], (Device::Gpu(0), gib));
    }

    #[test]
    fn a_model_of_gpu_stands_for_its_memory() {
        let gib = 1 << 30;
        let parse = |text: &str| GpuTable::parse(text).unwrap();
        assert_eq!(parse("2xRTX-5090").memory, MemoryTable::parse("2x32GiB").unwrap());
        assert_eq!(parse("2xRTX-5090").capabilities.len(), 1);
        assert_eq!(parse("RTX-4090, h100").memory, MemoryTable::parse("24GiB,80GiB").unwrap());
        assert_eq!(parse("0=A100-80GB,cpu=64GiB").memory.get(Device::Gpu(0)), Some(80 * gib));
        assert_eq!(parse("24GiB").capabilities, []);
        let error = GpuTable::parse("2xRTX-509").unwrap_err();
        assert!(
            error.to_string().starts_with("`RTX-509` is not a known GPU model; like it: RTX-5090"),
            "{error}"
        );
    }

    #[test]
    fn reads_sizes_as_accelerate_does() {
        assert_eq!(parse_size("1.5GiB"), Some(3 << 29));
        assert_eq!(parse_size("8Gb"), Some(1_000_000_000));
        assert_eq!(parse_size("8Gib"), Some(8 << 30));
        assert_eq!(parse_size("1KB"), Some(1000));
        for bad in ["", "GiB", "0GiB", "-1GiB", "24", "24XB", "1e400GiB", "infGiB", "nanGB", "0.0000001KB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn refuses_what_is_no_table() {
        for bad in
            ["", "0=1GiB,0=2GiB", "0x1GiB", "99999999x24GiB", "disk=1GiB", "tpu=1GiB", "+1=1GiB", "128=1GiB"]
        {
            assert!(matches!(MemoryTable::parse(bad), Err(DeviceMapError::BadMemoryTable { .. })), "{bad}");
        }
    }
}
