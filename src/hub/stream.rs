//! Files of weights that are fetched while a conversion reads them, and removed when it is done with them.
//!
//! [`Stream::open`] fetches all else and the heads of the weights, so that everything can be planned before the first
//! weight comes. [`Stream::run`] then fetches the files in the order in which the shards read them. Where they are
//! removed, no more are fetched ahead than [`AHEAD`], so the disk holds the files of the shard in work and these.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::http::{Failure, read_at_most, retried};
use super::listing::{BlobHash, Listed};
use super::{Download, PARALLEL, io_error};
use crate::checkpoint::safetensors::{PREFIX_LEN, head_len};
use crate::checkpoint::{Awaited, Checkpoint, Limits, SourceFile};
use crate::convert::Supply;
use crate::error::{CheckpointError, HeaderFault, HubError, Result};
use crate::progress::{Progress, Stage, Stop};
use crate::size::counted;

/// Files fetched beyond those asked for, where files are removed on the way: one, so that the network is not idle while a
/// shard is computed.
const AHEAD: usize = 1;

/// Bytes asked for at first, which is more than most heads have.
const FIRST_LEN: u64 = 64 << 10;

/// Longest time until a request to stop is seen.
const TICK: Duration = Duration::from_millis(100);

/// A download whose files of weights come later.
pub struct Stream<'a> {
    download: Download<'a>,
    awaited: Vec<Awaited>,
}

impl<'a> Stream<'a> {
    /// Fetches all files but the weights, and the head of each file of weights that is not in the cache.
    ///
    /// # Errors
    /// [`HubError::NotStreamable`] where the weights are torch files; all that fetching can meet.
    pub fn open(download: Download<'a>, progress: &dyn Progress, stop: &Stop) -> Result<Self> {
        let (weights, rest): (Vec<_>, Vec<_>) = download.files.iter().partition(|file| is_weights(file));
        if weights.is_empty() {
            return Err(HubError::NotStreamable { repo_id: download.repo_id.clone() }.into());
        }
        let missing: Vec<Listed> =
            download.missing_files.iter().filter(|file| !is_weights(file)).cloned().collect();
        download.make_folders()?;
        if !missing.is_empty() {
            let len = missing.iter().map(|file| file.size).sum();
            download.hub.check_space(len)?;
            progress.begin(Stage::Download, len);
            download.fetch_all(&missing, progress, stop)?;
            progress.finish();
        }
        rest.into_iter().try_for_each(|file| download.link(file))?;
        let mut awaited = Vec::new();
        for file in weights {
            if download.blob(file).exists() {
                download.link(file)?;
            } else {
                // A link that an earlier run left leads nowhere.
                remove_if_there(&download.snapshot().dir.join(&file.path))?;
                awaited.push(download.hub.until(stop, || download.head(file, stop))?);
            }
        }
        Ok(Self { download, awaited })
    }

