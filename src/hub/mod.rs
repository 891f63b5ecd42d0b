//! Downloads from the Hugging Face hub into its cache on this machine.
//!
//! [`Hub::plan`] asks what a revision holds and chooses; [`Download::run`] fetches the chosen files in
//! parallel. Each file is checked against the digest in the hub's listing before it gets its name in
//! `blobs/`. The snapshot's links, and then the ref, are made when all files are there, so a broken download
//! leaves no snapshot that looks whole. The layout is huggingface_hub's; which addresses, tokens, proxies and
//! folders count is read from the same environment variables.
//!
//! huggingface_hub keeps the listing of a commit that it fetched whole in `trees/COMMIT.json`. It is read
//! (`checkpoint::hub`) and never written: with it, huggingface_hub would ask for the files that are left out here.

mod choice;
mod download;
mod http;
mod listing;
mod proxy;
mod stream;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

pub use choice::fits;
pub use listing::{BlobHash, Listed, Listing};
pub use stream::{Arrivals, Stream};

use crate::checkpoint::hub::{HubCache, Snapshot, checked_revision, hub_home, hub_path, repo_folder};
use crate::disk;
use crate::error::{HubError, Result};
use crate::family::Tower;
use crate::progress::{Progress, Stage, Stop};
use crate::regular;
use crate::size::counted;
use download::{Job, incomplete};
use http::{Client, Failure, Subject, read_at_most, retried};

/// Where the hub is, unless `HF_ENDPOINT` says otherwise.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Files fetched at once.
const PARALLEL: usize = 4;

/// Longest listing.
const MAX_LISTING_LEN: u64 = 32 << 20;

/// Longest stored token.
const MAX_TOKEN_LEN: u64 = 4096;

/// Time between two looks at a request to stop.
const WATCH: Duration = Duration::from_millis(20);

/// Longest silence of a server, unless `HF_HUB_DOWNLOAD_TIMEOUT` (seconds) says otherwise.
const STALL: Duration = Duration::from_secs(30);

/// What is wanted of a repository.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
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
pub struct Hub {
    client: Client,
    endpoint: String,
    cache: HubCache,
}

