//! The devices of this machine: its GPUs, numbered as CUDA numbers them, and the host, with free memory.
//!
//! Owns the asking: NVML, `nvidia-smi` where NVML cannot be used, `/proc` and the control groups. Leaves to
//! [`crate::device_map`] what is placed on them, reserves included: free memory is as reported.
//!
//! **Order.** GPUs are in PCI order, as under `CUDA_DEVICE_ORDER=PCI_BUS_ID`. CUDA's default puts the fastest
//! first; which that is only CUDA knows. Among GPUs of one model the two orders are the same, and otherwise a
//! note says what to set.

mod host;
mod nvidia_smi;
mod nvml;
mod visible;

use std::ffi::OsString;

use serde::Serialize;

pub use host::memory as host_memory;

use crate::device::{Device, MAX_DEVICES, MemoryTable};
use crate::gpu_models::Capability;
use crate::size::counted;

/// What this machine has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Devices {
    /// The GPUs that a CUDA program started here would see, by its numbers.
    pub gpus: Vec<Gpu>,
    /// GPUs that the machine has, hidden ones included.
    pub gpus_present: usize,
    /// Who reported them; `None` where nobody found a GPU.
    pub source: Option<DeviceSource>,
    /// The host's memory, within the limits of this process's control groups.
    pub host: Option<Memory>,
    /// What a reader of the figures has to know, one sentence each.
    pub notes: Vec<String>,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// CUDA's number for it.
    pub index: u32,
    /// The model's name.
    pub name: Option<String>,
    /// `GPU-` and its UUID.
    pub uuid: Option<String>,
    /// Its memory; `None` where the query failed, with a note that says so.
    pub memory: Option<Memory>,
    /// Its compute capability, where the driver says it.
    pub compute_capability: Option<Capability>,
}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What nothing uses now.
    pub free: u64,
    /// What there is.
    pub total: u64,
}

/// Who reported the GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum DeviceSource {
    /// The driver's library.
    #[serde(rename = "NVML")]
    Nvml,
    /// The driver's command.
    #[serde(rename = "nvidia-smi")]
    NvidiaSmi,
}

/// A GPU as the driver lists it, in PCI order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ListedGpu {
    name: Option<String>,
    uuid: Option<String>,
    memory: Option<Memory>,
    /// Why its memory is not known.
    fault: Option<String>,
    capability: Option<Capability>,
}

impl Devices {
    /// Asks the machine. `var` reads a variable of the environment: `CUDA_VISIBLE_DEVICES`, `CUDA_DEVICE_ORDER`.
    pub fn detect(var: impl Fn(&str) -> Option<OsString>) -> Self {
        let var = |name: &str| var(name).map(|value| value.to_string_lossy().into_owned());
        let (source, listed, note) = match nvml::list() {
            Ok(listed) => (Some(DeviceSource::Nvml), listed, None),
            Err(fault) => match nvidia_smi::list() {
                Ok(listed) => (Some(DeviceSource::NvidiaSmi), listed, None),
                Err(said) => (None, Vec::new(), Some(no_driver(&fault, &said))),
            },
        };
        let visible = var("CUDA_VISIBLE_DEVICES");
        let mut devices = number(&listed, visible.as_deref(), var("CUDA_DEVICE_ORDER").as_deref());
        devices.source = source;
        devices.host = host::memory();
        devices.notes.splice(0..0, note);
        devices
    }

    /// Free bytes of every GPU whose memory is known; `None` where that is none.
    pub fn gpu_memory(&self) -> Option<MemoryTable> {
        let free = self.gpus.iter().filter_map(|gpu| Some((Device::Gpu(gpu.index), gpu.memory?.free)));
        MemoryTable::new(free).filter(|table| !table.entries().is_empty())
    }

    /// Free bytes of every device whose memory is known: the GPUs, and the host.
    pub fn free_memory(&self) -> MemoryTable {
        let host = self.host.map(|memory| (Device::Cpu, memory.free));
        let gpus = self.gpus.iter().filter_map(|gpu| Some((Device::Gpu(gpu.index), gpu.memory?.free)));
        MemoryTable::new(gpus.chain(host)).unwrap_or_default()
    }

