//! Files of weights that come while a checkpoint is read, and go when they have been.
//!
//! All that a conversion must know beforehand is in a safetensors file's head, which a hub gives by itself. So a
//! checkpoint can be opened with the heads of files that are yet to come; each is held against its head when it
//! arrives. Torch files tell nothing before they are whole.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::files::{self, Fingerprint};
use super::limits::Left;
use super::{Checkpoint, SourceFile, safetensors};
use crate::error::{CheckpointError, Result};

/// A safetensors file that is yet to come.
#[derive(Clone, Debug)]
pub struct Awaited {
    /// Below the root, with `/`.
    pub path: String,
    /// Length in bytes.
    pub len: u64,
    /// SHA-256 in lower-case hexadecimal digits, as whoever sends it tells.
    pub sha256: Option<String>,
    /// Its first bytes: the eight of the length and the header.
    pub head: Vec<u8>,
}

/// Whether a file of weights can be read now.
#[derive(Debug)]
pub(super) enum Held {
    /// It is open.
    Open(File, Fingerprint),
    /// It is yet to come, and must begin with these bytes.
    Awaited(Vec<u8>),
    /// It was read to the end, and may be gone.
    LetGo,
}

/// What one file of weights is read through, by any number of threads.
#[derive(Debug)]
pub(super) struct Handle(RwLock<Held>);

impl Handle {
    pub(super) fn new(held: Held) -> Self {
        Self(RwLock::new(held))
    }

    pub(super) fn get(&self) -> RwLockReadGuard<'_, Held> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self) -> RwLockWriteGuard<'_, Held> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Checkpoint {
    /// True where the file of this number can be read.
    pub fn is_here(&self, file: usize) -> bool {
        self.files.get(file).is_some_and(|file| matches!(&*file.handle.get(), Held::Open(..)))
    }

    /// Opens a file that was awaited and lies at its path now.
    ///
    /// # Errors
    /// [`CheckpointError::NotAsAwaited`] where its length or its head is another than was told.
    pub fn arrived(&self, file: usize) -> Result<()> {
        let Some(source) = self.files.get(file) else { return Ok(()) };
        let mut held = source.handle.set();
        let Held::Awaited(head) = &*held else { return Ok(()) };
        let shown = self.root.shown(&source.path);
        let missing = || CheckpointError::NotHere { path: shown.clone() };
        let found = self.root.find(&source.path)?.ok_or_else(missing)?;
        let opened = self.root.open(&source.path, &found.fingerprint)?;
        let mut begin = vec![0; head.len()];
        if found.len == source.len {
            let read = opened.read_exact_at(&mut begin, 0);
            read.map_err(|cause| CheckpointError::io(&shown, "read", cause))?;
        }
        if found.len != source.len || begin != *head {
            return Err(CheckpointError::NotAsAwaited { path: shown }.into());
        }
        *held = Held::Open(opened, found.fingerprint);
        Ok(())
    }

    /// Closes a file that nothing will read any more. What happens to it then is no change of the checkpoint.
    pub fn let_go(&self, file: usize) {
        if let Some(source) = self.files.get(file) {
            *source.handle.set() = Held::LetGo;
        }
    }

    /// Checks that a file of weights is as it was, where it was read and is still held.
    pub(super) fn recheck_weights(&self, source: &SourceFile) -> Result<(), CheckpointError> {
        match &*source.handle.get() {
            Held::Open(file, fingerprint) => {
                // The name first: another file there says more than that the one held lost its name.
                self.root.recheck(&source.path, fingerprint)?;
                files::recheck_open(file, &self.root.shown(&source.path), fingerprint)
            }
            Held::Awaited(_) | Held::LetGo => Ok(()),
        }
    }
}

impl Awaited {
    /// The header that the head holds.
    pub(super) fn header(&self, left: &mut Left) -> Result<safetensors::Header, crate::error::HeaderFault> {
        safetensors::parse_head(&self.head, self.len, left)
    }
}
