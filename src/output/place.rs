//! The last step: a finished output goes to its target, on file systems that can do it in one step and on those
//! that cannot.
//!
//! `renameat2` refuses to replace, or exchanges. NFS, Lustre and many FUSE file systems have neither and answer
//! EINVAL, ENOSYS or EOPNOTSUPP: there a hard link, which refuses to replace too, places a file, and `rename`, which
//! never replaces a folder that holds anything, places a folder. Whatever the system answers, the output stays.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, linkat, renameat_with};
use rustix::io::Errno;

use super::work::{self, OLD, TARGET, Work};
use super::{Replace, sync_dir};
use crate::error::{Explain as _, OutputError, Result};

/// An output at its target.
#[derive(Debug)]
#[must_use]
pub(crate) struct Placed {
    /// What was at the target before and could not be removed, with the reason.
    pub left: Option<(PathBuf, io::Error)>,
}

impl Placed {
    /// What a user should know about it.
    pub(crate) fn notice(&self) -> Option<String> {
        let (path, cause) = self.left.as_ref()?;
        Some(format!("what was at the target before could not be removed: {cause}; it is {}", path.display()))
    }
}

/// Moves the content of a work folder to `target`.
pub(super) fn place(work: &mut Work, target: &Path, replace: Replace<'_>) -> Result<Placed> {
    let content = work.content();
    let old = match into_place(work, target, replace) {
        Ok(old) => old,
        Err(Failed::Refused(error))
            if content.symlink_metadata().is_ok() && !matches!(replace, Replace::Never) =>
        {
            // What is at the target changed while the output was made.
            let why = error.explain().why.map_or_else(|| error.to_string(), |why| format!("{error}: {why}"));
            return Err(stays(work, target, io::Error::other(why)));
        }
        Err(Failed::Refused(error)) => return Err(error),
        Err(Failed::System(cause)) => return Err(stays(work, target, cause)),
    };
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let durable = sync_dir(parent);
    let left = old.and_then(|old| match work::remove(&old) {
        Ok(()) => None,
        Err(cause) => Some((old, cause)),
    });
    // One that is kept for the next run has nothing more to give it.
    if left.is_some() {
        work.stay();
    } else {
        work.give_up();
    }
    durable.map_err(|cause| OutputError::NotDurable { path: target.to_owned(), source: cause })?;
    Ok(Placed { left })
}

/// The work folder stays, with a mark by which the next run knows that its content is finished.
fn stays(work: &mut Work, target: &Path, cause: io::Error) -> crate::Error {
    // Best effort: without the mark the folder is a leftover to the next run, and this error is the warning.
    let _ = mark(work, target);
    work.stay();
    OutputError::NotPlaced { content: work.content(), target: target.to_owned(), source: cause }.into()
}

enum Failed {
    /// What is at the target may not give way.
    Refused(crate::Error),
    /// The system refused the step.
    System(io::Error),
}

impl From<Errno> for Failed {
    fn from(cause: Errno) -> Self {
        Failed::System(cause.into())
    }
}

/// Returns where the thing that was at the target is now.
fn into_place(work: &Work, target: &Path, replace: Replace<'_>) -> Result<Option<PathBuf>, Failed> {
    let content = work.content();
    let accepted = || match replace {
        Replace::Never => Err(Failed::System(io::ErrorKind::AlreadyExists.into())),
        Replace::If(accepts) => accepts(target).map_err(Failed::Refused),
    };
    let rename = |flags| renameat_with(CWD, &content, CWD, target, flags);
    let plainly = || fs::rename(&content, target).map_err(Failed::System);
    let is_folder = content.symlink_metadata().map_err(Failed::System)?.is_dir();
    match rename(RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(None),
        Err(Errno::EXIST) => accepted()?,
        Err(cause) if lacks(cause) => {
            if !is_folder {
                match linkat(CWD, &content, CWD, target, AtFlags::empty()) {
                    Ok(()) => return Ok(None),
                    Err(Errno::EXIST) => accepted()?,
                    // No hard links either.
                    Err(_) if is_absent(target)? => {
                        plainly()?;
                        return Ok(None);
                    }
                    Err(_) => accepted()?,
                }
            } else if is_absent(target)? {
                plainly()?;
                return Ok(None);
            } else {
                accepted()?;
            }
        }
        Err(cause) => return Err(cause.into()),
    }
    if !is_folder {
        // `rename` puts a file over a file in one step.
        plainly()?;
        return Ok(None);
    }
    match rename(RenameFlags::EXCHANGE) {
        Ok(()) => Ok(Some(content)),
        Err(cause) if lacks(cause) => in_two_steps(work, target).map(Some),
        Err(cause) => Err(cause.into()),
    }
}

/// The old folder goes aside, then the new one comes. A process that dies in between leaves the mark by which the next
/// run finishes the second step.
fn in_two_steps(work: &Work, target: &Path) -> Result<PathBuf, Failed> {
    let old = work.dir().join(OLD);
    mark(work, target).map_err(Failed::System)?;
    fs::rename(target, &old).map_err(Failed::System)?;
    if let Err(cause) = fs::rename(work.content(), target) {
        fs::rename(&old, target).map_err(Failed::System)?;
        return Err(Failed::System(cause));
    }
    Ok(old)
}

/// Writes into the work folder to which name its content belongs.
fn mark(work: &Work, target: &Path) -> io::Result<()> {
    let mut file = File::create(work.dir().join(TARGET))?;
    file.write_all(target.file_name().unwrap_or_default().as_bytes())?;
    file.sync_all()?;
    sync_dir(work.dir())
}

/// True where the file system does not have what was asked for.
fn lacks(cause: Errno) -> bool {
    matches!(cause, Errno::INVAL | Errno::NOSYS | Errno::NOTSUP)
}

fn is_absent(path: &Path) -> Result<bool, Failed> {
    match path.symlink_metadata() {
        Ok(_) => Ok(false),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(cause) => Err(Failed::System(cause)),
    }
}
