//! Errors of writing where the user asked.

use std::io;
use std::path::PathBuf;

use super::explain::at;
use super::{Explain, Explanation};
use crate::program::shell_word;
use crate::size::shown;

/// The output could not be written. What was at the target is as it was.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.explain().what)]
#[non_exhaustive]
pub enum OutputError {
    /// The target already exists.
    Exists { path: PathBuf },
    /// The target was to be replaced, and mgpack did not make all of it.
    NotOurs { path: PathBuf, why: String },
    /// A folder that must be empty is not. `content`: what the folder is for.
    NotEmpty { path: PathBuf, content: &'static str },
    /// The target is, or lies inside, what is read.
    InsideInput { path: PathBuf, input: PathBuf },
    /// The target holds what is read: replacing it would remove that.
    HoldsInput { path: PathBuf, input: PathBuf },
    /// The target lies inside a bundle, which would not verify any more.
    InsideBundle { path: PathBuf, bundle: PathBuf },
    /// The path of the target ends in no name.
    NoName { path: PathBuf },
    /// Another process has locked the work folder at `path`.
    Busy { path: PathBuf },
    /// Bytes needed and free, on the disk of the folder that would hold the target.
    NoSpace { path: PathBuf, needed: u64, free: u64 },
    /// All is written, and the last step, the rename to the target, failed.
    NotPlaced { content: PathBuf, target: PathBuf, source: io::Error },
    /// The output is in place, but the disk did not confirm it.
    NotDurable { path: PathBuf, source: io::Error },
}

impl Explain for OutputError {
    fn explain(&self) -> Explanation {
        match self {
            Self::Exists { path } => at(path, "the target already exists").refused().help(
                "give another target with ‹output›, or ‹force=true› to replace this one once the new one is complete",
            ),
            Self::NotOurs { path, why } => at(path, "the target is not replaced: mgpack did not make it")
                .why(why)
                .help("give another target with ‹output›, or remove this one yourself")
                .refused(),
            Self::NotEmpty { path, content } => at(path, format!("the folder for the {content} is not empty"))
                .why(format!("the {content} would be mixed with the files in it"))
                .help("give a new or an empty folder with ‹output›")
                .refused(),
            Self::InsideInput { path, input } => at(path, "the target lies inside what is read")
                .why(format!("{} is read and must not change", input.display()))
                .help("give a target outside of it with ‹output›")
                .refused(),
            Self::HoldsInput { path, input } => at(path, "the target holds what is read")
                .why(format!("replacing it would remove {}", input.display()))
                .help("give a target outside of it with ‹output›")
                .refused(),
            Self::InsideBundle { path, bundle } => at(path, "the target lies inside a bundle")
                .why(format!("with another file in it {} would not verify any more", bundle.display()))
                .help("run this in another folder, or give a target outside of the bundle with ‹output›")
                .refused(),
            Self::NoName { path } => {
                at(path, "the target has no name").help("give the folder or file to write with ‹output›")
            }
            Self::Busy { path } => at(path, "another mgpack writes to this target")
                .help("wait for it, or give another target with ‹output›"),
            Self::NoSpace { path, needed, free } => {
                at(path, format!("too little free space: {} needed, {} free", shown(*needed), shown(*free)))
                    .help("free some space, or give a folder on another disk with ‹output›")
            }
            Self::NotPlaced { content, target, source } => Explanation {
                refusal: source.kind() == io::ErrorKind::AlreadyExists,
                ..at(content, "the output is complete but not at its target")
                    .why(format!("the rename to the target: {source}"))
                    .help(format!(
                        "make room at the target, then `mv {} {}`",
                        shell_word(&content.to_string_lossy()),
                        shell_word(&target.to_string_lossy())
                    ))
            },
            Self::NotDurable { path, source } => at(path, "the output is complete but may not be on the disk yet")
                .why(source)
                .help("it may not survive a crash of the machine: `sync`, then check it again"),
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
            source: rustix::io::Errno::INVAL.into(),
        };
        let Explanation { place, help, refusal, .. } = error.explain();
        assert_eq!(place.unwrap(), ".mgpack-1/content");
        assert_eq!(help.unwrap(), r"make room at the target, then `mv .mgpack-1/content 'it'\''s here'`");
        assert!(!refusal);
    }
}
