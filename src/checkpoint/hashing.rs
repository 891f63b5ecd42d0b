//! Digests of whole files of weights: every byte read once more, in order, with the gaps between tensors.

use super::awaited::Held;
use super::{Checkpoint, CheckpointError};
use crate::digest::{self, Digest};
use crate::error::{Error, IoError, Result};
use crate::progress::{Progress, Stop};

impl Checkpoint {
    /// The digest of the file of weights of this number, from the open file that tensors are read from.
    ///
    /// # Errors
    /// [`CheckpointError::NotHere`] where the file is awaited or was let go; reading errors;
    /// [`Error::Interrupted`].
    pub fn digest_of(&self, file: usize, progress: &dyn Progress, stop: &Stop) -> Result<Digest> {
        let source =
            self.files.get(file).ok_or_else(|| CheckpointError::NotHere { path: self.root.shown("") })?;
        let shown = self.root.shown(&source.path);
        let held = source.handle.get();
        let Held::Open(open, _) = &*held else { return Err(CheckpointError::NotHere { path: shown }.into()) };
        let digest = digest::of_file(open, progress, stop);
        let digest =
            digest.map_err(|cause| IoError::new("reading a file of the checkpoint", shown, cause))?;
        digest.ok_or(Error::Interrupted { kept: false })
    }
}
