//! Errors of opening and reading a checkpoint.
//!
//! [`CheckpointError`] says which file is concerned; what is wrong inside a header, an index or a torch file is a fault
//! of its own, so that the parsers need not know any path.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::explain::{at, listed, shown, shown_bare, shown_path};
use super::{Disguise, Explain, Explanation, HeaderFault, IndexFault, TorchFault};
use crate::mention;
use crate::size::{agreed, counted};

/// A checkpoint could not be read, or is not what its files claim.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.explain().what)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Nothing is at the path.
    NotFound { path: PathBuf, source: io::Error },
    /// A checkpoint is a folder; this is something else.
    NotAFolder { path: PathBuf },
    /// The folder has neither a config.json nor weights.
    NotACheckpoint { path: PathBuf },
    /// The folder has a config.json and no weights.
    NoWeights { path: PathBuf },
    /// The folder has only weights of another program. `file`: the first of them.
    OtherWeights { path: PathBuf, kind: Disguise, file: String },
    /// The folder is a pipeline of diffusers: each of its models is in a folder below.
    IsPipeline { path: PathBuf },
    /// Several torch files, and the name of none says that it is the model.
    UnclearWeights { path: PathBuf, files: Vec<String> },
    /// An index and a `model.safetensors` that it does not list: loaders disagree on which counts.
    TwoSetsOfWeights { index: PathBuf, file: String },
    /// A pipe, socket, device or folder where a file must be.
    NotRegular { path: PathBuf, kind: NodeKind },
    /// `target`: where the link at `path` leads, fully resolved.
    LinkLeavesRoot { path: PathBuf, target: PathBuf },
    /// `target`: as the link has it.
    DanglingLink { path: PathBuf, target: PathBuf },
    /// A file name, perhaps not UTF-8, that cannot be written in a manifest or a `SHA256SUMS` file.
    BadFileName { path: PathBuf },
    /// Two files whose names differ in case alone: one would overwrite the other on some systems.
    NamesClash { root: PathBuf, first: String, second: String },
    /// More files than any checkpoint has.
    TooManyFiles { path: PathBuf, limit: usize },
    /// Folders nested deeper than those of any checkpoint.
    TooDeep { path: PathBuf, limit: usize },
    /// A text file is longer, in bytes, than any of its kind.
    TextTooLarge { path: PathBuf, len: u64, limit: u64 },
    /// A text file is not UTF-8.
    TextNotUtf8 { path: PathBuf, source: std::str::Utf8Error },
    /// A file is not the one that was opened any more.
    FileChanged { path: PathBuf, change: Change },
    /// A read reached past the end of a file: it was shortened, or the range was never in it.
    ReadPastEnd { path: PathBuf, offset: u64, byte_len: u64 },
    /// A file of weights is not downloaded yet, or was removed after its use.
    NotHere { path: PathBuf },
    /// A downloaded file of weights is not the one whose header was sent before.
    NotAsAwaited { path: PathBuf },
    /// `path`: what was asked for.
    NotASideFile { path: String, root: PathBuf },
    /// A safetensors file is damaged.
    #[error(transparent)]
    Header(Box<InFile<HeaderFault>>),
    /// A torch file is damaged.
    #[error(transparent)]
    Torch(Box<InFile<TorchFault>>),
    /// An index is damaged.
    #[error(transparent)]
    Index(Box<InFile<IndexFault>>),
    /// `tensor`: the first that the index lists in the shard.
    MissingShard { index: PathBuf, shard: String, tensor: String },
    /// `shard`: the one that the index lists; `found_in`: the one that has the tensor.
    TensorNotInShard { index: PathBuf, tensor: String, shard: PathBuf, found_in: Option<String> },
    /// A shard holds a tensor that the index does not list.
    TensorNotInIndex { index: PathBuf, tensor: String, shard: PathBuf },
    /// Two shards hold a tensor of one name.
    TensorInTwoShards { root: PathBuf, tensor: String, first: String, second: String },
}

const GIVE_FOLDER: &str = "give the folder that holds the weights";
const GIVE_LOWER: &str = "give the folder that holds the weights, not one above it";
const MOVE_FILE: &str = "rename it or move it out of the checkpoint";
const NO_CHECKPOINT: &str = "no checkpoint looks like that";
const NOT_COMPLETE: &str = "the download may not be complete: download the model again";
const OTHER_VERSION: &str = "download that shard and the index again: they are not of one version";
const WAIT: &str = "wait until nothing writes to the checkpoint, then start again";

