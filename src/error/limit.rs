//! A checkpoint that describes more than may be held. Which file went over the limit tells [`super::CheckpointError`].

use super::Explain;
use crate::size::counted;

/// The files of a checkpoint describe more than any model has, or than the memory allows that may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OverLimit {
    /// Too many tensors.
    #[error("the checkpoint's files hold more than {} up to this one", counted(limit, "tensor"))]
    Tensors {
        /// The most allowed.
        limit: u64,
        /// Whatever the memory.
        is_all: bool,
    },
    /// Too much text that describes tensors.
    #[error("the checkpoint's headers have more than {} up to this one", counted(limit, "byte"))]
    Text {
        /// The most allowed.
        limit: u64,
        /// Whatever the memory.
        is_all: bool,
    },
}

impl Explain for OverLimit {
    fn why(&self) -> Option<String> {
        Some(
            match self {
                Self::Tensors { is_all: true, .. } | Self::Text { is_all: true, .. } => {
                    "the largest models have a fifth of that"
                }
                Self::Tensors { .. } => "each takes up to 4 KiB of the memory that may be taken",
                Self::Text { .. } => "headers may take a quarter of the memory that may be taken",
            }
            .to_owned(),
        )
    }

    fn help(&self) -> Option<String> {
        Some(
            match self {
                Self::Tensors { is_all: true, .. } | Self::Text { is_all: true, .. } => {
                    "fetch that file again; if it stays so, the program that wrote it is at fault"
                }
                Self::Tensors { .. } | Self::Text { .. } => "give more ‹max_memory›",
            }
            .to_owned(),
        )
    }
}
