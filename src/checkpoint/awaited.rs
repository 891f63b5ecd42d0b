//! Files of weights that come while a checkpoint is read, and go when they have been.
//!
//! All that a conversion must know beforehand is in a safetensors file's head, which a hub gives by itself. So a
//! checkpoint can be opened with the heads of files that are yet to come; each is held against its head when it
//! arrives. Torch files cannot be read before they are whole.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::files::{self, Fingerprint};
use super::limits::Left;
use super::{Checkpoint, SourceFile, safetensors};
use crate::digest::{Digest, Hasher};
use crate::error::{CheckpointError, HeaderFault, IoError, Result};

/// Bytes of a file's head that are read at once.
const BUFFER_LEN: usize = 64 << 10;

/// A safetensors file that is yet to come. Its head may have 100 MB, so of many only the digests are kept.
#[derive(Debug)]
pub(super) struct Awaited {
    /// Below the root, with `/`.
    pub(super) path: String,
    /// Length in bytes.
    pub(super) len: u64,
    /// SHA-256 in lower-case hexadecimal digits, as the sender says.
    pub(super) sha256: Option<String>,
    pub(super) header: safetensors::Header,
    pub(super) head: Head,
}

/// The first bytes of a file: the eight of the length and the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    len: u64,
    sha256: Digest,
}

impl Head {
    /// The `len` first bytes of an open file.
    fn read(file: &File, len: u64) -> std::io::Result<Self> {
        let (mut hasher, mut at) = (Hasher::default(), 0);
        let mut buffer = vec![0; BUFFER_LEN];
        while at < len {
            let wanted = usize::try_from(len - at).map_or(BUFFER_LEN, |left| left.min(BUFFER_LEN));
            let Some(part) = buffer.get_mut(..wanted) else { break };
            file.read_exact_at(part, at)?;
            hasher.update(part);
            at += wanted as u64;
        }
        Ok(Self { len, sha256: hasher.finish() })
    }
}

/// Whether a file of weights can be read now.
#[derive(Debug)]
pub(super) enum Held {
    /// It is open.
    Open(File, Fingerprint),
    /// It is yet to come, and must begin so.
    Awaited(Head),
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
    /// [`CheckpointError::NotAsAwaited`] where its length or its head is another than was announced.
    pub fn arrived(&self, file: usize) -> Result<()> {
        let Some(source) = self.files.get(file) else { return Ok(()) };
        let mut held = source.handle.set();
        let Held::Awaited(head) = &*held else { return Ok(()) };
        let shown = self.root.shown(&source.path);
        let missing = || CheckpointError::NotHere { path: shown.clone() };
        let found = self.root.find(&source.path)?.ok_or_else(missing)?;
        let opened = self.root.open(&source.path, &found.fingerprint)?;
        let read = || {
            Head::read(&opened, head.len)
                .map_err(|cause| IoError::new("reading a file of the checkpoint", &shown, cause))
        };
        if found.len != source.len || read()? != *head {
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
    pub(super) fn recheck_weights(&self, source: &SourceFile) -> Result<()> {
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
    /// The file at `path` below the root, `len` bytes long, that begins with `head`. `sha256`: as whoever sends it
    /// tells. `left`: what the checkpoint may still hold.
    pub(super) fn new(
        (path, len): (&str, u64),
        sha256: Option<String>,
        head: &[u8],
        left: &mut Left,
    ) -> Result<Self, HeaderFault> {
        let header = safetensors::parse_head(head, len, left)?;
        let head = Head { len: head.len() as u64, sha256: Digest::of(head) };
        Ok(Self { path: path.to_owned(), len, sha256, header, head })
    }
}
