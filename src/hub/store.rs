//! One repository in the hub's cache, as it is written: `blobs`, `snapshots`, `refs`, and the locks beside it.
//!
//! Links and refs are made aside, in the repository's folder, which no reader lists, and get their names in one step.
//! What is there is used as it is, a link or, in a cache made without links, the file itself; and nothing is written
//! where nothing differs, so a cache that may not be written serves what it has. A link is never written through:
//! only the cache, a repository and its `blobs` may be links, since people move these to other disks.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::listing::HubFile;
use super::patience::Halt;
use super::place::Place;
use crate::checkpoint::hub::{HubCache, repo_folder};
use crate::error::{CacheError, IoError, Result};
use crate::output;
use crate::regular;

/// Longest ref that is compared: a commit and a line end.
const MAX_REF_LEN: u64 = 64;

/// Time between two tries to take a lock.
const LOCK_WAIT: Duration = Duration::from_millis(200);

/// One repository of a cache.
pub(super) struct Store {
    cache: PathBuf,
    repo: PathBuf,
    /// The name of the repository's folder.
    folder: String,
}

impl Store {
    /// The repository `ORG/NAME` in `cache`.
    pub(super) fn new(cache: &HubCache, repo_id: &str) -> Result<Self, CacheError> {
        let folder = repo_folder(repo_id)?;
        Ok(Self { cache: cache.dir().to_owned(), repo: cache.dir().join(&folder), folder })
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.join("snapshots").join(commit)
    }

    /// Where the content of a file is to lie.
    pub(super) fn blob(&self, file: &HubFile) -> PathBuf {
        self.repo.join("blobs").join(file.hash.name())
    }

    /// Where the unfinished bytes of a content lie.
    pub(super) fn unfinished(&self, file: &HubFile) -> PathBuf {
        self.repo.join("blobs").join(unfinished_name(file))
    }

    /// True where the content of a file is in `blobs`, whole by its length.
    pub(super) fn has_blob(&self, file: &HubFile) -> bool {
        is_of_len(&self.blob(file), file.size)
    }

    /// True where a file of a commit is in the cache: its content, or the file itself.
    pub(super) fn has(&self, commit: &str, file: &HubFile) -> bool {
        self.has_blob(file) || is_of_len(&self.snapshot(commit).join(&file.path), file.size)
    }

    /// Bytes that are still to be fetched of a file that is not in the cache.
    pub(super) fn left(&self, file: &HubFile) -> u64 {
        let meta = fs::symlink_metadata(self.unfinished(file)).ok().filter(fs::Metadata::is_file);
        file.size - meta.map_or(0, |meta| meta.len().min(file.size))
    }

