//! Errors of carrying out a conversion.

use std::path::PathBuf;

use super::explain::{at, shown, what};
use super::{Explain, Explanation};
use crate::digest::Digest;
use crate::mention;

/// A conversion could not be finished.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.explain().what)]
#[non_exhaustive]
pub enum ConvertError {
    /// `path`: the work folder of the other conversion. `revision`: the commit of its checkpoint, where that differs.
    OtherUnfinished { path: PathBuf, revision: Option<String> },
    /// A NaN or an infinity where a scale must be finite. `row` and `column`: from 0.
    NotFinite { tensor: String, value: f32, row: u64, column: u64 },
    /// A finite value beyond the range of the output type. `element`: its flat index, from 0.
    Overflow { tensor: String, value: f32, element: u64, dtype: String },
    /// A text of the checkpoint that must be changed is not the JSON it should be.
    BadJson { file: String, why: String },
    /// A bundle cannot have a file of this name.
    BadFileName { name: String },
    /// A text that the manifest would hold has not the form that its readers insist on.
    BadWord { text: String, rule: &'static str },
    /// A file of the bundle would have the name of a folder in it.
    FileForFolder { file: String, inside: String },
    /// The manifest that was just written does not pass `verify`: the fault is mgpack's.
    BadManifest { path: PathBuf, why: String },
    /// A file of a hub's cache has other bytes than its name says.
    DamagedCache { path: PathBuf, named: Digest, found: Digest },
    /// The names of two files of the bundle differ by letter case alone.
    CaseClash { first: String, second: String },
    /// The weights of a tower, at `path`, cannot be written anew.
    Tower { path: PathBuf, why: &'static str },
}

impl Explain for ConvertError {
    fn explain(&self) -> Explanation {
        match self {
            Self::OtherUnfinished { path, revision } => {
                at(path, "an interrupted conversion to this target was of another checkpoint or with other options")
                    .help(match revision {
                        Some(revision) => format!(
                            "its checkpoint was another commit: go on with it by {}, or remove its folder to start over",
                            mention::option("revision", revision)
                        ),
                        None => "run the command as it was to go on with that one, or remove its folder to start over"
                            .to_owned(),
                    })
            }
            Self::NotFinite { tensor, value, row, column } => {
                what(format!("tensor `{tensor}` holds {value} at row {row}, column {column}"))
                    .why("its row's scale would not be finite, and the whole row would be lost")
                    .help(format!(
                        "keep it float with {}",
                        mention::option("ignore", tensor.trim_end_matches(".weight"))
                    ))
                    .refused()
            }
            Self::Overflow { tensor, value, element, dtype } => {
                what(format!("tensor `{tensor}` holds {value} at element {element}, beyond the range of {dtype}"))
                    .why("it would become infinite in the bundle")
                    .help(if is_statistic(tensor) {
                        format!("‹ignore=\"{tensor}\"› keeps its type: a statistic that is cut off is a wrong one")
                    } else {
                        "‹on_overflow=\"clamp\"› writes the largest finite value, ‹on_overflow=\"inf\"› keeps the \
                         infinity, ‹scheme=\"bf16\"› has the widest range"
                            .to_owned()
                    })
                    .refused()
            }
            Self::BadJson { file, why } => what(format!("{file} is not a JSON object")).why(why),
            Self::BadFileName { name } => {
                what("a file of the checkpoint has a name that a bundle cannot have")
                    .place(name.escape_debug().to_string())
                    .why(
                        "control characters, those that turn the direction of text, backslashes, colons, dots and \
                         blanks at the end, names of devices (CON, AUX, …) and names above 255 bytes do not survive \
                         every file system",
                    )
                    .help("rename the file in the checkpoint")
            }
            Self::BadWord { text, rule } => what(format!("{} cannot be in a manifest", shown(text))).why(rule),
            Self::FileForFolder { file, inside } => {
                what(format!("a file of the bundle has the name of a folder: `{file}`, and `{inside}` lies in it"))
                    .help("rename one of the two in the checkpoint")
            }
            Self::BadManifest { path, why } => at(path, "the manifest that was written does not pass its own check")
                .why(why)
                .help("please report this with the command and the versions: nothing was put at the target"),
            Self::DamagedCache { path, named, found } => {
                let file = path.canonicalize().map_or("it".to_owned(), |blob| blob.display().to_string());
                at(path, "a file in the hub's cache is damaged")
                    .why(format!("the cache names it by sha256 {named}, and its bytes have {found}"))
                    .help(format!("remove {file} and ‹pull()› the checkpoint again"))
            }
            Self::CaseClash { first, second } => {
                what(format!("two files of the bundle differ only by letter case: `{first}` and `{second}`"))
                    .why("on macOS and Windows one would overwrite the other")
                    .help("rename one of the two in the checkpoint")
            }
            Self::Tower { path, why } => at(path, "the tower's weights are not what MGM reads")
                .why(why)
                .help("give another folder with ‹towers›, or copy it as it is with ‹keep_towers=true›"),
        }
    }
}

/// True for what a layer has measured, such as the running variance of a batch norm.
fn is_statistic(tensor: &str) -> bool {
    let last = tensor.rsplit('.').next().unwrap_or(tensor);
    last.starts_with("running_")
        || last.ends_with("_var")
        || last.ends_with("_mean")
        || last.ends_with("_std")
}