impl Explain for CheckpointError {
    fn explain(&self) -> Explanation {
        match self {
            Self::NotFound { path, source } => at(path, format!("there is no checkpoint at `{}`", shown_path(path)))
                .why(source)
                .help("check the path; a hub model is named `org/name`"),
            Self::NotAFolder { path } => {
                let is_weights = path.extension().is_some_and(|extension| extension == "safetensors");
                at(path, format!("`{}` is not a folder", shown_path(path)))
                    .why("a checkpoint is the folder that holds `config.json` and the weights")
                    .help(match is_weights {
                        true => format!(
                            "give its folder, or look at this one file with {}",
                            mention::call("inspect", &shown_path(path), &[])
                        ),
                        false => GIVE_FOLDER.to_owned(),
                    })
            }
            Self::NotACheckpoint { path } => at(path, format!("`{}` is not a checkpoint", shown_path(path)))
                .why("it holds neither `config.json` nor weights (`*.safetensors`, `pytorch_model*.bin`)")
                .help(GIVE_FOLDER),
            Self::NoWeights { path } => at(path, "the checkpoint holds no weights")
                .why("it has a `config.json` but neither `*.safetensors` nor `pytorch_model*.bin`")
                .help(NOT_COMPLETE),
            Self::OtherWeights { path, kind, file } => at(path, format!("the checkpoint's weights are {kind}"))
                .why(format!(
                    "the first bytes of {} show it; there are neither `*.safetensors` nor `pytorch_model*.bin`",
                    shown(file)
                ))
                .help("give the checkpoint they were made from"),
            Self::IsPipeline { path } => at(path, "this is a pipeline of diffusers, not one model")
                .why("its model_index.json names the models in the folders below, which load one by one")
                .help("give the folder of one of its models, such as `unet` or `transformer`"),
            Self::UnclearWeights { path, files } => at(path, "it is not clear which of the torch files is the model")
                .why(format!("found {}", listed(files)))
                .help("name the model's file `pytorch_model.bin`, or move the others out of the checkpoint"),
            Self::TwoSetsOfWeights { index, file } => {
                at(index, format!("the checkpoint has an index and also a `{file}` that the index does not list"))
                    .why("loaders disagree: transformers reads the single file, others the index")
                    .help(format!("move `{file}` or the index elsewhere, whichever is not the model"))
            }
            Self::NotRegular { path, kind } => {
                at(path, format!("`{}` is {kind}, not a regular file", shown_path(path)))
                    .why("reading it could block or never end")
                    .help(MOVE_FILE)
            }
            Self::LinkLeavesRoot { path, target } => {
                at(path, format!("the link `{}` leads out of the checkpoint", shown_path(path)))
                    .why(format!(
                        "it leads to `{}`; only links into the `blobs` folder of the same hub cache may leave",
                        shown_path(target)
                    ))
                    .help("put a copy of the file in the link's place")
            }
            Self::DanglingLink { path, target } => at(path, format!("the link `{}` leads to nothing", shown_path(path)))
                .why(format!("it points to `{}`", shown_path(target)))
                .help(NOT_COMPLETE),
            Self::BadFileName { path } => {
                at(path, format!("a file name is not plain text: {}", shown(&path.to_string_lossy())))
                    .why("names must be UTF-8 without backslashes and control characters, or no checksum list can hold them")
                    .help(MOVE_FILE)
            }
            Self::NamesClash { root, first, second } => {
                at(root, format!("the names `{first}` and `{second}` differ in case alone"))
                    .why("a bundle must also fit on Windows and macOS")
                    .help(format!("rename `{second}` or move it out of the checkpoint"))
            }
            Self::TooManyFiles { path, limit } => {
                at(path, format!("the folder holds more than {}", counted(limit, "file")))
                    .why(NO_CHECKPOINT)
                    .help(GIVE_LOWER)
            }
            Self::TooDeep { path, limit } => at(path, format!("the folders are nested more than {limit} deep"))
                .why(NO_CHECKPOINT)
                .help(GIVE_LOWER),
            Self::TextTooLarge { path, len, limit } => {
                let (shown, len) = (shown_path(path), counted(len, "byte"));
                at(path, format!("`{shown}` is too large: {len}, where {limit} is the limit"))
                    .why("real ones are a hundred times smaller")
                    .help("download that file again")
            }
            Self::TextNotUtf8 { path, source } => at(path, format!("`{}` is not UTF-8 text", shown_path(path)))
                .why(source)
                .help("download that file again"),
            Self::FileChanged { path, change } => {
                at(path, format!("`{}` changed while it was being read", shown_path(path)))
                    .why(change)
                    .help(WAIT)
            }
            Self::ReadPastEnd { path, offset, byte_len } => {
                let wanted = agreed(byte_len, "byte was wanted", "bytes were wanted");
                at(path, format!("`{}` ended early", shown_path(path)))
                    .why(format!("{wanted} from byte {offset} on"))
                    .help(WAIT)
            }
            Self::NotHere { path } => at(path, "a file of weights is not here to be read")
                .why("it is not downloaded yet, or was removed after it was read to its end"),
            Self::NotAsAwaited { path } => at(path, "a downloaded file of weights is not the one that was announced")
                .why("its length or its header differs from what the hub sent before the file")
                .help("run the same command again"),
            Self::NotASideFile { path, root } => at(root, format!("the checkpoint has no side file {}", shown(path)))
                .why("only files that it listed when opened can be read"),
            Self::Header(fault) => fault.explain(),
            Self::Torch(fault) => fault.explain(),
            Self::Index(fault) => fault.explain(),
            Self::MissingShard { index, shard, tensor } => {
                at(index, format!("the shard `{}` is missing", shown_bare(shard)))
                    .why(format!("the index lists tensor `{tensor}` there"))
                    .help(NOT_COMPLETE)
            }
            Self::TensorNotInShard { index, tensor, shard, found_in } => {
                let is = match found_in {
                    Some(other) => format!("it is in {}", shown(other)),
                    None => "the shard's header does not".to_owned(),
                };
                at(shard, format!("tensor `{tensor}` is not in its shard"))
                    .why(format!("{} lists it there; {is}", file_name(index)))
                    .help(OTHER_VERSION)
            }
            Self::TensorNotInIndex { index, tensor, shard } => {
                at(shard, format!("tensor `{tensor}` is not in the index"))
                    .why(format!("the shard holds it; {} does not list it", file_name(index)))
                    .help(OTHER_VERSION)
            }
            Self::TensorInTwoShards { root, tensor, first, second } => {
                at(root, format!("tensor `{tensor}` is in two shards, `{first}` and `{second}`"))
                    .why("loaders disagree on which one counts")
                    .help("remove the shard that is not of this model, or download the model again")
            }
        }
    }
}

