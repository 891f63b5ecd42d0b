//! Room on a disk.

use std::io;
use std::path::Path;

use rustix::fs::statvfs;

/// Bytes free for this user on the file system of `path`, or of the nearest folder above it that exists.
///
/// # Errors
/// The system's, where it does not say.
pub(crate) fn free(path: &Path) -> io::Result<u64> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let stat = statvfs(there)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