    /// The download.
    pub fn download(&self) -> &Download<'a> {
        &self.download
    }

    /// The checkpoint, within `limits`, with the files that are yet to come.
    ///
    /// # Errors
    /// As [`Checkpoint::open_awaiting`].
    pub fn checkpoint(&self, limits: Limits) -> Result<Checkpoint> {
        Checkpoint::open_awaiting(&self.download.snapshot().dir, &self.awaited, limits)
    }

    /// Bytes that are yet to be fetched, without what an earlier run left of them. `reads`: numbers of the files that
    /// each shard reads.
    pub fn awaited_len(&self, checkpoint: &Checkpoint, reads: &[Vec<usize>]) -> u64 {
        let awaited = order(reads).into_iter().filter(|file| !checkpoint.is_here(*file));
        let listed = awaited.filter_map(|file| self.listed(checkpoint.files().get(file)?));
        listed.map(|file| self.download.left(file)).sum()
    }

    fn listed(&self, file: &SourceFile) -> Option<&Listed> {
        self.download.files.iter().find(|listed| listed.path == file.path)
    }

    /// Bytes that files yet to come take in the cache at once, at most. `discard`: each is removed after the last
    /// shard that reads it.
    pub fn room(&self, checkpoint: &Checkpoint, reads: &[Vec<usize>], discard: bool) -> u64 {
        if !discard {
            return self.awaited_len(checkpoint, reads);
        }
        let order = order(reads);
        let len = |file: &usize| if checkpoint.is_here(*file) { 0 } else { checkpoint.files()[*file].len };
        let at = |shard: usize| {
            let asked = order.iter().rposition(|file| reads[shard].contains(file)).unwrap_or(0);
            let begun = order.iter().take(asked + 1 + AHEAD);
            let held = begun.filter(|file| reads[shard..].iter().any(|files| files.contains(file)));
            held.map(len).sum::<u64>()
        };
        (0..reads.len()).map(at).max().unwrap_or(0)
    }

    /// Runs `work` while files come in the order of `reads`. With `discard` a file is removed from the cache when
    /// nothing will read it any more, but for content that another revision has as well.
    ///
    /// # Errors
    /// What kept a file from coming, else what `work` returns.
    pub fn run<T>(
        &self,
        checkpoint: &Checkpoint,
        reads: &[Vec<usize>],
        discard: bool,
        (progress, stop): (&dyn Progress, &Stop),
        work: impl FnOnce(&Arrivals<'_>) -> Result<T>,
    ) -> Result<T> {
        let listed = checkpoint.files().iter().map(|file| self.listed(file)).collect();
        let here = (0..checkpoint.files().len()).filter(|file| checkpoint.is_here(*file));
        let files = here.map(|file| (file, State::Here)).collect();
        let state = Mutex::new(Shared { order: order(reads), files, asked: 0, over: false, error: None });
        let arrivals = Arrivals {
            download: &self.download,
            checkpoint,
            listed,
            discard,
            progress,
            stop,
            state,
            changed: Condvar::new(),
            failed: AtomicBool::new(false),
        };
        let outcome = std::thread::scope(|scope| {
            for _ in 0..PARALLEL {
                scope.spawn(|| arrivals.fetch());
            }
            let outcome = work(&arrivals);
            arrivals.lock().over = true;
            arrivals.failed.store(true, Ordering::Relaxed);
            arrivals.changed.notify_all();
            outcome
        });
        if let Some(error) = arrivals.lock().error.take() {
            return Err(error);
        }
        if outcome.is_ok() && !discard {
            self.download.write_ref()?;
        }
        outcome
    }
}

/// The files in the order in which shards first read them.
fn order(reads: &[Vec<usize>]) -> Vec<usize> {
    let mut order = Vec::new();
    for file in reads.iter().flatten() {
        if !order.contains(file) {
            order.push(*file);
        }
    }
    order
}

fn is_weights(file: &Listed) -> bool {
    file.path.ends_with(".safetensors") && !file.path.contains('/')
}

/// Where one file is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Coming,
    Here,
}

struct Shared {
    /// Files that are read, in the order in which they are fetched.
    order: Vec<usize>,
    /// By number; what is in neither state is yet to be fetched.
    files: HashMap<usize, State>,
    /// Files of the order that were asked for: so many from its begin.
    asked: usize,
    /// The work is done or has failed.
    over: bool,
    error: Option<crate::Error>,
}

/// The files as they come.
pub struct Arrivals<'a> {
    download: &'a Download<'a>,
    checkpoint: &'a Checkpoint,
    listed: Vec<Option<&'a Listed>>,
    discard: bool,
    progress: &'a dyn Progress,
    stop: &'a Stop,
    state: Mutex<Shared>,
    changed: Condvar,
    /// Tells files in work to stop.
    failed: AtomicBool,
}

impl Supply for Arrivals<'_> {
    /// Returns when the files can be read; [`HubError::Interrupted`] also where one cannot come: [`Stream::run`] then
    /// returns why.
    fn bring(&self, files: &[usize]) -> Result<()> {
        let mut state = self.lock();
        for file in files {
            // A shard that seemed to be finished was not, so its files are not in the order.
            if !state.order.contains(file) {
                let asked = state.asked;
                state.order.insert(asked, *file);
            }
        }
        let last = state.order.iter().rposition(|file| files.contains(file));
        state.asked = state.asked.max(last.map_or(0, |last| last + 1));
        self.changed.notify_all();
        loop {
            if files.iter().all(|file| state.files.get(file) == Some(&State::Here)) {
                return Ok(());
            }
            if state.error.is_some() || self.stop.requested() {
                return Err(HubError::Interrupted.into());
            }
            state = self.wait(state);
        }
    }

    fn done(&self, file: usize) -> Result<()> {
        let Some(listed) = self.listed.get(file).copied().flatten().filter(|_| self.discard) else {
            return Ok(());
        };
        self.checkpoint.let_go(file);
        self.download.remove(listed)?;
        Ok(())
    }

    fn removes(&self) -> bool {
        self.discard
    }
}

