//! Errors of carrying out a conversion.

use std::path::PathBuf;

use super::Explain;
use super::io::help_for;
use super::shown::shown;
use crate::digest::Digest;
use crate::mention;

/// A conversion could not be finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// An interrupted conversion to the same target was another one.
    #[error("an interrupted conversion to this target was of another checkpoint or with other options")]
    OtherUnfinished {
        /// Its staging folder.
        path: PathBuf,
        /// The commit of its checkpoint, where that was another than this one's.
        revision: Option<String>,
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
        dtype: String,
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
    /// A text that the manifest would hold has not the form that its readers insist on.
    #[error("{} cannot stand in a manifest", shown(text))]
    BadWord {
        /// The text.
        text: String,
        /// The form.
        rule: &'static str,
    },
    /// A file of the bundle would have the name of a folder in it.
    #[error("a file of the bundle has the name of a folder: `{file}`, and `{inside}` lies in it")]
    FileForFolder {
        /// The file.
        file: String,
        /// The other.
        inside: String,
    },
    /// The manifest that was just written is none that `verify` takes: the fault is mgpack's.
    #[error("the manifest that was written does not pass its own check")]
    BadManifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file of a hub's cache has other bytes than its name says.
    #[error("a file in the hub's cache is damaged")]
    DamagedCache {
        /// The file.
        path: PathBuf,
        /// The digest that it is named by.
        named: Digest,
        /// That of its bytes.
        found: Digest,
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
}

impl Explain for ConvertError {
    fn place(&self) -> Option<String> {
        match self {
            // Threads have no place.
            ConvertError::Io { path, .. } if path.as_os_str().is_empty() => None,
            ConvertError::OtherUnfinished { path, .. }
            | ConvertError::BadManifest { path, .. }
            | ConvertError::DamagedCache { path, .. }
            | ConvertError::Tower { path, .. }
            | ConvertError::Io { path, .. } => Some(path.display().to_string()),
            ConvertError::BadFileName { name } => Some(name.escape_debug().to_string()),
            _ => None,
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            ConvertError::BadJson { why, .. } => Some(why.clone()),
            ConvertError::Tower { why, .. } => Some((*why).to_owned()),
            ConvertError::NotFinite { .. } => {
                Some("its row's scale would not be finite, and the whole row would be lost".into())
            }
            ConvertError::Overflow { .. } => Some("it would become infinite in the bundle".into()),
            ConvertError::BadFileName { .. } => {
                Some("control characters, those that turn the direction of text, backslashes, colons, dots and blanks at the end, names of devices (CON, AUX, …) and names above 255 bytes do not survive every file system".into())
            }
            ConvertError::BadManifest { why, .. } => Some(why.clone()),
            ConvertError::DamagedCache { named, found, .. } => {
                Some(format!("the cache names it by sha256 {named}, and its bytes have {found}"))
            }
            ConvertError::BadWord { rule, .. } => Some((*rule).to_owned()),
            ConvertError::CaseClash { .. } => Some("on macOS and Windows one would overwrite the other".into()),
            ConvertError::Io { cause, .. } => Some(cause.to_string()),
            _ => None,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            ConvertError::OtherUnfinished { revision: Some(revision), .. } => Some(format!(
                "its checkpoint was another commit: go on with it by {}, or remove its folder to begin anew",
                mention::option("revision", revision)
            )),
            ConvertError::OtherUnfinished { revision: None, .. } => {
                Some("run the command as it was to go on with that one, or remove its folder to begin anew".into())
            }
            ConvertError::NotFinite { tensor, .. } => {
                Some(format!("keep it float with {}", mention::option("ignore", tensor.trim_end_matches(".weight"))))
            }
            ConvertError::Overflow { .. } => Some(
                "‹on_overflow=\"clamp\"› takes the largest finite value, ‹on_overflow=\"inf\"› keeps the infinity, ‹scheme=\"bf16\"› has the widest range"
                    .into(),
            ),
            ConvertError::Tower { .. } => Some("give another folder with ‹towers›, or copy it as it is with ‹keep_towers=true›".into()),
            ConvertError::BadFileName { .. } => Some("rename the file in the checkpoint".into()),
            ConvertError::BadManifest { .. } => {
                Some("please report this with the command and the versions: nothing was put at the target".into())
            }
            ConvertError::DamagedCache { path, .. } => Some(match path.canonicalize() {
                Ok(blob) => format!("remove {} and ‹pull()› the checkpoint again", blob.display()),
                Err(_) => "remove it and ‹pull()› the checkpoint again".into(),
            }),
            ConvertError::CaseClash { .. } | ConvertError::FileForFolder { .. } => Some("rename one of the two in the checkpoint".into()),
            ConvertError::Io { cause, .. } => help_for(cause),
            _ => None,
        }
    }
}
