//! The devices of this machine, for `--gpus auto`.

use mgpack::device_map::MemoryTable;
use mgpack::devices::Devices;

use super::ui;

/// Free memory of every GPU that a CUDA program would see, or `None` with a line on stderr that says why.
pub(super) fn table() -> Option<MemoryTable> {
    let devices = Devices::detect(|name| std::env::var_os(name));
    for note in &devices.notes {
        ui::say(&format!("note: {note}"));
    }
    if let Some(why) = devices.without_gpu() {
        ui::say(&format!("note: {why}: no device map is planned"));
    }
    devices.free_memory()
}
