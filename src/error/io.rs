//! An error of the system, and what a person can do about it, by its number.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::explain::at;
use super::{Explain, Explanation};
use crate::regular;

/// The system could not read, write or start something.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.explain().what)]
pub struct IoError {
    /// What failed, in words that `failed` can follow: `reading the manifest`.
    pub doing: &'static str,
    /// Empty where no path is concerned.
    pub path: PathBuf,
    pub source: io::Error,
}

impl IoError {
    /// `doing` failed at `path`.
    pub fn new(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self { doing, path: path.into(), source }
    }
}

impl Explain for IoError {
    fn explain(&self) -> Explanation {
        at(&self.path, format!("{} failed", self.doing)).caused_by(&self.source)
    }
}

/// The line of help for what the system answered; `None` where its own words are enough.
pub(super) fn help_for(cause: &io::Error) -> Option<String> {
    let help = match regular::errno(cause)? {
        Errno::NOSPC => "free some space on this disk, or write to another one with ‹output›",
        Errno::DQUOT => "the disk quota is used up: free some space, or write to another disk with ‹output›",
        Errno::ROFS => "the file system is mounted read-only: write to another one with ‹output›",
        Errno::MFILE | Errno::NFILE => {
            "too many files are open at once: raise the limit with `ulimit -n`, then run this again"
        }
        Errno::ACCESS | Errno::PERM => "check who owns this path and the folders above it, and their modes",
        Errno::FBIG => {
            "raise the limit on file sizes with `ulimit -f`, or write to a file system that holds larger files"
        }
        Errno::NAMETOOLONG => "give a shorter name",
        Errno::IO => "the device reported a failure: look at the kernel's log (`dmesg`), then run this again",
        Errno::STALE => "the network file system lost this path: mount it again, then run this again",
        Errno::AGAIN | Errno::NOMEM => {
            "the system has no memory or threads left for this: look at `ulimit -u` and `ulimit -v`"
        }
        _ => return None,
    };
    Some(help.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_can_mend_has_a_line_of_help() {
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::MFILE, Errno::IO, Errno::FBIG] {
            assert!(help_for(&errno.into()).is_some(), "{errno:?}");
        }
        assert_eq!(help_for(&Errno::NOENT.into()), None);
        assert_eq!(help_for(&io::Error::other("words")), None);
    }
}
