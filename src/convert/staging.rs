//! The folder a bundle grows in, and the one moment at which it becomes visible.
//!
//! A staging folder lies beside the target, so that a rename suffices. Until [`Staging::commit`] nothing of
//! the new bundle can be seen at the target; when a `Staging` is dropped before that, its folder is removed. Only
//! where sources are removed on the way does it stay, under a name by which the next run finds it.
//! Carries out formats/bundle.md, "Writing".

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use super::io_error;
use crate::disk;
use crate::error::{ConvertError, Result};
use crate::manifest::MANIFEST_NAME;

/// A folder that is not yet a bundle.
pub(super) struct Staging {
    dir: PathBuf,
    target: PathBuf,
    force: bool,
    committed: bool,
    /// Stays when dropped: held by this lock, so that one process at a time works in it.
    kept: Option<File>,
}

/// The staging folder of a target whose sources are removed on the way.
pub(super) fn unfinished(target: &Path) -> Result<PathBuf> {
    let (parent, name) = split(target)?;
    Ok(parent.join(format!(".{name}.mgpack-unfinished")))
}

impl Staging {
    /// Makes the folder, after a look at what is at the target and at the room on its disk.
    ///
    /// # Errors
    /// [`ConvertError::TargetExists`] without `force`, [`ConvertError::TargetIsNoBundle`] with it where
    /// something else than a bundle would be lost, [`ConvertError::NoSpace`] if less than `len` is free.
    pub(super) fn create(target: &Path, len: u64, force: bool) -> Result<Self> {
        let (parent, name) = make_room(target, len, force)?;
        for attempt in 0..1000u32 {
            let dir = parent.join(format!(".{name}.mgpack-{}-{attempt}", std::process::id()));
            match fs::create_dir(&dir) {
                Ok(()) => {
                    return Ok(Self { dir, target: target.to_owned(), force, committed: false, kept: None });
                }
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
                Err(cause) => return Err(io_error("making the staging folder", &dir, cause)),
            }
        }
        let cause = io::Error::from(io::ErrorKind::AlreadyExists);
        Err(io_error("making the staging folder", &parent, cause))
    }

    /// Makes or finds the folder that [`unfinished`] names. It stays when this is dropped.
    ///
    /// # Errors
    /// As [`Staging::create`]; [`ConvertError::Busy`] where another process works in it.
    pub(super) fn create_or_resume(target: &Path, len: u64, force: bool) -> Result<Self> {
        let dir = unfinished(target)?;
        let there = tree_len(&dir).unwrap_or(0);
        make_room(target, len.saturating_sub(there), force)?;
        let failed = |cause| io_error("making the staging folder", &dir, cause);
        fs::create_dir_all(&dir).map_err(failed)?;
        let lock = File::open(&dir).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(ConvertError::Busy { path: dir }.into()),
            Err(cause) => return Err(failed(cause.into())),
        }
        Ok(Self { dir, target: target.to_owned(), force, committed: false, kept: Some(lock) })
    }

    /// Removes everything in the folder but the files of these names.
    pub(super) fn clear_all_but(&self, names: &[&str]) -> Result<()> {
        let clear = || -> io::Result<()> {
            for entry in fs::read_dir(&self.dir)? {
                let entry = entry?;
                if !names.iter().any(|name| entry.file_name() == *name) {
                    remove(&entry.path())?;
                }
            }
            Ok(())
        };
        clear().map_err(|cause| io_error("clearing the staging folder", &self.dir, cause))
    }

    /// Nothing in the folder is worth keeping: it is removed when this is dropped.
    pub(super) fn give_up(&mut self) {
        self.kept = None;
    }

    /// The folder to write into.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the bundle durable and moves it to the target in one step. With `force` an older bundle stays
    /// whole until the new one has taken its place.
    pub(super) fn commit(mut self) -> Result<()> {
        sync_tree(&self.dir).map_err(|cause| io_error("making the bundle durable", &self.dir, cause))?;
        let renamed = |flags| renameat_with(CWD, &self.dir, CWD, &self.target, flags);
        match renamed(RenameFlags::NOREPLACE) {
            Ok(()) => self.committed = true,
            Err(rustix::io::Errno::EXIST) if self.force => {
                // Again: the target may have come into being, or changed, while the bundle was written.
                check_replaceable(&self.target)?;
                renamed(RenameFlags::EXCHANGE).map_err(|cause| {
                    io_error("putting the bundle in its place", &self.target, cause.into())
                })?;
                // What lies in the staging folder now is the old bundle; dropping removes it.
                self.kept = None;
            }
            Err(rustix::io::Errno::EXIST) => {
                return Err(ConvertError::TargetExists { path: self.target.clone() }.into());
            }
            Err(cause) => {
                return Err(io_error("putting the bundle in its place", &self.target, cause.into()));
            }
        }
        let (parent, _) = split(&self.target)?;
        sync_dir(&parent)
            .map_err(|cause| ConvertError::NotDurable { path: self.target.clone(), cause }.into())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.committed && self.kept.is_none() {
            // Best effort: what cannot be removed is hidden, named after mgpack, and never taken for a bundle.
            let _ = remove(&self.dir);
        }
    }
}

/// Looks at what is at the target and at the room on its disk, and makes the folder around it. Returns that folder
/// and the target's name.
fn make_room(target: &Path, len: u64, force: bool) -> Result<(PathBuf, String)> {
    if target.symlink_metadata().is_ok() {
        if !force {
            return Err(ConvertError::TargetExists { path: target.to_owned() }.into());
        }
        check_replaceable(target)?;
    }
    let (parent, name) = split(target)?;
    fs::create_dir_all(&parent).map_err(|cause| io_error("making the target's folder", &parent, cause))?;
    let free = disk::free(&parent).map_err(|cause| io_error("asking for free space", &parent, cause))?;
    if free < len {
        return Err(ConvertError::NoSpace { path: parent, needed: len, free }.into());
    }
    Ok((parent, name))
}

/// Bytes of the files in a folder.
pub(super) fn tree_len(dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let meta = entry?.metadata()?;
        sum += if meta.is_file() { meta.len() } else { 0 };
    }
    Ok(sum)
}

/// Lets `--force` replace a bundle or an empty folder, never anything else.
fn check_replaceable(target: &Path) -> Result<()> {
    let is_folder = target.symlink_metadata().is_ok_and(|meta| meta.is_dir());
    let is_bundle = || target.join(MANIFEST_NAME).is_file();
    let is_empty = || fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    if is_folder && (is_bundle() || is_empty()) {
        return Ok(());
    }
    Err(ConvertError::TargetIsNoBundle { path: target.to_owned() }.into())
}

fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// The folder of a target and its name.
fn split(target: &Path) -> Result<(PathBuf, String)> {
    let name = target.file_name().and_then(|name| name.to_str());
    match name {
        Some(name) => {
            let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
            Ok((parent.unwrap_or(Path::new(".")).to_owned(), name.to_owned()))
        }
        None => Err(io_error("naming the target", target, io::ErrorKind::InvalidInput.into())),
    }
}

/// Makes every folder below `dir`, and `dir`, durable. The files are already.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    sync_dir(dir)
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
