//! The devices a bundle is loaded on: what a map calls them, what candle calls them, and what they have room for.

use std::collections::BTreeMap;

use crate::device::{Device, MemoryTable};
use crate::device_map::Profile;

/// One memory that tensors are placed in.
#[derive(Clone, Debug)]
pub struct LoadPlace {
    /// What to call it in reports: `gpu 0`, `host`.
    pub name: String,
    /// Candle's handle of it.
    pub device: candle_core::Device,
    /// Bytes that may be placed there.
    pub room: u64,
}

/// Places, and which place each device of a map is.
#[derive(Clone, Debug)]
pub struct LoadDevices {
    places: Vec<LoadPlace>,
    of: BTreeMap<Device, usize>,
}

impl LoadDevices {
    /// Every device of the map is host memory of `room` bytes in all: for machines without accelerators.
    pub fn host(profile: &Profile, room: u64) -> Self {
        let host = LoadPlace { name: "host".to_owned(), device: candle_core::Device::Cpu, room };
        let of = profile.map.values().map(|&device| (device, 0)).collect();
        Self { places: vec![host], of }
    }

    /// Accelerators by their numbers, with the room of `free`, which may name the host too.
    ///
    /// # Errors
    /// What candle says of the first device that cannot be had: without the feature `cuda`, of any.
    pub fn accelerators(free: &MemoryTable) -> candle_core::Result<Self> {
        let mut devices = Self { places: Vec::new(), of: BTreeMap::new() };
        for &(device, room) in free.entries() {
            let handle = match device {
                Device::Gpu(id) => candle_core::Device::new_cuda(id as usize)?,
                _ => candle_core::Device::Cpu,
            };
            devices.of.insert(device, devices.places.len());
            devices.places.push(LoadPlace { name: device.to_string(), device: handle, room });
        }
        Ok(devices)
    }

    /// The places.
    pub fn places(&self) -> &[LoadPlace] {
        &self.places
    }

    /// Index of the place of a device of a map.
    pub fn place_of(&self, device: Device) -> Option<usize> {
        self.of.get(&device).copied()
    }
}
