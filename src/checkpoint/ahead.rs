//! Files that a checkpoint's folder does not have yet, and as which they are read before they are there.
//!
//! A text is held in memory, so that what is planned from it needs no disk: a dry run writes nothing. Of weights the
//! header is known here, and what their files must begin with (`awaited`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;

use rustix::fs::{MemfdFlags, memfd_create};

use super::awaited::Awaited;
use super::files::{Fingerprint, Found};
use super::limits::{Left, Limits};
use crate::error::HeaderFault;

/// The files that are yet to come to one folder.
#[derive(Debug)]
pub struct Ahead {
    texts: BTreeMap<String, Text>,
    weights: Vec<Awaited>,
    left: Left,
}

impl Ahead {
    /// None yet, of a checkpoint that is bounded so.
    pub fn within(limits: Limits) -> Self {
        Self { texts: BTreeMap::new(), weights: Vec::new(), left: Left::of(limits) }
    }

    /// Adds a text: its path below the root, with `/`, and its content, or its length alone where that will not be
    /// read.
    ///
    /// # Errors
    /// The system's, where it has no memory for it.
    pub fn add_text(&mut self, path: &str, content: &[u8], len: u64) -> io::Result<()> {
        let mut file = File::from(memfd_create("text", MemfdFlags::CLOEXEC)?);
        file.write_all(content)?;
        file.set_len(len)?;
        self.texts.insert(path.to_owned(), Text(file));
        Ok(())
    }

    /// Checks that a head of `len` bytes may be added, before it is taken into memory.
    ///
    /// # Errors
    /// [`HeaderFault::OverLimit`].
    pub fn check_text(&self, len: u64) -> Result<(), HeaderFault> {
        Ok(self.left.clone().take_text(len)?)
    }

    /// Adds a safetensors file: its path below the root, its length, its SHA-256 as the sender says, and its
    /// first bytes, the eight of the length and the header.
    ///
    /// # Errors
    /// The fault in the header.
    pub fn add_weights(
        &mut self,
        path: &str,
        len: u64,
        sha256: Option<String>,
        head: &[u8],
    ) -> Result<(), HeaderFault> {
        self.weights.push(Awaited::new((path, len), sha256, head, &mut self.left)?);
        Ok(())
    }

    /// What the folder is read with, the weights, and what else the checkpoint may hold.
    pub(super) fn split(self) -> (Coming, Vec<Awaited>, Left) {
        let weights = self.weights.iter().map(|file| file.path.clone()).collect();
        (Coming { texts: self.texts, weights }, self.weights, self.left)
    }
}

/// The names of what is yet to come to a folder, and the texts.
#[derive(Debug, Default)]
pub(super) struct Coming {
    texts: BTreeMap<String, Text>,
    weights: BTreeSet<String>,
}

impl Coming {
    pub(super) fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.weights.is_empty()
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.texts.contains_key(path) || self.weights.contains(path)
    }

    pub(super) fn text(&self, path: &str) -> Option<&Text> {
        self.texts.get(path)
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.texts.keys().map(String::as_str)
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.texts().chain(self.weights.iter().map(String::as_str))
    }
}

/// A text in memory.
#[derive(Debug)]
pub(super) struct Text(File);

impl Text {
    pub(super) fn found(&self, path: &str) -> io::Result<Found> {
        let meta = self.0.metadata()?;
        Ok(Found {
            path: path.to_owned(),
            len: meta.len(),
            sha256: None,
            fingerprint: Fingerprint::of(&meta),
        })
    }

    /// Opened anew, so that every reader has a place of its own in it.
    pub(super) fn open(&self) -> io::Result<File> {
        File::open(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}
