//! What can go wrong, told so that a person can act on it.
//!
//! Every error answers four questions: what happened (its `Display`, one sentence), where, why, and what
//! to do (the [`Explain`] methods). One enum per area keeps the variants typed; [`Error`] joins them.

mod bundle;
mod cache;
mod checkpoint;
mod convert;
mod device_map;
mod family;
mod header;
mod hub;
mod index;
mod io;
mod limit;
mod load;
mod locate;
mod output;
mod plan;
mod python;
mod shown;
mod tiny;
mod torch;

pub use bundle::BundleError;
pub use cache::CacheError;
pub use checkpoint::{Change, CheckpointError, InFile, NodeKind};
pub use convert::ConvertError;
pub use device_map::{DeviceMapError, DeviceNeed, DoesNotFit, Exception, Remedy};
pub use family::FamilyError;
pub use header::{Disguise, HeaderFault};
pub use hub::HubError;
pub use index::{IndexFault, ShardNameRule};
pub use limit::OverLimit;
pub use load::LoadError;
pub use locate::LocateError;
pub use output::OutputError;
pub use plan::PlanError;
pub use python::PythonError;
pub use tiny::TinyError;
pub use torch::TorchFault;

/// The result of anything in mgpack that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The three lines below an error's first one.
///
/// Options and calls are written in the notation of [`crate::mention`]: ‹force=true›, never `--force`.
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
    /// A bundle could not be opened, checked or released.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A checkpoint could not be found in the hub's cache, or is not complete there.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A checkpoint could not be read, or is not what its files claim.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A device map was asked for that cannot be had.
    #[error(transparent)]
    DeviceMap(#[from] DeviceMapError),
    /// A conversion could not be finished.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// A bundle could not be brought onto its devices.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A checkpoint or a tower is not where it was looked for.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// The hub did not give what was asked for.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Something could not be written to its target.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The recipe and the checkpoint do not go together.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A family was asked for by a name that does not lead to one.
    #[error(transparent)]
    Family(#[from] FamilyError),
    /// The Python interpreter does not answer.
    #[error(transparent)]
    Python(#[from] PythonError),
    /// The tiny checkpoint could not be written.
    #[error(transparent)]
    Tiny(#[from] TinyError),
}

impl Error {
    /// True where mgpack could have gone on and declined: the user's input asks for something unsafe.
    pub fn is_refusal(&self) -> bool {
        if let Error::Output(error) = self {
            return error.is_refusal();
        }
        matches!(
            self,
            Error::DeviceMap(DeviceMapError::DoesNotFit(_) | DeviceMapError::NoAccelerator)
                | Error::Bundle(
                    BundleError::Broken { .. }
                        | BundleError::Digest { .. }
                        | BundleError::OutputNotEmpty { .. }
                )
                | Error::Load(LoadError::DoesNotFit { .. })
                | Error::Plan(
                    PlanError::AlreadyQuantized { .. }
                        | PlanError::Codes { .. }
                        | PlanError::IsBundle { .. }
                        | PlanError::NoClient { .. }
                )
                | Error::Convert(ConvertError::NotFinite { .. } | ConvertError::Overflow { .. })
        )
    }

    fn inner(&self) -> &dyn Explain {
        match self {
            Error::Bundle(inner) => inner,
            Error::Cache(inner) => inner,
            Error::Checkpoint(inner) => inner,
            Error::DeviceMap(inner) => inner,
            Error::Convert(inner) => inner,
            Error::Load(inner) => inner,
            Error::Locate(inner) => inner,
            Error::Hub(inner) => inner,
            Error::Output(inner) => inner,
            Error::Plan(inner) => inner,
            Error::Family(inner) => inner,
            Error::Python(inner) => inner,
            Error::Tiny(inner) => inner,
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
