//! Downloads from the Hugging Face hub into its cache on this machine.
//!
//! [`Hub::plan`] asks what a revision holds and chooses; [`Download::run`] fetches the chosen files in
//! parallel. Each file is checked against the digest in the hub's listing before it gets its name in
//! `blobs/`. The snapshot's links, and then the ref, are made when all files are there, so a broken download
//! leaves no snapshot that looks whole. The layout is huggingface_hub's; which addresses, tokens, proxies and
//! folders count is read from the same environment variables.
//!
//! From the top: `download` (all files) and `stream` (files that come while they are read), over `job` (one content),
//! over `ranges` (several requests for it) and `transfer` (one range, resumed), over `http` (one request) and
//! `patience` (when the next, and when none). `store` is the cache as it is written.
//!
//! huggingface_hub keeps the listing of a commit that it fetched whole in `trees/COMMIT.json`. It is read
//! (`checkpoint::hub`) and never written: with it, huggingface_hub would ask for the files that are left out here.

mod choice;
mod download;
mod http;
mod job;
mod listing;
mod patience;
mod place;
mod proxy;
mod ranges;
mod store;
mod stream;
mod token;
mod transfer;

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) use choice::fits;
pub(crate) use download::Download;
pub(crate) use listing::{HubFile, Listing};
pub(crate) use stream::Stream;

use crate::checkpoint::hub::{HubCache, checked_revision};
use crate::disk;
use crate::error::{HubError, Result};
use crate::family::Tower;
use crate::progress::{Progress, Stop};
use crate::size::counted;
use crate::threads;
use http::{Client, Failure, Subject, read_at_most};
use patience::{Halt, Patience, TICK};
use store::{Store, io_error};

/// Where the hub is, unless `HF_ENDPOINT` says otherwise.
pub(crate) const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Files fetched at once.
const PARALLEL: usize = 4;

/// Longest listing.
const MAX_LISTING_LEN: u64 = 32 << 20;

/// Longest silence of a server, unless `HF_HUB_DOWNLOAD_TIMEOUT` (seconds) says otherwise, and the longest that it may
/// say.
const STALL: Duration = Duration::from_secs(30);
const MAX_STALL: Duration = Duration::from_secs(24 * 60 * 60);

/// What is wanted of a repository.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted<'a> {
    /// A checkpoint: weights in one format, config, tokenizer, texts.
    Checkpoint,
    /// One of MGM's towers: what MGM opens.
    Tower(&'a Tower),
    /// Whatever fits these patterns.
    Patterns {
        /// Only these, where there are any; else those of a checkpoint.
        include: &'a [String],
        /// None of these.
        exclude: &'a [String],
    },
}

/// The hub, and the cache that its files go to.
pub(crate) struct Hub {
    client: Client,
    endpoint: String,
    cache: HubCache,
}

/// True where the environment forbids the network: `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`.
pub(crate) fn is_offline(var: impl Fn(&str) -> Option<OsString>) -> bool {
    ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().any(|name| is_true(var(name)))
}

fn is_true(value: Option<OsString>) -> bool {
    let text = value.map(|value| value.to_string_lossy().to_ascii_lowercase());
    matches!(text.as_deref(), Some("1" | "on" | "yes" | "true"))
}

