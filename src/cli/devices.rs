//! What this machine has, for `--gpus auto`.

use std::process::Command;

use mgpack::device_map::{Device, MemoryTable};

use super::ui;

/// Free memory of every GPU that nvidia-smi lists, or `None` with a line on stderr that says so.
pub(super) fn table() -> Option<MemoryTable> {
    let output = Command::new("nvidia-smi")
        .args(["--query-gpu=index,memory.free", "--format=csv,noheader,nounits"])
        .output();
    let listing = match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        _ => String::new(),
    };
    let gpus: Vec<_> = listing.lines().filter_map(parse_line).collect();
    let table = if gpus.is_empty() { None } else { MemoryTable::new(gpus) };
    if table.is_none() {
        ui::say("note: nvidia-smi lists no GPU here: the device map is made for one device of any size");
    }
    table
}

/// `0, 24210`: index and MiB.
fn parse_line(line: &str) -> Option<(Device, u64)> {
    let (index, mebibytes) = line.split_once(',')?;
    Some((
        Device::Gpu(index.trim().parse().ok()?),
        mebibytes.trim().parse::<u64>().ok()?.checked_mul(1 << 20)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_nvidia_smi_is_an_index_and_mebibytes() {
        assert_eq!(parse_line("1, 24210"), Some((Device::Gpu(1), 24210 << 20)));
        assert_eq!(parse_line("No devices were found"), None);
    }
}