/// True where the environment forbids the network: `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`.
pub fn is_offline(var: impl Fn(&str) -> Option<OsString>) -> bool {
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
    /// [`HubError::BadEndpoint`]; [`HubError::Io`] for certificates that cannot be read.
    pub fn from_env(cache: HubCache, var: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let text = |name: &str| var(name)?.into_string().ok().filter(|text| !text.trim().is_empty());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        let stall = text("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|text| text.trim().parse().ok());
        let stall = stall.filter(|seconds| *seconds > 0).map_or(STALL, Duration::from_secs);
        let client = Client::new(&endpoint, token(&var), stall, &var)?;
        Ok(Self { client, endpoint, cache })
    }

    /// Checks that the cache's disk has room for `needed` bytes.
    ///
    /// # Errors
    /// [`HubError::NoSpace`] with the shortfall.
    pub fn check_space(&self, needed: u64) -> Result<(), HubError> {
        let dir = self.cache.dir();
        fs::create_dir_all(dir).map_err(io_error("making a folder", dir))?;
        let free = disk::free(dir).map_err(io_error("asking for the free space", dir))?;
        if free < needed {
            return Err(HubError::NoSpace { path: dir.to_owned(), needed, free });
        }
        Ok(())
    }

    /// Asks what `repo_id` holds at `revision` and chooses what is `wanted`. Writes nothing.
    ///
    /// # Errors
    /// [`HubError`] for whatever the hub answers but a sound listing; the cache's errors for bad names.
    pub fn plan(
        &self,
        repo_id: &str,
        revision: Option<&str>,
        wanted: Wanted<'_>,
        stop: &Stop,
    ) -> Result<Download<'_>> {
        let repo = self.cache.dir().join(repo_folder(repo_id)?);
        let locks = self.cache.dir().join(".locks").join(repo_folder(repo_id)?);
        let revision = checked_revision(revision)?;
        let subject = Subject { repo_id, revision, file: None };
        let listing = self.until(stop, || self.listing(subject, stop))?;
        let files = match wanted {
            Wanted::Checkpoint => choice::checkpoint(&listing),
            Wanted::Tower(tower) => choice::tower(&listing, tower),
            Wanted::Patterns { include, exclude } => {
                let any = |patterns: &[String], file: &Listed| {
                    patterns.iter().any(|pattern| fits(pattern, &file.path))
                };
                let base =
                    if include.is_empty() { choice::checkpoint(&listing) } else { listing.files.clone() };
                let chosen =
                    |file: &Listed| (include.is_empty() || any(include, file)) && !any(exclude, file);
                base.into_iter().filter(chosen).collect()
            }
        };
        if files.is_empty() {
            return Err(HubError::NothingWanted { repo_id: repo_id.to_owned() }.into());
        }
        let mut jobs: Vec<&Listed> = Vec::new();
        for file in &files {
            let is_new = jobs.iter().all(|job| job.hash != file.hash);
            if is_new && !repo.join("blobs").join(file.hash.name()).exists() {
                jobs.push(file);
            }
        }
        let missing_files = jobs.into_iter().cloned().collect();
        let mut download = Download {
            hub: self,
            repo_id: repo_id.to_owned(),
            revision: revision.to_owned(),
            commit: listing.commit,
            files,
            missing_files,
            missing: 0,
            repo,
            locks,
        };
        download.missing = download.missing_files.iter().map(|file| download.left(file)).sum();
        Ok(download)
    }

    /// Does `work`, and ends its requests as soon as `stop` is asked, also where a server keeps silent.
    fn until<T>(&self, stop: &Stop, work: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        let watch = || {
            while !done.load(Ordering::Relaxed) {
                if stop.requested() {
                    return self.client.shut_down();
                }
                std::thread::sleep(WATCH);
            }
        };
        std::thread::scope(|scope| {
            let _done = SetOnDrop(&done);
            scope.spawn(watch);
            work()
        })
    }

    fn listing(&self, subject: Subject<'_>, stop: &Stop) -> Result<Listing, HubError> {
        let revision = subject.revision.replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision}?blobs=true", self.endpoint, subject.repo_id);
        let text = retried(stop, || {
            let answer = self.client.get(&url, 0, subject)?;
            read_at_most(answer, MAX_LISTING_LEN + 1).map_err(|why| Failure::again(&url, why))
        })?;
        let bad = |why| HubError::BadListing { repo_id: subject.repo_id.to_owned(), why };
        if text.len() as u64 > MAX_LISTING_LEN {
            return Err(bad(format!("it is longer than {}", counted(MAX_LISTING_LEN, "byte"))));
        }
        listing::parse(&text).map_err(bad)
    }
}

/// `HF_TOKEN`, else its old name, else the stored token: `HF_TOKEN_PATH`, else `HF_HOME`/token.
fn token(var: &impl Fn(&str) -> Option<OsString>) -> Option<String> {
    if is_true(var("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
        return None;
    }
    let clean = |text: String| {
        let text: String = text.split_whitespace().collect();
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then_some(text)
    };
    let given = |name: &str| clean(var(name)?.into_string().ok()?);
    let stored = || {
        let path = hub_path(var, "HF_TOKEN_PATH").or_else(|| Some(hub_home(var)?.join("token")))?;
        let mut text = String::new();
        regular::open(&path).ok()?.take(MAX_TOKEN_LEN).read_to_string(&mut text).ok()?;
        clean(text)
    };
    given("HF_TOKEN").or_else(|| given("HUGGING_FACE_HUB_TOKEN")).or_else(stored)
}

/// A decided download.
pub struct Download<'a> {
    hub: &'a Hub,
    /// The repository.
    pub repo_id: String,
    /// The revision asked for.
    pub revision: String,
    /// The commit that it is now.
    pub commit: String,
    /// All files that are wanted.
    pub files: Vec<Listed>,
    /// Those whose content is not in the cache, each content once.
    pub missing_files: Vec<Listed>,
    /// Bytes that are still to be fetched.
    pub missing: u64,
    repo: PathBuf,
    locks: PathBuf,
}

