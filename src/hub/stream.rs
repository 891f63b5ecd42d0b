//! Files of weights that are fetched while a conversion reads them, and removed when it is done with them.
//!
//! [`Stream::open`] fetches all else and the heads of the weights, so that everything can be planned before the first
//! weight comes. [`Stream::run`] then fetches the files in the order in which the shards read them. Where they are
//! removed, no more are fetched ahead than [`AHEAD`], so the disk holds the files of the shard in work and these.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::listing::{BlobHash, HubFile};
use super::patience::Halt;
use super::{Download, PARALLEL};
use crate::checkpoint::index::INDEX_NAME;
use crate::checkpoint::safetensors::{PREFIX_LEN, head_len};
use crate::checkpoint::{Ahead, Checkpoint, Limits, SourceFile};
use crate::convert::Supply;
use crate::error::{CheckpointError, Error, HeaderFault, HubError, IoError, Result};
use crate::progress::{Progress, Stage, Stop};
use crate::threads;

/// Files fetched beyond those asked for, where files are removed on the way: one, so that the network is not idle while a
/// shard is computed.
const AHEAD: usize = 1;

/// Bytes asked for at first, which is more than most heads have.
const FIRST_LEN: u64 = 64 << 10;

/// Longest time until a request to stop is seen.
const TICK: Duration = Duration::from_millis(100);

/// Longest text that a dry run fetches: a plan is made from what configurations and templates say, and they are
/// shorter. Of longer ones the length is enough.
const MAX_TEXT_LEN: u64 = 16 << 20;

/// A download whose files of weights come later.
pub(crate) struct Stream<'a> {
    download: Download<'a>,
    ahead: Option<Ahead>,
}

