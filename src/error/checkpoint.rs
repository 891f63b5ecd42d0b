//! Errors of finding and reading a checkpoint.

use super::Explain;

/// A checkpoint could not be found, or is not what its files claim.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {}

impl Explain for CheckpointError {}
