//! Errors of writing where the user asked.

use std::io;
use std::path::PathBuf;

use super::Explain;
use super::io::help_for;
use crate::program::shell_word;
use crate::size::shown;

/// Something could not be written to its target. What was at the target is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The target is there already.
    #[error("the target exists already")]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The target was to be replaced, and mgpack did not make all of it.
    #[error("the target is not replaced: mgpack did not make it")]
    NotOurs {
        /// The target.
        path: PathBuf,
        /// What was found there.
        why: String,
    },
    /// The target is, or lies inside, what is read.
    #[error("the target lies inside what is read")]
    InsideInput {
        /// The target.
        path: PathBuf,
        /// What is read.
        input: PathBuf,
    },
    /// The target holds what is read: replacing it would remove that.
    #[error("the target holds what is read")]
    HoldsInput {
        /// The target.
        path: PathBuf,
        /// What is read.
        input: PathBuf,
    },
    /// The target lies inside a bundle, which would not verify any more.
    #[error("the target lies inside a bundle")]
    InsideBundle {
        /// The target.
        path: PathBuf,
        /// The bundle.
        bundle: PathBuf,
    },
    /// The target's path ends in no name.
    #[error("the target has no name")]
    NoName {
        /// The target.
        path: PathBuf,
    },
    /// Another process writes to the same target.
    #[error("another mgpack writes to this target")]
    Busy {
        /// Its work folder.
        path: PathBuf,
    },
    /// The disk has too little room.
    #[error("too little free space: {} needed, {} free", shown(*needed), shown(*free))]
    NoSpace {
        /// The folder that would hold the target.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// Writing failed.
    #[error("{doing} failed")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The path concerned.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// All is written, and the last step, the rename to the target, failed.
    #[error("the output is complete but not at its target")]
    NotPlaced {
        /// Where it is.
        content: PathBuf,
        /// Where it should be.
        target: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// The output is in place, but the disk did not confirm it.
    #[error("the output is complete but not known to be durable")]
    NotDurable {
        /// The target.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
}

impl OutputError {
    /// True where mgpack declines to write what it could have written.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            OutputError::Exists { .. }
            | OutputError::NotOurs { .. }
            | OutputError::InsideInput { .. }
            | OutputError::HoldsInput { .. }
            | OutputError::InsideBundle { .. } => true,
            OutputError::NotPlaced { cause, .. } => cause.kind() == io::ErrorKind::AlreadyExists,
            _ => false,
        }
    }
}

impl Explain for OutputError {
    fn place(&self) -> Option<String> {
        match self {
            OutputError::Exists { path }
            | OutputError::NotOurs { path, .. }
            | OutputError::InsideInput { path, .. }
            | OutputError::HoldsInput { path, .. }
            | OutputError::InsideBundle { path, .. }
            | OutputError::NoName { path }
            | OutputError::Busy { path }
            | OutputError::NoSpace { path, .. }
            | OutputError::Io { path, .. }
            | OutputError::NotPlaced { content: path, .. }
            | OutputError::NotDurable { path, .. } => Some(path.display().to_string()),
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            OutputError::NotOurs { why, .. } => Some(why.clone()),
            OutputError::InsideInput { input, .. } => {
                Some(format!("{} is read and must not change", input.display()))
            }
            OutputError::HoldsInput { input, .. } => {
                Some(format!("replacing it would remove {}", input.display()))
            }
            OutputError::InsideBundle { bundle, .. } => {
                Some(format!("with another file in it {} would not verify any more", bundle.display()))
            }
            OutputError::Io { cause, .. } | OutputError::NotDurable { cause, .. } => Some(cause.to_string()),
            OutputError::NotPlaced { cause, .. } => Some(format!("the rename to the target: {cause}")),
            _ => None,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            OutputError::Exists { .. } => {
                Some("give another target with ‹output›, or ‹force=true› to replace this one once the new one is complete".into())
            }
            OutputError::NotOurs { .. } => Some("give another target with ‹output›, or remove this one yourself".into()),
            OutputError::InsideInput { .. } | OutputError::HoldsInput { .. } => {
                Some("give a target outside of it with ‹output›".into())
            }
            OutputError::InsideBundle { .. } => {
                Some("run this in another folder, or give a target outside of the bundle with ‹output›".into())
            }
            OutputError::NoName { .. } => Some("give the folder or file to write with ‹output›".into()),
            OutputError::Busy { .. } => Some("wait for it, or give another target with ‹output›".into()),
            OutputError::NoSpace { .. } => {
                Some("free some space, or give a folder on another disk with ‹output›".into())
            }
            OutputError::Io { cause, .. } => help_for(cause),
            OutputError::NotPlaced { content, target, .. } => Some(format!(
                "make room at the target, then `mv {} {}`",
                shell_word(&content.to_string_lossy()),
                shell_word(&target.to_string_lossy())
            )),
            OutputError::NotDurable { .. } => {
                Some("it may not survive a crash of the machine: `sync`, then check it again".into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_finished_is_named_with_the_command_that_puts_it_in_place() {
        let error = OutputError::NotPlaced {
            content: ".mgpack-1/content".into(),
            target: "it's here".into(),
            cause: io::Error::from_raw_os_error(libc_einval()),
        };
        assert_eq!(error.place().unwrap(), ".mgpack-1/content");
        assert_eq!(
            error.help().unwrap(),
            r"make room at the target, then `mv .mgpack-1/content 'it'\''s here'`"
        );
        assert!(!error.is_refusal());
    }

    fn libc_einval() -> i32 {
        rustix::io::Errno::INVAL.raw_os_error()
    }
}
