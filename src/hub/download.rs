//! A decided download: its files are fetched several at once, then the snapshot and the ref are made.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::http::Subject;
use super::job::Job;
use super::listing::HubFile;
use super::patience::Halt;
use super::store::Store;
use super::transfer::Transfer;
use super::{Hub, PARALLEL};
use crate::checkpoint::hub::Snapshot;
use crate::error::{Error, HubError, Result};
use crate::progress::{Progress, Stage, Stop};
use crate::threads;

/// Requests at once, of all files together.
const REQUESTS: usize = 8;

/// Times that files are fetched again which another program removed in the meantime.
const MAX_ROUNDS: u32 = 3;

/// A decided download.
pub struct Download<'a> {
    pub(super) hub: &'a Hub,
    /// The repository.
    pub repo_id: String,
    /// The revision asked for.
    pub revision: String,
    /// The commit that it is now.
    pub commit: String,
    /// All files that are wanted.
    pub files: Vec<HubFile>,
    /// Those whose content is not in the cache, each content once.
    pub missing_files: Vec<HubFile>,
    /// Bytes that are still to be fetched.
    pub missing: u64,
    pub(super) store: Store,
}

impl Download<'_> {
    /// Fetches what is missing, then makes the snapshot and the ref. Writes nothing where nothing is missing.
    ///
    /// # Errors
    /// [`HubError::NoSpace`] before the first byte; [`HubError`] of the first file that fails. What was
    /// fetched stays, and another run goes on from there.
    pub fn run(&self, progress: &dyn Progress, stop: &Stop) -> Result<Snapshot> {
        let mut missing = self.missing_files.clone();
        for _ in 0..MAX_ROUNDS {
            self.fetch(&missing, progress, stop)?;
            self.link(&self.files)?;
            // Another program may have removed what was here, or what it fetched while this one waited for it.
            missing = self.missing_of(&self.files);
            if missing.is_empty() {
                self.store.write_ref(&self.revision, &self.commit)?;
                return Ok(self.snapshot());
            }
        }
        Err(HubError::Removed { repo_id: self.repo_id.clone() }.into())
    }

    /// Fetches these files.
    pub(super) fn fetch(&self, files: &[HubFile], progress: &dyn Progress, stop: &Stop) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let len = files.iter().map(|file| self.store.left(file)).sum();
        self.hub.check_space(len)?;
        self.store.make_ready()?;
        progress.begin(Stage::Download, len);
        self.fetch_all(files, progress, stop)?;
        progress.finish();
        Ok(())
    }

    /// Makes the snapshot lead to these files, as far as their contents are there.
    pub(super) fn link(&self, files: &[HubFile]) -> Result<()> {
        let mut left: HashMap<&str, usize> = HashMap::new();
        files.iter().for_each(|file| *left.entry(file.hash.name()).or_default() += 1);
        for file in files {
            let left = left.entry(file.hash.name()).or_default();
            *left = left.saturating_sub(1);
            if self.store.has(&self.commit, file) {
                self.store.link(&self.commit, file, *left == 0)?;
            }
        }
        Ok(())
    }

    /// Those of these files that are not in the cache, each content once.
    pub(super) fn missing_of(&self, files: &[HubFile]) -> Vec<HubFile> {
        let mut seen = std::collections::HashSet::new();
        let is_missing =
            |file: &&HubFile| !self.store.has(&self.commit, file) && seen.insert(file.hash.name().to_owned());
        files.iter().filter(is_missing).cloned().collect()
    }

    /// Where the files of this commit are.
    pub fn snapshot(&self) -> Snapshot {
        let dir = self.store.snapshot(&self.commit);
        Snapshot { dir, repo_id: self.repo_id.clone(), commit: self.commit.clone() }
    }

    fn fetch_all(&self, files: &[HubFile], progress: &dyn Progress, stop: &Stop) -> Result<()> {
        let next = AtomicUsize::new(0);
        let first: Mutex<Option<Error>> = Mutex::new(None);
        let failed = AtomicBool::new(false);
        let halt = Halt::of_many(stop, &failed);
        let workers = PARALLEL.min(files.len());
        let at_once = REQUESTS / workers.max(1);
        let work = || {
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                if halt.is_asked() {
                    return;
                }
                if let Err(error) = self.fetch_file(file, at_once, progress, halt) {
                    let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                    // What ended the others says more than that they were ended.
                    if first.as_ref().is_none_or(|first| matches!(first, Error::Interrupted { .. })) {
                        *first = Some(error);
                    }
                    halt.fail();
                }
            }
        };
        self.hub.until(halt, || threads::on_many(workers.saturating_sub(1), work));
        if stop.requested() {
            return Err(Error::Interrupted { kept: true });
        }
        first.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Fetches the content of one file. `at_once`: requests for it at once, where it is large.
    pub(super) fn fetch_file(
        &self,
        file: &HubFile,
        at_once: usize,
        progress: &dyn Progress,
        halt: Halt<'_>,
    ) -> Result<()> {
        let url = self.url(file);
        let transfer = self.transfer(file, &url, progress, halt);
        Job { store: &self.store, file, transfer, at_once }.run()
    }

    pub(super) fn transfer<'b>(
        &'b self,
        file: &'b HubFile,
        url: &'b str,
        progress: &'b dyn Progress,
        halt: Halt<'b>,
    ) -> Transfer<'b> {
        let subject = Subject { repo_id: &self.repo_id, revision: &self.revision, file: Some(&file.path) };
        Transfer { client: &self.hub.client, subject, url, size: file.size, progress, halt }
    }

    pub(super) fn url(&self, file: &HubFile) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
        let mut path = String::new();
        for byte in file.path.bytes() {
            if plain(byte) {
                path.push(char::from(byte));
            } else {
                path.push_str(&format!("%{byte:02X}"));
            }
        }
        format!("{}/{}/resolve/{}/{path}", self.hub.endpoint, self.repo_id, self.commit)
    }
}