    /// The compute capabilities here, each once.
    pub fn capabilities(&self) -> Vec<Capability> {
        let mut all: Vec<Capability> = self.gpus.iter().filter_map(|gpu| gpu.compute_capability).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// One sentence where there is no GPU to place anything on.
    pub fn without_gpu(&self) -> Option<String> {
        match (self.gpus.len(), self.gpus_present) {
            (0, 0) => Some("this machine has no NVIDIA GPU that its driver lists".to_owned()),
            (0, present) => Some(format!("CUDA_VISIBLE_DEVICES hides {}", counted(present, "GPU"))),
            _ if self.gpu_memory().is_none() => {
                Some("no GPU here says how much of its memory is free".to_owned())
            }
            _ => None,
        }
    }
}

/// Numbers what the driver lists as CUDA does.
fn number(listed: &[ListedGpu], visible_value: Option<&str>, order: Option<&str>) -> Devices {
    let listed = &listed[..listed.len().min(MAX_DEVICES as usize)];
    let uuids: Vec<Option<&str>> = listed.iter().map(|gpu| gpu.uuid.as_deref()).collect();
    let mut notes = Vec::new();
    let mut gpus = Vec::new();
    for (index, position) in (0..).zip(visible::visible(visible_value, &uuids)) {
        let gpu = &listed[position];
        let name = gpu.name.clone();
        if let Some(fault) = &gpu.fault {
            let named = name.as_deref().map_or_else(String::new, |name| format!(" ({name})"));
            notes.push(format!("GPU {index}{named} does not report its memory and is left out: {fault}"));
        }
        let (uuid, memory, compute_capability) = (gpu.uuid.clone(), gpu.memory, gpu.capability);
        gpus.push(Gpu { index, name, uuid, memory, compute_capability });
    }
    if visible::names_mig(visible_value) {
        notes.push(
            "CUDA_VISIBLE_DEVICES names an instance of a partitioned GPU (MIG), which is not read here: name \
             its memory yourself"
                .to_owned(),
        );
    }
    let of_several_models = listed.windows(2).any(|pair| pair[0].name != pair[1].name);
    if of_several_models && order != Some("PCI_BUS_ID") && gpus.len() > 1 {
        notes.push(
            "the GPUs are of several models and numbered in PCI order, while CUDA numbers the fastest first: run \
             the model with CUDA_DEVICE_ORDER=PCI_BUS_ID"
                .to_owned(),
        );
    }
    Devices { gpus, gpus_present: listed.len(), source: None, host: None, notes }
}

/// Why nobody found a GPU.
fn no_driver(nvml: &nvml_wrapper::error::NvmlError, nvidia_smi: &str) -> String {
    use nvml_wrapper::error::NvmlError;
    match nvml {
        NvmlError::LibloadingError(_) => {
            format!(
                "no NVIDIA driver was found: libnvidia-ml.so.1 is not there, and nvidia-smi: {nvidia_smi}"
            )
        }
        fault => format!("the NVIDIA driver does not answer: NVML: {fault}; nvidia-smi: {nvidia_smi}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(name: &str, uuid: &str) -> ListedGpu {
        ListedGpu {
            name: Some(name.to_owned()),
            uuid: Some(uuid.to_owned()),
            memory: Some(Memory { free: 5, total: 9 }),
            fault: None,
            capability: None,
        }
    }

    #[test]
    fn visible_gpus_are_numbered_from_0_in_the_order_of_the_list() {
        let devices = number(&[gpu("A", "GPU-a"), gpu("A", "GPU-b"), gpu("A", "GPU-c")], Some("2,0"), None);
        let found: Vec<_> =
            devices.gpus.iter().map(|gpu| (gpu.index, gpu.uuid.as_deref().unwrap())).collect();
        assert_eq!(found, [(0, "GPU-c"), (1, "GPU-a")]);
        assert_eq!((devices.gpus_present, devices.notes.len()), (3, 0));
    }

    #[test]
    fn several_models_without_a_fixed_order_get_a_note() {
        let gpus = [gpu("A", "GPU-a"), gpu("B", "GPU-b")];
        assert_eq!(number(&gpus, None, None).notes.len(), 1);
        assert_eq!(number(&gpus, None, Some("FASTEST_FIRST")).notes.len(), 1);
        assert_eq!(number(&gpus, None, Some("PCI_BUS_ID")).notes.len(), 0);
        assert_eq!(number(&gpus, Some("1"), None).gpus[0].name.as_deref(), Some("B"));
    }
}
