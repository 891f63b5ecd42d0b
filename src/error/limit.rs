//! A checkpoint that describes more than may be held. Which file went over the limit is in [`super::CheckpointError`].

use super::explain::damaged;
use super::{Explain, Explanation, HeaderFault, IndexFault, TorchFault};
use crate::size::counted;

/// The files of a checkpoint describe more than any model has (`is_all`), or than `max_memory` allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.explain().what)]
#[non_exhaustive]
pub enum OverLimit {
    /// Too many tensors.
    Tensors { limit: u64, is_all: bool },
    /// Too many bytes of headers, indexes and pickles.
    Text { limit: u64, is_all: bool },
}

impl Explain for OverLimit {
    fn explain(&self) -> Explanation {
        let (parts, limit, share, is_all) = match self {
            Self::Tensors { limit, is_all } => {
                ("files", counted(limit, "tensor"), "each takes up to 4 KiB", is_all)
            }
            Self::Text { limit, is_all } => {
                ("headers", counted(limit, "byte"), "headers may take a quarter", is_all)
            }
        };
        let over = damaged(format!("the checkpoint's {parts} have more than {limit} up to this one"));
        match is_all {
            true => over.why("the largest models have a fifth of that"),
            false => over.why(format!("{share} of the memory budget")).help("give more ‹max_memory›"),
        }
    }
}

// By hand: the fault displays as the limit, which so is not its cause.
impl From<OverLimit> for HeaderFault {
    fn from(over: OverLimit) -> Self {
        Self::OverLimit(over)
    }
}

impl From<OverLimit> for IndexFault {
    fn from(over: OverLimit) -> Self {
        Self::OverLimit(over)
    }
}

impl From<OverLimit> for TorchFault {
    fn from(over: OverLimit) -> Self {
        Self::OverLimit(over)
    }
}
