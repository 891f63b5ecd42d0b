//! Long work beside the interpreter: other Python threads run, Ctrl-C works, and progress is reported.
//!
//! The work runs on a thread of its own without the interpreter's lock. The calling thread waits, looks for
//! signals and calls the progress function, so that function is never called from a foreign thread. A stage begins
//! when its first state has been reported: what the function raises then stops even the shortest work.

use std::borrow::Cow;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use mgpack::error::IoError;
use mgpack::progress::{Progress, Stage, Stop};
use mgpack::{Error, Result};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::panic::PanicException;
use pyo3::prelude::*;

use crate::errors;

/// How often signals are looked for and progress is reported.
const POLL: Duration = Duration::from_millis(50);

/// How far a stage is: label, bytes done, bytes in all.
type State = (Cow<'static, str>, u64, u64);

/// Functions of the caller, each called on the caller's thread.
#[derive(Clone, Copy)]
pub(crate) struct Listeners<'a> {
    /// Takes a stage, the bytes done and those in all.
    pub(crate) progress: Option<&'a Py<PyAny>>,
    /// Takes a sentence that the caller should know.
    pub(crate) notice: Option<&'a Py<PyAny>>,
}

/// How far each stage is. Stages that were reported to their end are removed, and so are notices.
#[derive(Debug, Default)]
struct Meter {
    stages: Mutex<Vec<State>>,
    notices: Mutex<Vec<String>>,
}

impl Meter {
    fn stages(&self) -> MutexGuard<'_, Vec<State>> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notices(&self) -> MutexGuard<'_, Vec<String>> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be reported: the end of every stage that is over, then the state of the one that runs.
    fn take(&self) -> Vec<State> {
        let mut stages = self.stages();
        let told = stages.clone();
        let over = stages.len().saturating_sub(1);
        stages.drain(..over);
        told
    }
}

/// The meter as the job sees it, with the bell that wakes the one who waits. Dropped when the job ends.
pub(crate) struct Teller<'a> {
    meter: &'a Meter,
    bell: SyncSender<()>,
}

impl Teller<'_> {
    /// Passes a notice on, and waits until it has been shown.
    pub(crate) fn say(&self, notice: String) {
        self.meter.notices().push(notice);
        self.ring();
    }

    fn ring(&self) {
        // The bell holds no message: the second ring is taken when what the first one was about has been reported.
        // Nobody is gone before the job ends, so neither can fail.
        let _ = self.bell.send(()).and_then(|()| self.bell.send(()));
    }
}

impl Progress for Teller<'_> {
    fn begin(&self, stage: Stage, total: u64) {
        self.meter.stages().push((stage.label(), 0, total));
        self.ring();
    }

    fn advance(&self, bytes: u64) {
        if let Some((_, done, _)) = self.meter.stages().last_mut() {
            *done = done.saturating_add(bytes);
        }
    }

    fn finish(&self) {}

    fn note(&self, text: &str) {
        self.say(text.to_owned());
    }
}

/// Does `job` and returns what it returns.
///
/// A signal's exception, or one that a listener raises, stops the job and is raised once the job has ended.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    listeners: Listeners<'_>,
    job: impl FnOnce(&Teller<'_>, &Stop) -> Result<T> + Send,
) -> PyResult<T> {
    let (meter, stop) = (Meter::default(), Stop::new());
    let mut told = None;
    let mut tell = |py: Python<'_>| -> PyResult<()> {
        let notices = std::mem::take(&mut *meter.notices());
        for said in notices {
            if let Some(notice) = listeners.notice {
                notice.call1(py, (said,))?;
            }
        }
        let Some(progress) = listeners.progress else { return Ok(()) };
        for state in meter.take() {
            if told.as_ref() != Some(&state) {
                let (stage, done, total) = &state;
                progress.call1(py, (&**stage, *done, *total))?;
                told = Some(state);
            }
        }
        Ok(())
    };
    let mut raised = None;
    let outcome = std::thread::scope(|scope| {
        let (bell, rung) = sync_channel::<()>(0);
        let (meter, stop) = (&meter, &stop);
        let started = Builder::new().spawn_scoped(scope, move || job(&Teller { meter, bell }, stop));
        let worker = match started {
            Ok(worker) => worker,
            Err(cause) => {
                let error = IoError::new("starting threads", "", cause);
                return Ok(Err(error.into()));
            }
        };
        let rung = Mutex::new(rung);
        loop {
            let waited = py.detach(|| rung.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(POLL));
            if raised.is_none()
                && let Err(exception) = py.check_signals().and_then(|()| tell(py))
            {
                stop.request();
                raised = Some(exception);
            }
            if waited == Err(RecvTimeoutError::Disconnected) {
                return py.detach(|| worker.join());
            }
        }
    });
    match (raised, outcome) {
        (Some(exception), _) => Err(exception),
        (None, Ok(Ok(value))) => Ok(value),
        (None, Ok(Err(Error::Interrupted { .. }))) => Err(PyKeyboardInterrupt::new_err(())),
        (None, Ok(Err(error))) => Err(errors::to_python(py, &error)),
        (None, Err(_)) => {
            Err(PanicException::new_err("a thread of mgpack panicked; its message is on stderr"))
        }
    }
}