impl Arrivals<'_> {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'b>(&self, state: MutexGuard<'b, Shared>) -> MutexGuard<'b, Shared> {
        self.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Fetches one file after the other until all are here or the work is over.
    fn fetch(&self) {
        while let Some(file) = self.next() {
            let outcome = self.fetch_one(file);
            let mut state = self.lock();
            match outcome {
                Ok(()) => {
                    state.files.insert(file, State::Here);
                }
                Err(error) => {
                    if !state.over {
                        state.error.get_or_insert(error);
                    }
                    state.over = true;
                    self.failed.store(true, Ordering::Relaxed);
                }
            }
            self.changed.notify_all();
        }
    }

    /// The next file to fetch, when it may come; `None` when the work is over.
    fn next(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.over || self.stop.requested() {
                return None;
            }
            let next = state.order.iter().position(|file| !state.files.contains_key(file));
            if let Some(next) = next.filter(|next| !self.discard || *next < state.asked + AHEAD) {
                let file = state.order[next];
                state.files.insert(file, State::Coming);
                return Some(file);
            }
            state = self.wait(state);
        }
    }

    fn fetch_one(&self, file: usize) -> Result<()> {
        let Some(listed) = self.listed.get(file).copied().flatten() else { return Ok(()) };
        let job = self.download.job(listed, self.progress, self.stop, &self.failed);
        self.download.hub.until(self.stop, || job.run())?;
        self.download.link(listed)?;
        self.checkpoint.arrived(file)
    }
}

impl Download<'_> {
    /// The first bytes of a safetensors file: its length and its header.
    fn head(&self, file: &Listed, stop: &Stop) -> Result<Awaited> {
        let fault = |fault| CheckpointError::header(&file.path, fault);
        let mut head = self.first(file, FIRST_LEN.min(file.size), stop)?;
        let prefix = head.first_chunk::<{ PREFIX_LEN as usize }>();
        let short = HeaderFault::TooShort { len: file.size };
        let len = head_len(*prefix.ok_or_else(|| fault(short))?, file.size).map_err(fault)?;
        if len > head.len() as u64 {
            head = self.first(file, len, stop)?;
        }
        head.truncate(len as usize);
        let sha256 = match &file.hash {
            BlobHash::Sha256(hex) => Some(hex.clone()),
            BlobHash::Git(_) => None,
        };
        Ok(Awaited { path: file.path.clone(), len: file.size, sha256, head })
    }

    /// The first `len` bytes of a file.
    fn first(&self, file: &Listed, len: u64, stop: &Stop) -> Result<Vec<u8>, HubError> {
        let url = self.url(file);
        retried(stop, || {
            let answer = self.hub.client.get_first(&url, len, self.subject(file))?;
            let bytes = read_at_most(answer, len).map_err(|why| Failure::again(&url, why))?;
            if bytes.len() as u64 != len {
                let why = format!("the answer ended after {} of {}", bytes.len(), counted(len, "byte"));
                return Err(Failure::again(&url, why));
            }
            Ok(bytes)
        })
    }

    /// Removes a file of the snapshot, and its content unless another snapshot leads to it.
    fn remove(&self, file: &Listed) -> Result<(), HubError> {
        remove_if_there(&self.snapshot().dir.join(&file.path))?;
        let blob = self.blob(file);
        let snapshots = self.repo.join("snapshots");
        if leads_to(&snapshots, &blob).map_err(io_error("listing the cache", &snapshots))? {
            return Ok(());
        }
        remove_if_there(&blob)
    }
}

fn remove_if_there(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(io_error("removing a file from the cache", path)(cause))
        }
        _ => Ok(()),
    }
}

/// True where a link below `dir` leads to `blob`.
fn leads_to(dir: &Path, blob: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let path = entry.path();
        if kind.is_dir() && leads_to(&path, blob)? {
            return Ok(true);
        }
        // One that is gone meanwhile was of a file that is being linked under another name.
        if kind.is_symlink() && fs::read_link(&path).is_ok_and(|to| to.file_name() == blob.file_name()) {
            return Ok(true);
        }
    }
    Ok(false)
}