impl<'a> Stream<'a> {
    /// Fetches all files but the weights, and the head of each file of weights that is not in the cache. `limits`: how
    /// much these may hold.
    ///
    /// # Errors
    /// [`HubError::NotStreamable`] where the weights are torch files; all that fetching can meet.
    pub(crate) fn open(
        download: Download<'a>,
        limits: Limits,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<Self> {
        let (weights, rest) = parts(&download)?;
        download.fetch(&download.missing_of(&rest), progress, stop)?;
        download.link(&rest)?;
        download.link(&weights)?;
        let mut ahead = Ahead::within(limits);
        download.heads(&weights, &mut ahead, progress, stop)?;
        Ok(Self { download, ahead: Some(ahead) })
    }

    /// The same for a look at what a conversion would do: what is missing is held in memory, nothing is written and
    /// nothing is removed.
    ///
    /// # Errors
    /// As [`Stream::open`].
    pub(crate) fn preview(
        download: Download<'a>,
        limits: Limits,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<Self> {
        let (weights, rest) = parts(&download)?;
        let mut ahead = Ahead::within(limits);
        let texts: Vec<&HubFile> =
            rest.iter().filter(|file| !download.store.is_linked(&download.commit, file)).collect();
        progress.begin(Stage::Download, texts.iter().map(|file| file.size).sum());
        for file in texts {
            let len = if file.path == INDEX_NAME || file.size <= MAX_TEXT_LEN { file.size } else { 0 };
            let text = download.first(file, len, progress, stop)?;
            progress.advance(file.size);
            let failed = |cause| IoError::new("holding a text in memory", &file.path, cause);
            ahead.add_text(&file.path, &text, file.size).map_err(failed)?;
        }
        progress.finish();
        let linked = |file: &&HubFile| !download.store.is_linked(&download.commit, file);
        let weights: Vec<HubFile> = weights.iter().filter(linked).cloned().collect();
        download.heads(&weights, &mut ahead, progress, stop)?;
        Ok(Self { download, ahead: Some(ahead) })
    }

    /// The download.
    pub(crate) fn download(&self) -> &Download<'a> {
        &self.download
    }

    /// The checkpoint, with the files that are yet to come. What is known of them goes into it, so there is one.
    ///
    /// # Errors
    /// As [`Checkpoint::open_awaiting`].
    pub(crate) fn checkpoint(&mut self) -> Result<Checkpoint> {
        let ahead = self.ahead.take().unwrap_or_else(|| Ahead::within(Limits::default()));
        Checkpoint::open_awaiting(&self.download.snapshot().dir, ahead)
    }

    /// Bytes that are yet to be fetched, without what an earlier run left of them. `reads`: numbers of the files that
    /// each shard reads.
    pub(crate) fn awaited_len(&self, checkpoint: &Checkpoint, reads: &[Vec<usize>]) -> u64 {
        let listed = self.listed(checkpoint);
        let awaited = order(reads).into_iter().filter(|file| !checkpoint.is_here(*file));
        awaited.filter_map(|file| *listed.get(file)?).map(|file| self.download.store.left(file)).sum()
    }

    /// The checkpoint's files of weights as the hub lists them.
    fn listed(&self, checkpoint: &Checkpoint) -> Vec<Option<&HubFile>> {
        let by_path: HashMap<&str, &HubFile> =
            self.download.files.iter().map(|file| (file.path.as_str(), file)).collect();
        checkpoint.files().iter().map(|file| by_path.get(file.path.as_str()).copied()).collect()
    }

    /// Bytes that files yet to come take in the cache at once, at most. `discard`: each is removed after the last
    /// shard that reads it.
    pub(crate) fn room(&self, checkpoint: &Checkpoint, reads: &[Vec<usize>], discard: bool) -> u64 {
        if !discard {
            return self.awaited_len(checkpoint, reads);
        }
        let file =
            |(number, file): (usize, &SourceFile)| if checkpoint.is_here(number) { 0 } else { file.len };
        let lens: Vec<u64> = checkpoint.files().iter().enumerate().map(file).collect();
        room(&lens, reads)
    }

    /// Runs `work` while files come in the order of `reads`. With `discard` a file is removed from the cache when
    /// nothing will read it any more, but for content that another revision has as well.
    ///
    /// # Errors
    /// What kept a file from coming, else what `work` returns.
    pub(crate) fn run<T>(
        &self,
        checkpoint: &Checkpoint,
        reads: &[Vec<usize>],
        discard: bool,
        (progress, stop): (&dyn Progress, &Stop),
        work: impl FnOnce(&Arrivals<'_>) -> Result<T>,
    ) -> Result<T> {
        let listed = self.listed(checkpoint);
        let here = (0..checkpoint.files().len()).filter(|file| checkpoint.is_here(*file));
        let files = here.map(|file| (file, State::Here)).collect();
        let state = Mutex::new(Shared::new(order(reads), files));
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
            let begin = |_: &usize| threads::also(scope, || arrivals.fetch());
            if (0..PARALLEL).take_while(begin).count() == 0 {
                // Nothing would ever come.
                let cause = rustix::io::Errno::AGAIN.into();
                return Err(IoError::new("starting a thread", "", cause).into());
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
        if outcome.is_ok()
            && !discard
            && let Err(error) = self.download.store.write_ref(&self.download.revision, &self.download.commit)
        {
            // What was asked for is done, and the cache is as good as before.
            progress.note(&format!(
                "the cache does not say that `{}` is {}: {error}",
                self.download.revision, self.download.commit
            ));
        }
        outcome
    }
}

/// The files in the order in which shards first read them.
fn order(reads: &[Vec<usize>]) -> Vec<usize> {
    let mut seen = HashSet::new();
    reads.iter().flatten().copied().filter(|file| seen.insert(*file)).collect()
}

/// The most that files yet to come take at once, where each goes after the last shard that reads it. `lens`: by number of
/// the file, 0 for one that is here. `reads`: as [`Stream::room`] has it.
fn room(lens: &[u64], reads: &[Vec<usize>]) -> u64 {
    let order = order(reads);
    let place: HashMap<usize, usize> = order.iter().enumerate().map(|(place, file)| (*file, place)).collect();
    let mut last = HashMap::new();
    for (shard, files) in reads.iter().enumerate() {
        last.extend(files.iter().map(|file| (*file, shard)));
    }
    let len = |file: &usize| lens.get(*file).copied().unwrap_or(0);
    let (mut begun, mut held, mut most) = (0, 0u64, 0);
    for (shard, files) in reads.iter().enumerate() {
        let asked = files.iter().filter_map(|file| place.get(file)).max().map_or(0, |place| place + 1);
        let until = order.len().min(asked + AHEAD).max(begun);
        held += order.get(begun..until).into_iter().flatten().map(len).sum::<u64>();
        begun = until;
        most = most.max(held);
        let gone: HashSet<&usize> = files.iter().filter(|file| last.get(file) == Some(&shard)).collect();
        held -= gone.into_iter().map(len).sum::<u64>();
    }
    most
}

/// The files of weights, which come later, and all others.
fn parts(download: &Download<'_>) -> Result<(Vec<HubFile>, Vec<HubFile>)> {
    let is_weights = |file: &HubFile| file.path.ends_with(".safetensors") && !file.path.contains('/');
    let (weights, rest): (Vec<_>, Vec<_>) = download.files.iter().cloned().partition(is_weights);
    if weights.is_empty() {
        return Err(HubError::NotStreamable { repo_id: download.repo_id.clone() }.into());
    }
    Ok((weights, rest))
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
    /// Where a file is in the order.
    place: HashMap<usize, usize>,
    /// By number; what is in neither state is yet to be fetched.
    files: HashMap<usize, State>,
    /// Files of the order that were asked for: so many from its begin.
    asked: usize,
    /// All of the order before this place are coming or here.
    next: usize,
    /// Files that were asked for and are not in the order.
    others: Vec<usize>,
    /// The work is done or has failed.
    over: bool,
    error: Option<crate::Error>,
}

impl Shared {
    fn new(order: Vec<usize>, files: HashMap<usize, State>) -> Self {
        let place = order.iter().enumerate().map(|(place, file)| (*file, place)).collect();
        Self { order, place, files, asked: 0, next: 0, others: Vec::new(), over: false, error: None }
    }

    /// A shard needs these files now.
    fn ask(&mut self, files: &[usize]) {
        for file in files {
            match self.place.get(file) {
                Some(place) => self.asked = self.asked.max(place + 1),
                // A shard that seemed to be finished was not, so its files are not in the order.
                None => self.others.push(*file),
            }
        }
    }

    /// The next file to fetch, which is coming from now on; of the order, none beyond `ahead` more than were asked for.
    fn take(&mut self, ahead: usize) -> Option<usize> {
        while let Some(file) = self.others.pop() {
            if !self.files.contains_key(&file) {
                return Some(self.begin(file));
            }
        }
        while let Some(&file) = self.order.get(self.next) {
            if self.files.contains_key(&file) {
                self.next += 1;
            } else if self.next < self.asked.saturating_add(ahead) {
                return Some(self.begin(file));
            } else {
                break;
            }
        }
        None
    }

    fn begin(&mut self, file: usize) -> usize {
        self.files.insert(file, State::Coming);
        file
    }
}

/// The files as they come.
pub(crate) struct Arrivals<'a> {
    download: &'a Download<'a>,
    checkpoint: &'a Checkpoint,
    listed: Vec<Option<&'a HubFile>>,
    discard: bool,
    progress: &'a dyn Progress,
    stop: &'a Stop,
    state: Mutex<Shared>,
    changed: Condvar,
    /// Tells files in work to stop.
    failed: AtomicBool,
}

impl Supply for Arrivals<'_> {
    /// Returns when the files can be read; [`Error::Interrupted`] also where one cannot come: [`Stream::run`] then
    /// returns why.
    fn bring(&self, files: &[usize]) -> Result<()> {
        let mut state = self.lock();
        state.ask(files);
        self.changed.notify_all();
        loop {
            if files.iter().all(|file| state.files.get(file) == Some(&State::Here)) {
                return Ok(());
            }
            if state.error.is_some() || self.stop.requested() {
                return Err(Error::Interrupted { kept: true });
            }
            state = self.wait(state);
        }
    }

    fn done(&self, file: usize) -> Result<()> {
        let Some(listed) = self.listed.get(file).copied().flatten().filter(|_| self.discard) else {
            return Ok(());
        };
        self.checkpoint.let_go(file);
        let halt = Halt::of(self.stop);
        self.download.discard(listed, halt)?;
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
            let ahead = if self.discard { AHEAD } else { usize::MAX };
            if let Some(file) = state.take(ahead) {
                return Some(file);
            }
            state = self.wait(state);
        }
    }

