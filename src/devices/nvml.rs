//! GPUs through NVML, the driver's own library, which is loaded at run time if it is there.

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::CudaComputeCapability;
use nvml_wrapper::{Device, Nvml};

use super::{ListedGpu, Memory};
use crate::gpu_models::Capability;

/// Every GPU of the machine, in PCI order: which is NVML's.
///
/// What one GPU does not report stays open in its entry. `libnvidia-ml.so.1` is looked for as the system's loader
/// does, `LD_LIBRARY_PATH` included.
///
/// # Errors
/// The library is not there, is too old for its memory query, or NVML does not start: no driver, no permission.
pub(super) fn list() -> Result<Vec<ListedGpu>, NvmlError> {
    let nvml = Nvml::init()?;
    (0..nvml.device_count()?).map(|index| read(nvml.device_by_index(index))).collect()
}

fn read(device: Result<Device<'_>, NvmlError>) -> Result<ListedGpu, NvmlError> {
    let device = match device {
        Ok(device) => device,
        Err(fault) => return Ok(ListedGpu { fault: Some(fault.to_string()), ..ListedGpu::default() }),
    };
    let memory = device.memory_info();
    if let Err(NvmlError::FailedToLoadSymbol(_)) = memory {
        return Err(NvmlError::FunctionNotFound);
    }
    Ok(ListedGpu {
        name: device.name().ok(),
        uuid: device.uuid().ok(),
        fault: memory.as_ref().err().map(ToString::to_string),
        capability: device.cuda_compute_capability().ok().and_then(capability),
        memory: memory.ok().map(|info| Memory { free: info.free.min(info.total), total: info.total }),
    })
}

fn capability(told: CudaComputeCapability) -> Option<Capability> {
    Some(Capability { major: told.major.try_into().ok()?, minor: told.minor.try_into().ok()? })
}