impl Download<'_> {
    /// Fetches what is missing, then makes the snapshot and the ref.
    ///
    /// # Errors
    /// [`HubError::NoSpace`] before the first byte; [`HubError`] of the first file that fails. What was
    /// fetched stays, and another run goes on from there.
    pub fn run(&self, progress: &dyn Progress, stop: &Stop) -> Result<Snapshot> {
        self.make_folders()?;
        self.hub.check_space(self.missing)?;
        if !self.missing_files.is_empty() {
            progress.begin(Stage::Download, self.missing);
            self.fetch_all(&self.missing_files, progress, stop)?;
            progress.finish();
        }
        self.files.iter().try_for_each(|file| self.link(file))?;
        self.write_ref()?;
        Ok(self.snapshot())
    }

    fn make_folders(&self) -> Result<(), HubError> {
        [&self.repo.join("blobs"), &self.locks]
            .into_iter()
            .try_for_each(|dir| fs::create_dir_all(dir).map_err(io_error("making a folder", dir)))
    }

    /// Where the files of this commit are.
    pub fn snapshot(&self) -> Snapshot {
        let dir = self.repo.join("snapshots").join(&self.commit);
        Snapshot { dir, repo_id: self.repo_id.clone(), commit: self.commit.clone() }
    }

    fn fetch_all(&self, files: &[Listed], progress: &dyn Progress, stop: &Stop) -> Result<(), HubError> {
        let next = AtomicUsize::new(0);
        let first: Mutex<Option<HubError>> = Mutex::new(None);
        let failed = AtomicBool::new(false);
        let work = || {
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                if failed.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(error) = self.job(file, progress, stop, &failed).run() {
                    let mut first = first.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    first.get_or_insert(error);
                    failed.store(true, Ordering::Relaxed);
                }
            }
        };
        self.hub.until(stop, || {
            std::thread::scope(|scope| {
                for _ in 0..PARALLEL.min(files.len()) {
                    scope.spawn(work);
                }
            });
        });
        let first = first.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        first.map_or(Ok(()), Err)
    }

    fn job<'a>(
        &'a self,
        file: &'a Listed,
        progress: &'a dyn Progress,
        stop: &'a Stop,
        failed: &'a AtomicBool,
    ) -> Job<'a> {
        Job {
            client: &self.hub.client,
            subject: self.subject(file),
            url: self.url(file),
            file,
            blob: self.blob(file),
            lock: self.locks.join(format!("{}.lock", file.hash.name())),
            progress,
            stop,
            failed,
        }
    }

    fn subject<'a>(&'a self, file: &'a Listed) -> Subject<'a> {
        Subject { repo_id: &self.repo_id, revision: &self.revision, file: Some(&file.path) }
    }

    /// Where the content of a file lies in the cache.
    fn blob(&self, file: &Listed) -> PathBuf {
        self.repo.join("blobs").join(file.hash.name())
    }

    /// Bytes of a file that are still to be fetched, where it is not in the cache.
    fn left(&self, file: &Listed) -> u64 {
        let meta = fs::metadata(incomplete(&self.blob(file)));
        file.size - meta.map_or(0, |meta| meta.len().min(file.size))
    }

    fn url(&self, file: &Listed) -> String {
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

    /// The snapshot's link to a file that is in the cache.
    fn link(&self, file: &Listed) -> Result<(), HubError> {
        let snapshot = self.repo.join("snapshots").join(&self.commit);
        let (link, blob) = (snapshot.join(&file.path), self.blob(file));
        let parent = link.parent().unwrap_or(&snapshot);
        fs::create_dir_all(parent).map_err(io_error("making a folder", parent))?;
        // Another program finished the blob that an earlier run began. Best effort.
        let _ = fs::remove_file(incomplete(&blob));
        let leads_there = || Some(link.canonicalize().ok()? == blob.canonicalize().ok()?);
        if leads_there() == Some(true) {
            return Ok(());
        }
        let up = "../".repeat(2 + file.path.matches('/').count());
        replace(&link, |path| std::os::unix::fs::symlink(format!("{up}blobs/{}", file.hash.name()), path))
    }

    /// The ref, by which the revision is found without the hub.
    fn write_ref(&self) -> Result<(), HubError> {
        if self.revision != self.commit {
            let path = self.repo.join("refs").join(&self.revision);
            let parent = path.parent().unwrap_or(&path);
            fs::create_dir_all(parent).map_err(io_error("making a folder", parent))?;
            replace(&path, |path| fs::write(path, &self.commit))?;
        }
        Ok(())
    }
}

/// Set when dropped, so also when what was watched panics.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes something under a name of this process and renames it to `path`, in one step for readers.
fn replace(path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> Result<(), HubError> {
    let mut name = OsString::from(format!(".{}.", std::process::id()));
    name.push(path.file_name().unwrap_or_default());
    let staged = path.with_file_name(name);
    // Best effort: a left-over of a killed process with this number.
    let _ = fs::remove_file(&staged);
    make(&staged).and_then(|()| fs::rename(&staged, path)).map_err(io_error("writing into the cache", path))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HubError {
    move |cause| HubError::Io { doing, path: path.to_owned(), cause }
}
