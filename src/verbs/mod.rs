//! What each command does, from its options to its result. The command line and the Python package call the same
//! functions: both read words into a *call*, run it, and show the result.
//!
//! One file a verb, with its call and its result; the result serializes as the JSON that `--json` prints. `words` has the
//! options that several verbs share. Owns what belongs to no single step: downloading what is missing, the built-in
//! checkpoint, the pool of threads, the environment, and files that are written beside a result. Leaves the work to the
//! modules below, and parsing and printing to the callers.

pub mod convert;
pub mod doctor;
#[cfg(feature = "hub")]
mod fetch;
pub mod inspect;
pub mod map;
#[cfg(feature = "hub")]
pub mod pull;
pub mod release;
pub mod report;
#[cfg(feature = "hub")]
mod stream;
pub mod verify;
pub mod words;
mod write;

use std::ffi::OsString;

pub use write::Writer;

use crate::error::{IoError, Result};
use crate::locate::Places;
use crate::progress::{Progress, Stop};
use crate::threads;

#[cfg(feature = "hub")]
use fetch::missing as fetch_missing;

/// Without network code nothing is downloaded.
#[cfg(not(feature = "hub"))]
fn fetch_missing(_: &str, _: &Places, _: Work<'_>) -> Result<()> {
    Ok(())
}

/// Reads a variable of the environment.
pub type Variables<'a> = dyn Fn(&str) -> Option<OsString> + Sync + 'a;

/// What a verb works with.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// Who is shown how far the work is.
    pub progress: &'a dyn Progress,
    /// Who asks it to stop.
    pub stop: &'a Stop,
    /// The environment: caches, tokens, proxies, visible GPUs.
    pub variables: &'a Variables<'a>,
}

impl<'a> Work<'a> {
    /// Work in the environment of this process.
    pub fn new(progress: &'a dyn Progress, stop: &'a Stop) -> Self {
        Self { progress, stop, variables: &|name| std::env::var_os(name) }
    }

    /// Where models are looked for, with the branch, tag or commit that was asked for.
    fn places(&self, revision: Option<&str>) -> Places {
        let mut places = Places::from_env(self.variables);
        places.revision = revision.map(str::to_owned);
        places
    }
}

/// Runs `job` on a pool of its own of `threads` threads, by default one for each core.
///
/// # Errors
/// [`IoError`] where the system starts no threads; those of the job.
pub fn on_threads<T: Send>(threads: Option<usize>, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let pool = threads::pool(threads::count(threads));
    let started = pool.map_err(|cause| IoError::new("starting threads", "", cause))?;
    started.install(job)
}
