//! One content: from the hub into `blobs/`, resumed, checked, then named.
//!
//! Unfinished bytes lie in `blobs/HASH.incomplete`, under a lock on `.locks/REPO/HASH.lock`: the lock is the
//! one that huggingface_hub takes (flock), so two programs never fetch one blob at once. The blob appears
//! under its name only when its digest is right and it is on the disk.
//!
//! The unfinished file is at all times the begin of the content and nothing else, so whoever finds it can go on:
//! huggingface_hub 0.20 has the same name for it. Version 2.4 writes to `blobs/HASH.RANDOM.incomplete`, a name of each
//! process. Those are never read here: with Xet their bytes do not come in order. `hf cache prune` removes both.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use sha1::Digest as _;

use super::listing::{BlobHash, HubFile};
use super::ranges;
use super::store::{Store, io_error};
use super::transfer::{Sink, Transfer};
use crate::digest::Hasher;
use crate::error::{Error, HubError, Result};
use crate::output;
use crate::progress::Progress;

/// Bytes read at once.
const BUFFER_LEN: usize = 256 << 10;

/// Times that a whole file with a wrong digest is fetched.
const MAX_WRONG: u32 = 2;

/// One content to fetch.
pub(super) struct Job<'a> {
    pub(super) store: &'a Store,
    pub(super) file: &'a HubFile,
    pub(super) transfer: Transfer<'a>,
    /// Requests for it at once.
    pub(super) at_once: usize,
}

impl Job<'_> {
    /// Fetches what is missing of the content.
    pub(super) fn run(&self) -> Result<()> {
        let halt = self.transfer.halt;
        let _lock = self.store.lock(self.file, halt)?;
        if self.store.has_blob(self.file) {
            return Ok(());
        }
        let path = self.store.unfinished(self.file);
        let file = self.store.open_unfinished(self.file)?;
        let mut content = Content::new(self.file, file, path.clone(), self.transfer.progress);
        content.keep(&|| halt.is_asked()).map_err(io_error("reading the unfinished file", &path))?;
        if halt.is_asked() {
            return Err(Error::Interrupted { kept: true });
        }
        for round in 1.. {
            ranges::fetch(&self.transfer, &mut content, self.at_once)?;
            let received = content.digest.finish();
            if received == self.file.hash.name() {
                break;
            }
            content.empty()?;
            if round == MAX_WRONG {
                let listed = self.file.hash.name().to_owned();
                return Err(HubError::WrongBytes { file: self.file.path.clone(), listed, received }.into());
            }
        }
        output::sync(&content.file).map_err(io_error("writing to the disk", &path))?;
        self.store.finish(self.file)
    }
}

/// The unfinished file, and the digest of what is in it.
pub(super) struct Content<'a> {
    listed: &'a HubFile,
    file: File,
    path: PathBuf,
    digest: Running,
    progress: &'a dyn Progress,
    /// Bytes that were reported to progress: those that come a second time are nothing new.
    told: u64,
}

impl<'a> Content<'a> {
    fn new(listed: &'a HubFile, file: File, path: PathBuf, progress: &'a dyn Progress) -> Self {
        Self { listed, file, path, digest: Running::new(listed), progress, told: 0 }
    }

    /// Takes up the bytes that an earlier run left.
    fn keep(&mut self, is_halted: &dyn Fn() -> bool) -> io::Result<()> {
        let kept = self.file.metadata()?.len();
        if kept > self.listed.size {
            return self.file.set_len(0);
        }
        let mut buffer = vec![0; BUFFER_LEN];
        while self.digest.len < kept && !is_halted() {
            let len = self.file.read(&mut buffer)?;
            if len == 0 {
                break;
            }
            self.digest.update(buffer.get(..len).unwrap_or_default());
        }
        self.told = self.digest.len;
        Ok(())
    }
}

impl Sink for Content<'_> {
    fn len(&self) -> u64 {
        self.digest.len
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(io_error("writing", &self.path))?;
        self.digest.update(bytes);
        let new = self.digest.len.saturating_sub(self.told);
        self.progress.advance(new);
        self.told += new;
        Ok(())
    }

    fn empty(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(io_error("emptying the unfinished file", &self.path))?;
        self.digest = Running::new(self.listed);
        Ok(())
    }
}

/// A digest as bytes come, and how many came.
struct Running {
    len: u64,
    kind: Kind,
}

enum Kind {
    Sha256(Box<Hasher>),
    Git(Box<sha1::Sha1>),
}

impl Running {
    fn new(file: &HubFile) -> Self {
        let kind = match file.hash {
            BlobHash::Sha256(_) => Kind::Sha256(Box::default()),
            BlobHash::Git(_) => {
                Kind::Git(Box::new(sha1::Sha1::new_with_prefix(format!("blob {}\0", file.size))))
            }
        };
        Self { len: 0, kind }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        match &mut self.kind {
            Kind::Sha256(hasher) => hasher.update(bytes),
            Kind::Git(hasher) => hasher.update(bytes),
        }
    }

    /// Hexadecimal digits of all that came; begins anew.
    fn finish(&mut self) -> String {
        match &mut self.kind {
            Kind::Sha256(hasher) => std::mem::take(hasher).finish().to_string(),
            Kind::Git(hasher) => hasher.finalize_reset().iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}
