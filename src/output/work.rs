//! The work folder of one output: a name that no other process has, held by a lock for as long as its process lives.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::io_error;
use crate::error::{OutputError, Result};
use crate::manifest::MANIFEST_NAME;

/// How the names of work folders begin; sixteen hexadecimal digits follow.
pub(super) const PREFIX: &str = ".mgpack-";
/// How the names of work folders that stay begin.
pub(super) const KEPT: &str = ".mgpack-unfinished-";
/// The output, while it grows.
pub(super) const CONTENT: &str = "content";
/// What was at the target, while it gives way in two steps.
pub(super) const OLD: &str = "old";
/// Holds the target's name once the content is complete and its way to the target is not one step.
pub(super) const TARGET: &str = "target";
/// Locked by the process that works here; holds the id of the machine's boot.
pub(super) const LOCK: &str = "lock";

/// Tries to find a free name before giving up: a second one needs a collision of 64 random bits, or a sweep by
/// another process between two system calls.
const TRIES: u32 = 16;

/// A work folder, and the lock on it.
pub(super) struct Work {
    dir: PathBuf,
    // Held until this is dropped. A file system without locks still gives the name.
    _lock: File,
    stays: bool,
}

impl Work {
    /// A new one in `parent`.
    pub(super) fn make(parent: &Path) -> Result<Self> {
        let failed = |path: &Path, cause| io_error("making the work folder", path, cause);
        for _ in 0..TRIES {
            let dir = parent.join(random_name().map_err(|cause| failed(parent, cause))?);
            match fs::create_dir(&dir) {
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.map_err(|cause| failed(&dir, cause))?,
            }
            match lock(&dir) {
                Ok(Some(lock)) => return Ok(Self { dir, _lock: lock, stays: false }),
                // Another process swept the folder away before it was locked.
                Ok(None) => {}
                Err(cause) => {
                    // Best effort: it is empty and hidden, and the next run removes it.
                    let _ = fs::remove_dir_all(&dir);
                    return Err(failed(&dir, cause));
                }
            }
        }
        Err(failed(parent, io::ErrorKind::AlreadyExists.into()))
    }

    /// Makes or finds the one of this name, which stays when it is dropped.
    pub(super) fn keep(dir: &Path) -> Result<Self> {
        let failed = |cause| io_error("making the work folder", dir, cause);
        match fs::create_dir(dir) {
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(failed)?,
        }
        match lock(dir).map_err(failed)? {
            Some(lock) => Ok(Self { dir: dir.to_owned(), _lock: lock, stays: true }),
            None => Err(OutputError::Busy { path: dir.to_owned() }.into()),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn content(&self) -> PathBuf {
        self.dir.join(CONTENT)
    }

    /// The folder goes when this is dropped.
    pub(super) fn give_up(&mut self) {
        self.stays = false;
    }

    /// The folder stays when this is dropped: what it holds is finished.
    pub(super) fn stay(&mut self) {
        self.stays = true;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.stays {
            // Best effort: what cannot be removed is hidden, and the next run names and removes it.
            let _ = remove(&self.dir);
        }
    }
}

/// A name that no other process has.
pub(super) fn random_name() -> io::Result<String> {
    let mut random = [0; 8];
    getrandom(&mut random, GetRandomFlags::empty())?;
    Ok(format!("{PREFIX}{:016x}", u64::from_le_bytes(random)))
}

/// True for a name that [`random_name`] gives.
pub(super) fn is_random_name(name: &std::ffi::OsStr) -> bool {
    name.to_str().and_then(|name| name.strip_prefix(PREFIX)).is_some_and(|random| {
        random.len() == 16 && random.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Takes the lock of a work folder. `None`: another process has it, or removed the folder meanwhile.
pub(super) fn lock(dir: &Path) -> io::Result<Option<File>> {
    let path = dir.join(LOCK);
    let mut file = match File::options().read(true).write(true).create(true).truncate(false).open(&path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        // A file system without locks: the random name keeps processes apart, and age alone makes a leftover.
        Err(Errno::NOSYS | Errno::NOTSUP | Errno::NOLCK | Errno::INVAL) => return Ok(Some(file)),
        Err(cause) => return Err(cause.into()),
    }
    if !is_same(&file, &path) {
        return Ok(None);
    }
    file.set_len(0)?;
    file.write_all(boot_id().as_bytes())?;
    Ok(Some(file))
}

/// The id of this boot of the machine; empty where the system has none.
pub(super) fn boot_id() -> String {
    let mut text = String::new();
    let read = File::open("/proc/sys/kernel/random/boot_id")
        .and_then(|file| file.take(64).read_to_string(&mut text));
    if read.is_err() {
        text.clear();
    }
    text
}

/// Removes a folder or file, a bundle's manifest before the rest: what is left when this is interrupted is no bundle.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        return fs::remove_file(path);
    }
    for manifest in
        [path.join(MANIFEST_NAME), path.join(CONTENT).join(MANIFEST_NAME), path.join(OLD).join(MANIFEST_NAME)]
    {
        match fs::remove_file(&manifest) {
            Err(cause) if !matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(cause);
            }
            _ => {}
        }
    }
    fs::remove_dir_all(path)
}

/// True where `path` still leads to this file.
fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |meta: fs::Metadata| (meta.dev(), meta.ino());
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(held), Ok(named)) => id(held) == id(named),
        _ => false,
    }
}
