//! What can go wrong, explained so that a person can act on it.
//!
//! Every error answers four questions: what happened (its `Display`, one sentence), where, why, and what to do
//! ([`Explain::explain`]). One enum per area keeps the variants typed; [`Error`] joins them, and has itself what every
//! area can meet: the system and the user's wish to stop.
//!
//! A variant's arm in `explain` is its text, all of it in one place. The comment on a variant says what the text does
//! not.

// Names of fields are words of the texts. Those that need more have a comment.
#![allow(missing_docs, reason = "the texts of `explain` say what variants and their fields mean")]
#![deny(clippy::wildcard_enum_match_arm, reason = "a new variant must not go unexplained")]

mod bundle;
mod cache;
mod checkpoint;
mod codes;
mod convert;
mod device_map;
mod explain;
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
mod torch;

pub use bundle::BundleError;
pub use cache::CacheError;
pub use checkpoint::{Change, CheckpointError, InFile, NodeKind};
pub use codes::CodesError;
pub use convert::ConvertError;
pub use device_map::{DeviceMapError, DeviceNeed, DoesNotFit, Exception, Remedy};
pub use explain::{Explain, Explanation};
pub use family::FamilyError;
pub use header::{Disguise, HeaderFault};
pub use hub::HubError;
pub use index::{IndexFault, ShardNameRule};
pub use io::IoError;
pub use limit::OverLimit;
pub use load::LoadError;
pub use locate::LocateError;
pub use output::OutputError;
pub use plan::PlanError;
pub use python::PythonError;
pub use torch::TorchFault;

use explain::what;

/// The result of anything in mgpack that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error of mgpack.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
#[non_exhaustive]
pub enum Error {
    /// A bundle could not be opened, checked or released.
    Bundle(#[from] BundleError),
    /// A checkpoint could not be found in the hub's cache, or is not complete there.
    Cache(#[from] CacheError),
    /// A checkpoint could not be read, or is not what its files claim.
    Checkpoint(#[from] CheckpointError),
    /// Weights are stored as codes that cannot be decoded.
    Codes(#[from] CodesError),
    /// A conversion could not be finished.
    Convert(#[from] ConvertError),
    /// A device map cannot be planned.
    DeviceMap(#[from] DeviceMapError),
    /// No family has this name.
    Family(#[from] FamilyError),
    /// The hub did not send what was asked for.
    Hub(#[from] HubError),
    /// The user asked to stop.
    #[error("{}", self.explain().what)]
    Interrupted {
        /// What was downloaded is kept.
        kept: bool,
    },
    /// The system could not read, write or start something.
    Io(#[from] IoError),
    /// A bundle could not be loaded onto its devices.
    Load(#[from] LoadError),
    /// A checkpoint or a tower was not found.
    Locate(#[from] LocateError),
    /// The output could not be written.
    Output(#[from] OutputError),
    /// The checkpoint cannot be converted as asked.
    Plan(#[from] PlanError),
    /// The Python interpreter does not answer.
    Python(#[from] PythonError),
}

impl Error {
    /// True where mgpack could have gone on and declined: what was asked for is unsafe.
    pub fn is_refusal(&self) -> bool {
        self.explain().refusal
    }
}

impl Explain for Error {
    fn explain(&self) -> Explanation {
        match self {
            Self::Bundle(error) => error.explain(),
            Self::Cache(error) => error.explain(),
            Self::Checkpoint(error) => error.explain(),
            Self::Codes(error) => error.explain(),
            Self::Convert(error) => error.explain(),
            Self::DeviceMap(error) => error.explain(),
            Self::Family(error) => error.explain(),
            Self::Hub(error) => error.explain(),
            Self::Interrupted { kept: false } => what("interrupted"),
            Self::Interrupted { kept: true } => {
                what("interrupted; what was downloaded is kept, and the same command goes on from there")
            }
            Self::Io(error) => error.explain(),
            Self::Load(error) => error.explain(),
            Self::Locate(error) => error.explain(),
            Self::Output(error) => error.explain(),
            Self::Plan(error) => error.explain(),
            Self::Python(error) => error.explain(),
        }
    }
}