impl CheckpointError {
    /// A fault of the safetensors file at `path`.
    pub(crate) fn header(path: impl Into<PathBuf>, fault: HeaderFault) -> Self {
        Self::Header(Box::new(InFile { path: path.into(), fault }))
    }

    /// A fault of the torch file at `path`.
    pub(crate) fn torch(path: impl Into<PathBuf>, fault: TorchFault) -> Self {
        Self::Torch(Box::new(InFile { path: path.into(), fault }))
    }

    /// A fault of the index at `path`.
    pub(crate) fn index(path: impl Into<PathBuf>, fault: IndexFault) -> Self {
        Self::Index(Box::new(InFile { path: path.into(), fault }))
    }
}

/// A fault found inside a file.
///
/// Displays as the fault; its cause is the fault's cause.
#[derive(Debug)]
pub struct InFile<F> {
    pub path: PathBuf,
    pub fault: F,
}

impl<F: fmt::Display> fmt::Display for InFile<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl<F: Explain> InFile<F> {
    fn explain(&self) -> Explanation {
        self.fault.explain().place(shown_path(&self.path))
    }
}

impl<F: StdError> StdError for InFile<F> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.fault.source()
    }
}

/// What is where a regular file should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeKind {
    Folder,
    Pipe,
    Socket,
    Device,
    Other,
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Folder => "a folder",
            Self::Pipe => "a named pipe",
            Self::Socket => "a socket",
            Self::Device => "a device",
            Self::Other => "something special",
        })
    }
}

/// How a file differs from the one that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Another length, in bytes.
    Length {
        before: u64,
        now: u64,
    },
    Modified,
    Replaced,
    Removed,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { before, now } => {
                write!(f, "it was {} long and is {now} now", counted(before, "byte"))
            }
            Self::Modified => f.write_str("its modification time is not what it was"),
            Self::Replaced => f.write_str("another file has its name now"),
            Self::Removed => f.write_str("no file has its name any more"),
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| shown_bare(&name.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn errors_stay_small_enough_to_return_by_value() {
        assert!(size_of::<crate::Error>() <= 128, "{}", size_of::<crate::Error>());
    }
}