    /// True where the snapshot leads to a file's content as it should.
    pub(super) fn is_linked(&self, commit: &str, file: &HubFile) -> bool {
        let path = self.snapshot(commit).join(&file.path);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() => {
                let same = || Some(path.canonicalize().ok()? == self.blob(file).canonicalize().ok()?);
                same() == Some(true)
            }
            Ok(meta) => meta.is_file() && meta.len() == file.size,
            Err(_) => false,
        }
    }

    /// Makes the folder of the contents.
    pub(super) fn make_ready(&self) -> Result<()> {
        let blobs = self.repo.join("blobs");
        fs::create_dir_all(&blobs).map_err(io_error("making a folder", &blobs))?;
        output::sweep_aside(&self.repo);
        Ok(())
    }

    /// Makes the snapshot lead to the content of a file. Where the file system has no links, the file itself comes
    /// there; `is_last`: no other file of the commit needs the content in `blobs`.
    pub(super) fn link(&self, commit: &str, file: &HubFile, is_last: bool) -> Result<()> {
        // Another program finished the content that an earlier run began. Best effort.
        let _ = Place::open(&self.repo.join("blobs")).and_then(|blobs| blobs.remove(&unfinished_name(file)));
        if self.is_linked(commit, file) {
            return Ok(());
        }
        let (inside, name) = inside(commit, file);
        let repo = self.place(&self.repo)?;
        let folder = repo.make(&inside)?;
        let up = "../".repeat(2 + file.path.matches('/').count());
        let target = format!("{up}blobs/{}", file.hash.name());
        let blob = file.hash.name();
        let placed = match folder.put_link(name, &repo, &target) {
            Err(cause) if lacks_links(&cause) && is_last => self.blobs()?.rename(blob, &folder, name),
            Err(cause) if lacks_links(&cause) => {
                let copied = regular::open(&self.blob(file));
                copied.and_then(|mut content| folder.put_file(name, &repo, &mut content))
            }
            linked => linked,
        };
        Ok(placed.map_err(io_error("writing into the cache", &folder.path(name)))?)
    }

    /// Writes the ref, by which the revision is found without the hub.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        let path = self.repo.join("refs").join(revision);
        let mut text = String::new();
        let read = regular::open(&path).and_then(|file| file.take(MAX_REF_LEN).read_to_string(&mut text));
        if revision == commit || read.is_ok() && text.trim_end() == commit {
            return Ok(());
        }
        let (folder, name) = revision.rsplit_once('/').unwrap_or(("", revision));
        let repo = self.place(&self.repo)?;
        let folder = repo.make(&format!("refs/{folder}"))?;
        let put = folder.put_file(name, &repo, &mut commit.as_bytes());
        Ok(put.map_err(io_error("writing into the cache", &folder.path(name)))?)
    }

    /// Waits for the lock on a content, so that whoever has it may finish the file: huggingface_hub takes the same.
    /// `None` where the file system has no locks.
    pub(super) fn lock(&self, file: &HubFile, halt: Halt<'_>) -> Result<Option<File>> {
        let folder = self.place(&self.cache)?.make(&format!(".locks/{}", self.folder))?;
        let name = format!("{}.lock", file.hash.name());
        let lock = folder.file(&name, "locking")?;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(lock)),
                Err(Errno::WOULDBLOCK) => halt.pause(LOCK_WAIT)?,
                Err(Errno::NOSYS | Errno::NOTSUP | Errno::NOLCK | Errno::INVAL) => return Ok(None),
                Err(cause) => return Err(io_error("locking", &folder.path(&name))(cause.into()).into()),
            }
        }
    }

    /// Opens the unfinished bytes of a content.
    pub(super) fn open_unfinished(&self, file: &HubFile) -> Result<File> {
        self.blobs()?.file(&unfinished_name(file), "opening the unfinished file")
    }

    /// Gives the finished content its name.
    pub(super) fn finish(&self, file: &HubFile) -> Result<()> {
        let blobs = self.blobs()?;
        let named = blobs.rename(&unfinished_name(file), &blobs, file.hash.name());
        Ok(named.map_err(io_error("naming the finished file", &self.unfinished(file)))?)
    }

    /// The folder of the contents, which may be a link.
    fn blobs(&self) -> Result<Place> {
        self.place(&self.repo.join("blobs"))
    }

    /// A folder that may be a link: the cache, the repository, its `blobs`. Made where it is not there.
    fn place(&self, path: &Path) -> Result<Place> {
        fs::create_dir_all(path).map_err(io_error("making a folder", path))?;
        Place::open(path)
    }

    /// Removes a file of a snapshot, and its content unless something else in the cache leads to it.
    pub(super) fn remove(&self, commit: &str, file: &HubFile) -> Result<()> {
        let (inside, name) = inside(commit, file);
        if let Some(folder) = Place::open(&self.repo)?.find(&inside)? {
            folder.remove(name)?;
        }
        let blob = self.blob(file);
        let meta = match fs::metadata(&blob) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            meta => meta.map_err(io_error("looking at the cache", &blob))?,
        };
        // A link to the store that repositories share: only this repository reads through it.
        let is_link = blob.is_symlink();
        let readers = if is_link { vec![self.repo.join("snapshots")] } else { repos(&self.cache)? };
        let listed = |dir: &PathBuf| leads_to(dir, (meta.dev(), meta.ino()));
        for dir in readers {
            if listed(&dir).map_err(io_error("listing the cache", &dir))? {
                return Ok(());
            }
        }
        self.blobs()?.remove(file.hash.name())
    }
}

/// Where a file of a commit lies below the repository, and its name there.
fn inside<'a>(commit: &str, file: &'a HubFile) -> (String, &'a str) {
    let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    (format!("snapshots/{commit}/{folder}"), name)
}

fn unfinished_name(file: &HubFile) -> String {
    format!("{}.incomplete", file.hash.name())
}

/// True for a regular file of this length, or a link to one.
fn is_of_len(path: &Path, len: u64) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == len)
}

/// True where the file system has no symbolic links, or this user may make none.
fn lacks_links(cause: &io::Error) -> bool {
    let errno = Errno::from_io_error(cause);
    errno.is_some_and(|errno| matches!(errno, Errno::PERM | Errno::NOSYS | Errno::NOTSUP | Errno::INVAL))
}

/// The folders of all repositories of a cache in which a link may lead to a content of another.
fn repos(cache: &Path) -> Result<Vec<PathBuf>> {
    let failed = |cause| io_error("listing the cache", cache)(cause);
    let mut folders = Vec::new();
    for entry in fs::read_dir(cache).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        folders.extend(
            ["blobs", "snapshots"].map(|name| path.join(name)).into_iter().filter(|dir| dir.is_dir()),
        );
    }
    Ok(folders)
}

/// True where a link below `dir` leads to the file of this device and number.
fn leads_to(dir: &Path, file: (u64, u64)) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let path = entry.path();
        if kind.is_dir() && leads_to(&path, file)? {
            return Ok(true);
        }
        // One that is gone meanwhile was of a file that is being linked under another name.
        if kind.is_symlink() && fs::metadata(&path).is_ok_and(|meta| (meta.dev(), meta.ino()) == file) {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn io_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> IoError {
    move |cause| IoError::new(doing, path, cause)
}