impl Hub {
    /// The hub that the environment names: `HF_ENDPOINT`, the token, `HF_HUB_DOWNLOAD_TIMEOUT`, proxies,
    /// certificates.
    ///
    /// # Errors
    /// [`HubError::BadEndpoint`]; [`HubError::BadToken`]; [`crate::Error::Io`] for certificates and tokens that cannot be
    /// read.
    pub(crate) fn from_env(cache: HubCache, var: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let text = |name: &str| {
            let text = var(name)?.to_string_lossy().into_owned();
            Some(text).filter(|text| !text.trim().is_empty())
        };
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        let stall = text("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|text| text.trim().parse().ok());
        let stall = stall.filter(|seconds| *seconds > 0).map_or(STALL, Duration::from_secs);
        let client = Client::new(&endpoint, token::find(&var)?, stall.min(MAX_STALL), &var)?;
        Ok(Self { client, endpoint, cache })
    }

    /// Checks that the cache's disk has room for `needed` bytes.
    ///
    /// # Errors
    /// [`HubError::NoSpace`] with the shortfall.
    pub(crate) fn check_space(&self, needed: u64) -> Result<()> {
        let dir = self.cache.dir();
        let free = disk::free(dir).map_err(io_error("asking for the free space", dir))?;
        if free < needed {
            return Err(HubError::NoSpace { path: dir.to_owned(), needed, free }.into());
        }
        Ok(())
    }

    /// Asks what `repo_id` holds at `revision` and chooses what is `wanted`. Writes nothing.
    ///
    /// # Errors
    /// [`HubError`] for whatever the hub answers but a sound listing; the cache's errors for bad names.
    pub(crate) fn plan(
        &self,
        repo_id: &str,
        revision: Option<&str>,
        wanted: Wanted<'_>,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<Download<'_>> {
        let store = Store::new(&self.cache, repo_id)?;
        let revision = checked_revision(revision)?;
        let subject = Subject { repo_id, revision, file: None };
        let listing = self.until(Halt::of(stop), || self.listing(subject, progress, Halt::of(stop)))?;
        let files = match wanted {
            Wanted::Checkpoint => choice::checkpoint(&listing),
            Wanted::Tower(tower) => choice::tower(&listing, tower),
            Wanted::Patterns { include, exclude } => {
                let any = |patterns: &[String], file: &HubFile| {
                    patterns.iter().any(|pattern| fits(pattern, &file.path))
                };
                let base =
                    if include.is_empty() { choice::checkpoint(&listing) } else { listing.files.clone() };
                let chosen =
                    |file: &HubFile| (include.is_empty() || any(include, file)) && !any(exclude, file);
                base.into_iter().filter(chosen).collect()
            }
        };
        if files.is_empty() {
            return Err(HubError::NothingWanted { repo_id: repo_id.to_owned() }.into());
        }
        let mut download = Download {
            hub: self,
            repo_id: repo_id.to_owned(),
            revision: revision.to_owned(),
            commit: listing.commit,
            files,
            missing_files: Vec::new(),
            missing: 0,
            store,
        };
        download.missing_files = download.missing_of(&download.files);
        download.missing = download.missing_files.iter().map(|file| download.store.left(file)).sum();
        Ok(download)
    }

    /// Does `work`, and ends its requests as soon as a halt is asked, also where a server keeps silent.
    fn until<T>(&self, halt: Halt<'_>, work: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        let watch = || {
            while !done.load(Ordering::Relaxed) {
                if halt.is_asked() {
                    return self.client.end_requests();
                }
                std::thread::sleep(TICK);
            }
        };
        std::thread::scope(|scope| {
            let _done = SetOnDrop(&done);
            // Where there can be no watch, each request still looks at the halt by itself.
            threads::also(scope, watch);
            work()
        })
    }

    fn listing(&self, subject: Subject<'_>, progress: &dyn Progress, halt: Halt<'_>) -> Result<Listing> {
        let revision = subject.revision.replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision}?blobs=true", self.endpoint, subject.repo_id);
        let ask = || {
            let answer = self.client.get(&url, None, subject, halt)?;
            read_at_most(answer, MAX_LISTING_LEN + 1).map_err(|why| Failure::again(&url, why))
        };
        let mut patience = Patience::new(self.client.patience(), Instant::now());
        let text = loop {
            match ask() {
                Ok(text) => break text,
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { url, why, wait }) => {
                    patience.set_limit(self.client.patience());
                    patience.attend(&url, &why, wait, halt, progress)?
                }
            }
        };
        let bad = |why| HubError::BadListing { repo_id: subject.repo_id.to_owned(), why };
        if text.len() as u64 > MAX_LISTING_LEN {
            return Err(bad(format!("it is longer than {}", counted(MAX_LISTING_LEN, "byte"))).into());
        }
        Ok(listing::parse(&text).map_err(bad)?)
    }
}

/// Set when dropped, so also when what was watched panics.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
