//! What dead processes left beside a target: recognised by a lock that nobody holds, named, and removed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::work::{self, CONTENT, LOCK, TARGET};
use crate::progress::Progress;
use crate::size;

/// After this long without a change a work folder of another boot or another machine is a leftover: its process may
/// still live where its lock is not seen.
const FOREIGN: Duration = Duration::from_secs(24 * 60 * 60);

/// Looks at every work folder in `parent`. Best effort throughout: a leftover that cannot be removed now is hidden and
/// is found again.
pub(super) fn sweep(parent: &Path, progress: &dyn Progress) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if work::is_random_name(&entry.file_name()) && is_ours(&entry.path()) {
            // The lock is held until the folder is gone: two processes do not sweep one.
            if let Some(_lock) = dead(&entry.path()) {
                clear(parent, &entry.path(), progress);
            }
        }
    }
}

/// True for a folder, not a link to one, of this user.
fn is_ours(dir: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    dir.symlink_metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == user)
}

/// True for what did not change for [`FOREIGN`].
pub(super) fn is_old(path: &Path) -> bool {
    let changed = path.symlink_metadata().and_then(|meta| meta.modified());
    changed.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > FOREIGN))
}

/// The lock of a work folder whose process is dead.
fn dead(dir: &Path) -> Option<Option<File>> {
    let flags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits().cast_signed();
    let open = std::os::unix::fs::OpenOptionsExt::custom_flags(File::options().read(true), flags)
        .open(dir.join(LOCK));
    match open {
        Ok(file) => {
            let free = match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Some(true),
                Err(rustix::io::Errno::WOULDBLOCK) => None,
                Err(_) => Some(false),
            }?;
            let mut boot = String::new();
            // Empty: its process died before it wrote the id. One that lives has the lock before it writes.
            let of_this_boot = io::Read::read_to_string(&mut io::Read::take(&file, 64), &mut boot).is_ok()
                && (boot.is_empty() || boot == work::boot_id());
            (free && of_this_boot || is_old(dir)).then_some(Some(file))
        }
        // Made and not locked yet, or never: one without a lock is empty or old.
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            (fs::remove_dir(dir).is_err() && is_old(dir)).then_some(None)
        }
        Err(_) => None,
    }
}

/// Finishes, keeps or removes one.
fn clear(parent: &Path, dir: &Path, progress: &dyn Progress) {
    let content = dir.join(CONTENT);
    if let Some(target) = complete(dir).map(|name| parent.join(name)) {
        if target.symlink_metadata().is_err() && fs::rename(&content, &target).is_ok() {
            progress.note(&format!(
                "{} was complete when an earlier run was interrupted: it is in place now",
                target.display()
            ));
        } else if content.symlink_metadata().is_ok() {
            progress.note(&format!(
                "{} holds the complete output of an earlier run, which could not be moved to {}: move or remove it",
                content.display(),
                target.display()
            ));
            return;
        }
    }
    let len = super::tree_len(dir).unwrap_or(0);
    match work::remove(dir) {
        Ok(()) => progress.note(&format!(
            "removed what an interrupted run left: {} ({})",
            dir.display(),
            size::shown(len)
        )),
        Err(cause) => progress.note(&format!(
            "an interrupted run left {} ({}), which cannot be removed: {cause}",
            dir.display(),
            size::shown(len)
        )),
    }
}

/// The name of the target, where the content is complete and was on its way there.
fn complete(dir: &Path) -> Option<std::ffi::OsString> {
    let bytes = fs::read(dir.join(TARGET)).ok()?;
    let name: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(bytes);
    // A name and nothing else: it never leads out of the folder.
    let plain = Path::new(&name).file_name() == Some(&name);
    plain.then_some(name)
}
