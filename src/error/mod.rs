//! What can go wrong, told so that a person can act on it.
//!
//! Every error answers four questions: what happened (its `Display`, one sentence), where, why, and what
//! to do (the [`Explain`] methods). One enum per area keeps the variants typed; [`Error`] joins them.

mod checkpoint;
mod device_map;

pub use checkpoint::CheckpointError;
pub use device_map::{DeviceMapError, DeviceNeed, DoesNotFit};

/// The result of anything in mgpack that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The three lines below an error's first one.
pub trait Explain: std::error::Error {
    /// The file, tensor or option concerned.
    fn place(&self) -> Option<String> {
        None
    }
    /// What was found and why it cannot be accepted.
    fn why(&self) -> Option<String> {
        None
    }
    /// What the reader can do next, with the command where there is one.
    fn help(&self) -> Option<String> {
        None
    }
}

/// Any error of mgpack.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A checkpoint could not be found, or is not what its files claim.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A device map was asked for that cannot be had.
    #[error(transparent)]
    DeviceMap(#[from] DeviceMapError),
}

impl Error {
    fn inner(&self) -> &dyn Explain {
        match self {
            Error::Checkpoint(inner) => inner,
            Error::DeviceMap(inner) => inner,
        }
    }
}

impl Explain for Error {
    fn place(&self) -> Option<String> {
        self.inner().place()
    }
    fn why(&self) -> Option<String> {
        self.inner().why()
    }
    fn help(&self) -> Option<String> {
        self.inner().help()
    }
}
