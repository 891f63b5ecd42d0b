//! Starting threads. What the system refuses is an error or fewer threads, never a panic.

use std::error::Error as _;
use std::io;
use std::thread::{Builder, Scope};

/// The threads asked for, at least one, or one for each core.
pub(crate) fn count(asked: Option<usize>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    asked.map_or_else(cores, |count| count.max(1))
}

/// A pool of `count` threads.
///
/// # Errors
/// The system's, where it starts no more threads.
pub(crate) fn pool(count: usize) -> io::Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().map_err(|error| {
        let code = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
        code.map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error)
    })
}

/// Runs `work` on this thread, and on up to `others` more beside it: on as many as the system starts.
pub(crate) fn on_many<F: Fn() + Copy + Send>(others: usize, work: F) {
    std::thread::scope(|scope| {
        for _ in 0..others {
            if !also(scope, work) {
                break;
            }
        }
        work();
    });
}

/// True where the system starts a thread now, for libraries that take it for granted.
pub(crate) fn can_start() -> bool {
    Builder::new().spawn(|| {}).is_ok()
}

/// Runs `work` on another thread. False where the system starts none.
pub(crate) fn also<'scope, F: FnOnce() + Send + 'scope>(scope: &'scope Scope<'scope, '_>, work: F) -> bool {
    Builder::new().spawn_scoped(scope, work).is_ok()
}
