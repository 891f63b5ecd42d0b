//! What signals do: the first asks work that would leave something half-made to stop, and ends the process where there
//! is none; the second ends it at once.
//!
//! A signal that was ignored when the process began stays ignored, as `nohup` wants it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::{INTERRUPTED, STOP, ui};

/// Takes the handlers of SIGINT, SIGTERM, SIGHUP, SIGQUIT and SIGXFSZ.
pub(super) fn handle() {
    if let Err(cause) = try_handle() {
        ui::say(&format!("warning: signals will not be handled: {cause}"));
    }
}

fn try_handle() -> io::Result<()> {
    // A file beyond the limit of `ulimit -f` is an error of the write, not the end of the process.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let ignored = ignored();
    let asked =
        [SIGINT, SIGTERM, SIGHUP, SIGQUIT].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let mut signals = Signals::new(asked)?;
    let watch = move || {
        for _ in signals.forever() {
            if STOP.requested() || !STOP.is_attended() {
                ui::say("error: interrupted");
                std::process::exit(INTERRUPTED.into());
            }
            STOP.request();
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map(drop)
}

/// The signals that are ignored, one bit each, the lowest for signal 1; none where the system does not say.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
