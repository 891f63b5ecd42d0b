//! GPUs through the driver's command `nvidia-smi`, where NVML cannot be used.

use std::process::Command;
use std::time::Duration;

use super::{ListedGpu, Memory};
use crate::gpu_models::GpuModel;
use crate::program;
use crate::progress::Stop;

/// Starting the driver takes seconds on a machine with eight GPUs and no persistence daemon.
const LIMIT: Duration = Duration::from_secs(30);

/// Every GPU that nvidia-smi lists, in PCI order; or one line that says why there are none.
pub(super) fn list() -> Result<Vec<ListedGpu>, String> {
    let query = ["--query-gpu=uuid,memory.free,memory.total,name", "--format=csv,noheader,nounits"];
    let ran = program::run(Command::new("nvidia-smi").args(query), LIMIT, &Stop::new())
        .map_err(|fault| fault.to_string())?;
    if !ran.status.success() {
        let said = ran.out.lines().chain(ran.err.lines()).find(|line| !line.trim().is_empty());
        return Err(said.map_or_else(|| ran.status.to_string(), str::to_owned));
    }
    let gpus: Option<Vec<ListedGpu>> =
        ran.out.lines().filter(|line| !line.trim().is_empty()).map(parse_line).collect();
    gpus.ok_or_else(|| "its answer is not the list that was asked for".to_owned())
}

/// `GPU-5a1c…, 24210, 24564, NVIDIA GeForce RTX 3090`: UUID, free and total MiB, name. A figure that a GPU does not
/// tell is `[N/A]` or an error in brackets. `None` for any other text.
fn parse_line(line: &str) -> Option<ListedGpu> {
    let mut fields = line.splitn(4, ',').map(str::trim);
    let (uuid, free, total, name) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let told = |field: &str| (!field.starts_with('[')).then(|| field.to_owned());
    let bytes = |field: &str| match field.parse::<u64>() {
        Ok(mebibytes) => mebibytes.checked_mul(1 << 20).map(Some),
        Err(_) => field.starts_with('[').then_some(None),
    };
    let memory = match (bytes(free)?, bytes(total)?) {
        (Some(free), Some(total)) => Ok(Memory { free: free.min(total), total }),
        (None, _) => Err(free),
        (_, None) => Err(total),
    };
    Some(ListedGpu {
        name: told(name),
        uuid: told(uuid),
        // Drivers before 470 do not know the field; the name does.
        capability: GpuModel::by_name(name).ok().map(|model| model.compute_capability),
        fault: memory.err().map(|field| format!("memory {field}")),
        memory: memory.ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_uuid_two_sizes_and_a_name() {
        let gpu = parse_line("GPU-5a1c, 24210, 24564, NVIDIA GeForce RTX 3090").unwrap();
        assert_eq!(gpu.memory, Some(Memory { free: 24210 << 20, total: 24564 << 20 }));
        assert_eq!(
            (gpu.uuid.as_deref(), gpu.name.as_deref()),
            (Some("GPU-5a1c"), Some("NVIDIA GeForce RTX 3090"))
        );
        let gpu = parse_line("GPU-5a1c, [N/A], [N/A], NVIDIA GB10").unwrap();
        assert_eq!((gpu.memory, gpu.fault.as_deref()), (None, Some("memory [N/A]")));
        assert_eq!(parse_line("No devices were found"), None);
        assert_eq!(parse_line("GPU-5a1c, 1 MiB, 2 MiB, x"), None);
    }
}
