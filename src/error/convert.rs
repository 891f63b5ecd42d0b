//! Errors of carrying out a conversion.

use std::path::PathBuf;

use super::Explain;
use crate::mention;
use crate::size::counted;

/// A conversion could not be finished. Nothing of it is left on the disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The target is there already.
    #[error("the target exists already")]
    TargetExists {
        /// The target.
        path: PathBuf,
    },
    /// The target was to be replaced, and what is at the target is no bundle.
    #[error("the target is not a bundle and is not replaced")]
    TargetIsNoBundle {
        /// The target.
        path: PathBuf,
    },
    /// The target lies inside the checkpoint, or is it.
    #[error("the target lies inside the checkpoint")]
    TargetInsideSource {
        /// The target.
        path: PathBuf,
    },
    /// The target holds the checkpoint or a tower: replacing it would remove what is being read.
    #[error("the target holds what is converted")]
    TargetHoldsSource {
        /// The target.
        path: PathBuf,
        /// The checkpoint or tower inside it.
        source_dir: PathBuf,
    },
    /// Another process writes the same bundle.
    #[error("another mgpack writes this bundle")]
    Busy {
        /// Its staging folder.
        path: PathBuf,
    },
    /// An interrupted conversion to the same target was another one.
    #[error("an interrupted conversion to this target was of another checkpoint or with other options")]
    OtherUnfinished {
        /// Its staging folder.
        path: PathBuf,
    },
    /// The disk has too little room.
    #[error("too little free space: {} needed, {free} free", counted(needed, "byte"))]
    NoSpace {
        /// The folder that would hold the bundle.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// A NaN or an infinity where a scale must be finite.
    #[error("tensor `{tensor}` holds {value} at row {row}, column {column}")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// `NaN` or an infinity.
        value: f32,
        /// Row, from 0.
        row: u64,
        /// Column, from 0.
        column: u64,
    },
    /// A finite value beyond the range of the output type.
    #[error("tensor `{tensor}` holds {value} at element {element}, beyond the range of {dtype}")]
    Overflow {
        /// The tensor.
        tensor: String,
        /// The value.
        value: f32,
        /// Flat index, from 0.
        element: u64,
        /// The output type.
        dtype: &'static str,
    },
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A text of the checkpoint that must be changed is not the JSON it should be.
    #[error("{file} is not a JSON object")]
    BadJson {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// A file of the checkpoint has a name that cannot stand in a bundle.
    #[error("a file of the checkpoint has a name that cannot stand in a bundle")]
    BadFileName {
        /// The name.
        name: String,
    },
    /// Two files of the bundle would differ only by letter case.
    #[error("two files of the bundle differ only by letter case: `{first}` and `{second}`")]
    CaseClash {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// A tower's weights cannot be written anew.
    #[error("the tower's weights are not what MGM reads")]
    Tower {
        /// The weights.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// Reading or writing failed.
    #[error("{doing} failed")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The path concerned.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: std::io::Error,
    },
    /// The bundle is in place, but the disk did not confirm it.
    #[error("the bundle is complete but not known to be durable")]
    NotDurable {
        /// The bundle.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: std::io::Error,
    },
}

impl Explain for ConvertError {
    fn place(&self) -> Option<String> {
        match self {
            ConvertError::TargetExists { path }
            | ConvertError::TargetIsNoBundle { path }
            | ConvertError::TargetInsideSource { path }
            | ConvertError::TargetHoldsSource { path, .. }
            | ConvertError::Busy { path }
            | ConvertError::OtherUnfinished { path }
            | ConvertError::NoSpace { path, .. }
            | ConvertError::Tower { path, .. }
            | ConvertError::Io { path, .. }
            | ConvertError::NotDurable { path, .. } => Some(path.display().to_string()),
            ConvertError::BadFileName { name } => Some(name.escape_debug().to_string()),
            _ => None,
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            ConvertError::BadJson { why, .. } => Some(why.clone()),
            ConvertError::Tower { why, .. } => Some((*why).to_owned()),
            ConvertError::TargetHoldsSource { source_dir, .. } => {
                Some(format!("replacing it would remove {}", source_dir.display()))
            }
            ConvertError::TargetIsNoBundle { .. } => {
                Some("‹force=true› replaces a folder with an mgpack.json, or an empty one, and nothing else".into())
            }
            ConvertError::NotFinite { .. } => {
                Some("its row's scale would not be finite, and the whole row would be lost".into())
            }
            ConvertError::Overflow { .. } => Some("it would become infinite in the bundle".into()),
            ConvertError::BadFileName { .. } => {
                Some("control characters, backslashes, colons and names above 255 bytes do not survive every file system".into())
            }
            ConvertError::CaseClash { .. } => Some("on macOS and Windows one would overwrite the other".into()),
            ConvertError::Io { cause, .. } | ConvertError::NotDurable { cause, .. } => Some(cause.to_string()),
            _ => None,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            ConvertError::TargetIsNoBundle { .. } => {
                Some("give another folder with ‹output›, or remove this one yourself".into())
            }
            ConvertError::TargetExists { .. } => {
                Some("give another folder with ‹output›, or ‹force=true› to replace it once the new bundle is complete".into())
            }
            ConvertError::TargetInsideSource { .. } | ConvertError::TargetHoldsSource { .. } => {
                Some("give a folder outside the checkpoint with ‹output›".into())
            }
            ConvertError::Busy { .. } => Some("wait for it, or give another folder with ‹output›".into()),
            ConvertError::OtherUnfinished { .. } => {
                Some("run the command as it was to go on with that one, or remove its folder to begin anew".into())
            }
            ConvertError::NoSpace { .. } => Some("free some space, or give a folder on another disk with ‹output›".into()),
            ConvertError::NotFinite { tensor, .. } => {
                Some(format!("keep it float with {}", mention::option("ignore", tensor.trim_end_matches(".weight"))))
            }
            ConvertError::Overflow { .. } => Some(
                "‹on_overflow=\"clamp\"› takes the largest finite value, ‹on_overflow=\"inf\"› keeps the infinity, ‹scheme=\"bf16\"› has the range"
                    .into(),
            ),
            ConvertError::Tower { .. } => Some("give another folder with ‹towers›, or copy it as it is with ‹keep_towers=true›".into()),
            ConvertError::BadFileName { .. } => Some("rename the file in the checkpoint".into()),
            ConvertError::CaseClash { .. } => Some("rename one of the two in the checkpoint".into()),
            _ => None,
        }
    }
}