    fn fetch_one(&self, file: usize) -> Result<()> {
        let Some(listed) = self.listed.get(file).copied().flatten() else { return Ok(()) };
        let halt = Halt::of_many(self.stop, &self.failed);
        let download = self.download;
        // One request for each: several files come at once, and their buffers are no part of the memory planned.
        download.hub.until(halt, || download.fetch_file(listed, 1, self.progress, halt))?;
        download.link(std::slice::from_ref(listed))?;
        self.checkpoint.arrived(file)
    }
}

impl Download<'_> {
    /// The heads of those files that are not in the cache, one after the other: each may have 100 MB.
    fn heads(
        &self,
        weights: &[HubFile],
        ahead: &mut Ahead,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<()> {
        for file in weights.iter().filter(|file| !self.store.has(&self.commit, file)) {
            self.head(file, ahead, progress, stop)?;
        }
        Ok(())
    }

    /// The first bytes of a safetensors file: its length and its header.
    fn head(&self, file: &HubFile, ahead: &mut Ahead, progress: &dyn Progress, stop: &Stop) -> Result<()> {
        let fault = |fault| CheckpointError::header(&file.path, fault);
        let mut head = self.first(file, FIRST_LEN.min(file.size), progress, stop)?;
        let prefix = head.first_chunk::<{ PREFIX_LEN as usize }>();
        let short = HeaderFault::TooShort { len: file.size };
        let len = head_len(*prefix.ok_or_else(|| fault(short))?, file.size).map_err(fault)?;
        // Before it is fetched.
        ahead.check_text(len).map_err(fault)?;
        if len > head.len() as u64 {
            head = self.first(file, len, progress, stop)?;
        }
        head.truncate(len as usize);
        let sha256 = match &file.hash {
            BlobHash::Sha256(hex) => Some(hex.clone()),
            BlobHash::Git(_) => None,
        };
        Ok(ahead.add_weights(&file.path, file.size, sha256, &head).map_err(fault)?)
    }

    /// The first `len` bytes of a file.
    fn first(&self, file: &HubFile, len: u64, progress: &dyn Progress, stop: &Stop) -> Result<Vec<u8>> {
        let (url, halt, mut bytes) = (self.url(file), Halt::of(stop), Vec::new());
        self.hub.until(halt, || self.transfer(file, &url, progress, halt).fetch(0, len, &mut bytes))?;
        Ok(bytes)
    }

    /// Removes a file of the snapshot, and its content unless something else in the cache leads to it. Nobody else is
    /// about to use it meanwhile: whoever fetches it has its lock.
    fn discard(&self, file: &HubFile, halt: Halt<'_>) -> Result<()> {
        let _lock = self.store.lock(file, halt)?;
        self.store.remove(&self.commit, file)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    /// What [`room`] says, by its definition: at each shard, the files that were begun and are read by it or later.
    fn by_definition(lens: &[u64], reads: &[Vec<usize>]) -> u64 {
        let (order, mut begun, mut most) = (order(reads), 0, 0);
        for shard in 0..reads.len() {
            let asked = order.iter().rposition(|file| reads[shard].contains(file)).map_or(0, |last| last + 1);
            begun = begun.max(asked + AHEAD).min(order.len());
            let held =
                order[..begun].iter().filter(|file| reads[shard..].iter().any(|files| files.contains(file)));
            most = most.max(held.map(|file| lens[*file]).sum());
        }
        most
    }

    proptest! {
        #[test]
        fn the_room_is_that_of_the_files_begun_and_not_yet_read_to_the_end(
            lens in prop::collection::vec(0..100u64, 12),
            reads in prop::collection::vec(prop::collection::vec(0..12usize, 0..5), 0..8),
        ) {
            prop_assert_eq!(room(&lens, &reads), by_definition(&lens, &reads));
        }

        #[test]
        fn every_file_that_is_asked_for_is_fetched_once_and_none_far_ahead(
            reads in prop::collection::vec(prop::collection::vec(0..12usize, 0..5), 1..8),
            more in prop::collection::vec(12..15usize, 0..3),
        ) {
            let order = order(&reads);
            let mut state = Shared::new(order.clone(), HashMap::new());
            let mut taken = Vec::new();
            for (shard, files) in reads.iter().enumerate() {
                state.ask(files);
                if shard == 0 {
                    state.ask(&more);
                }
                taken.extend(std::iter::from_fn(|| state.take(AHEAD)));
                prop_assert!(files.iter().all(|file| taken.contains(file)));
                let of_order = taken.iter().filter(|file| order.contains(file)).count();
                prop_assert!(of_order <= state.asked + AHEAD);
            }
            let once: HashSet<&usize> = taken.iter().collect();
            prop_assert_eq!(once.len(), taken.len());
            prop_assert!(more.iter().all(|file| taken.contains(file)));
        }
    }

    #[test]
    fn a_hundred_thousand_files_are_no_matter() {
        // Once, each of these looked through all files for each file.
        const COUNT: usize = 100_000;
        let reads: Vec<Vec<usize>> = (0..COUNT).map(|file| vec![file, (file + 1) % COUNT]).collect();
        let start = Instant::now();
        assert_eq!(room(&vec![1; COUNT], &reads), 4);
        let mut state = Shared::new(order(&reads), HashMap::new());
        let mut taken = 0;
        for files in &reads {
            state.ask(files);
            taken += std::iter::from_fn(|| state.take(AHEAD)).count();
        }
        assert_eq!(taken, COUNT);
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
