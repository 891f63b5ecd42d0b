//! Errors of opening and reading a checkpoint.
//!
//! [`CheckpointError`] says which file is concerned; what is wrong inside a header, an index or a torch file is a fault
//! of its own, so that the parsers need not know any path.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::shown::{listed, shown, shown_bare, shown_path};
use super::{Disguise, Explain, HeaderFault, IndexFault, TorchFault};
use crate::mention;
use crate::size::{agreed, counted};

/// A checkpoint could not be found, or is not what its files claim.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Nothing lies at the path given.
    #[error("there is no checkpoint at `{}`", shown_path(path))]
    NotFound {
        /// As it was given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A checkpoint is a folder; this is something else.
    #[error("`{}` is not a folder", shown_path(path))]
    NotAFolder {
        /// As it was given.
        path: PathBuf,
    },
    /// The folder holds neither a `config.json` nor weights.
    #[error("`{}` is not a checkpoint", shown_path(path))]
    NotACheckpoint {
        /// The folder.
        path: PathBuf,
    },
    /// The folder has a `config.json` but no weights.
    #[error("the checkpoint holds no weights")]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// The folder has weights of another program alone.
    #[error("the checkpoint's weights are {kind}")]
    OtherWeights {
        /// The folder.
        path: PathBuf,
        /// What they are.
        kind: Disguise,
        /// The first file of them.
        file: String,
    },
    /// The folder is a pipeline of diffusers: each of its models is in a folder below.
    #[error("this is a pipeline of diffusers, not one model")]
    IsPipeline {
        /// The folder.
        path: PathBuf,
    },
    /// Several torch files (`.bin`, `.pt`, `.pth`), none of a name that says that it is the model.
    #[error("it is not clear which of the torch files is the model")]
    UnclearWeights {
        /// The folder.
        path: PathBuf,
        /// The files, sorted.
        files: Vec<String>,
    },
    /// An index and a `model.safetensors` that it does not list: loaders disagree on which counts.
    #[error("the checkpoint has an index and also a `{file}` that the index does not list")]
    TwoSetsOfWeights {
        /// The index.
        index: PathBuf,
        /// The file beside it.
        file: String,
    },
    /// A file or folder could not be opened, listed or read.
    #[error("cannot {action} `{}`", shown_path(path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// A verb: `open`, `read`, `list`.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A pipe, socket, device or folder stands where a file must be.
    #[error("`{}` is {kind}, not a regular file", shown_path(path))]
    NotRegular {
        /// Its path.
        path: PathBuf,
        /// What it is.
        kind: NodeKind,
    },
    /// A symbolic link leads out of the checkpoint.
    #[error("the link `{}` leads out of the checkpoint", shown_path(path))]
    LinkLeavesRoot {
        /// The link.
        path: PathBuf,
        /// Where it leads, fully resolved.
        target: PathBuf,
    },
    /// A symbolic link leads to nothing.
    #[error("the link `{}` leads to nothing", shown_path(path))]
    DanglingLink {
        /// The link.
        path: PathBuf,
        /// What the link says.
        target: PathBuf,
    },
    /// A file name that cannot be written in a manifest or a `SHA256SUMS` file.
    #[error("a file name is not plain text: {}", shown(&path.to_string_lossy()))]
    BadFileName {
        /// Its path, perhaps not UTF-8.
        path: PathBuf,
    },
    /// Two files whose names differ in case alone: one would overwrite the other on some systems.
    #[error("the names `{first}` and `{second}` differ in case alone")]
    NamesClash {
        /// The folder.
        root: PathBuf,
        /// One path, relative to it.
        first: String,
        /// The other.
        second: String,
    },
    /// More files than any checkpoint has.
    #[error("the folder holds more than {}", counted(limit, "file"))]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// Folders nested deeper than any checkpoint has them.
    #[error("the folders are nested more than {limit} deep")]
    TooDeep {
        /// The folder reached.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// A text file is larger than any of its kind.
    #[error("`{}` is too large: {}, where {limit} is the limit", shown_path(path), counted(len, "byte"))]
    TextTooLarge {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A text file is not UTF-8.
    #[error("`{}` is not UTF-8 text", shown_path(path))]
    TextNotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first bad byte's place.
        source: std::str::Utf8Error,
    },
    /// A file is not the one that was opened any more.
    #[error("`{}` changed while it was being read", shown_path(path))]
    FileChanged {
        /// The file.
        path: PathBuf,
        /// In which way.
        change: Change,
    },
    /// A read reached past the end of a file: it was shortened, or the range was never in it.
    #[error("`{}` ended early", shown_path(path))]
    ReadPastEnd {
        /// The file.
        path: PathBuf,
        /// First byte wanted.
        offset: u64,
        /// Bytes wanted.
        byte_len: u64,
    },
    /// A file of weights that is yet to come, or was let go.
    #[error("a file of weights is not here to be read")]
    NotHere {
        /// The file.
        path: PathBuf,
    },
    /// A file of weights that came is not the one whose head was told before.
    #[error("a file of weights is not the one that was announced")]
    NotAsAwaited {
        /// The file.
        path: PathBuf,
    },
    /// A path that is not among the checkpoint's side files.
    #[error("the checkpoint has no side file {}", shown(path))]
    NotASideFile {
        /// The path asked for.
        path: String,
        /// The root.
        root: PathBuf,
    },
    /// A safetensors file is not sound.
    #[error(transparent)]
    Header(Box<InFile<HeaderFault>>),
    /// A torch file is not sound.
    #[error(transparent)]
    Torch(Box<InFile<TorchFault>>),
    /// An index is not sound.
    #[error(transparent)]
    Index(Box<InFile<IndexFault>>),
    /// The index names a shard that is not there.
    #[error("the shard `{}` is missing", shown_bare(shard))]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The shard it names.
        shard: String,
        /// The first tensor it lists there.
        tensor: String,
    },
    /// The index lists a tensor in a shard that does not hold it.
    #[error("tensor `{tensor}` is not in its shard")]
    TensorNotInShard {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard the index names.
        shard: PathBuf,
        /// The shard that does hold it, if any.
        found_in: Option<String>,
    },
    /// A shard holds a tensor that the index does not list.
    #[error("tensor `{tensor}` is not in the index")]
    TensorNotInIndex {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard that holds it.
        shard: PathBuf,
    },
    /// Two shards hold a tensor of one name.
    #[error("tensor `{tensor}` is in two shards, `{first}` and `{second}`")]
    TensorInTwoShards {
        /// The folder.
        root: PathBuf,
        /// The tensor.
        tensor: String,
        /// One shard.
        first: String,
        /// The other.
        second: String,
    },
}

/// A fault found inside a file.
///
/// Displays as the fault; its cause is the fault's cause.
#[derive(Debug)]
pub struct InFile<F> {
    /// The file.
    pub path: PathBuf,
    /// What is wrong in it.
    pub fault: F,
}

impl<F: fmt::Display> fmt::Display for InFile<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl<F: StdError> StdError for InFile<F> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.fault.source()
    }
}

/// What stands where a regular file should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeKind {
    /// A folder.
    Folder,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
    /// A block or character device.
    Device,
    /// Something else.
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
        /// When it was opened.
        before: u64,
        /// Now.
        now: u64,
    },
    /// Written to since.
    Modified,
    /// Another file has its name now.
    Replaced,
    /// No file has its name now.
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

    /// An input or output error at `path`.
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.into(), action, source }
    }
}

impl Explain for CheckpointError {
    fn place(&self) -> Option<String> {
        let path = match self {
            Self::NotFound { path, .. }
            | Self::NotAFolder { path }
            | Self::NotACheckpoint { path }
            | Self::NoWeights { path }
            | Self::OtherWeights { path, .. }
            | Self::IsPipeline { path }
            | Self::UnclearWeights { path, .. }
            | Self::TwoSetsOfWeights { index: path, .. }
            | Self::Io { path, .. }
            | Self::NotRegular { path, .. }
            | Self::LinkLeavesRoot { path, .. }
            | Self::DanglingLink { path, .. }
            | Self::BadFileName { path }
            | Self::TooManyFiles { path, .. }
            | Self::TooDeep { path, .. }
            | Self::TextTooLarge { path, .. }
            | Self::TextNotUtf8 { path, .. }
            | Self::FileChanged { path, .. }
            | Self::ReadPastEnd { path, .. }
            | Self::NotHere { path }
            | Self::NotAsAwaited { path }
            | Self::NotASideFile { root: path, .. }
            | Self::MissingShard { index: path, .. }
            | Self::TensorNotInShard { shard: path, .. }
            | Self::TensorNotInIndex { shard: path, .. }
            | Self::TensorInTwoShards { root: path, .. }
            | Self::NamesClash { root: path, .. } => path,
            Self::Header(inner) => &inner.path,
            Self::Torch(inner) => &inner.path,
            Self::Index(inner) => &inner.path,
        };
        Some(shown_path(path))
    }

    fn why(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { source, .. } | Self::Io { source, .. } => source.to_string(),
            Self::NotAFolder { .. } => {
                "a checkpoint is the folder that holds `config.json` and the weights".to_owned()
            }
            Self::NotACheckpoint { .. } => {
                "it holds neither `config.json` nor weights (`*.safetensors`, `pytorch_model*.bin`)"
                    .to_owned()
            }
            Self::NoWeights { .. } => {
                "it has a `config.json` but neither `*.safetensors` nor `pytorch_model*.bin`".to_owned()
            }
            Self::OtherWeights { file, .. } => format!(
                "the first bytes of `{}` show it; there are neither `*.safetensors` nor `pytorch_model*.bin`",
                shown_bare(file)
            ),
            Self::IsPipeline { .. } => {
                "its model_index.json names the models in the folders below, which load one by one".to_owned()
            }
            Self::UnclearWeights { files, .. } => format!("found {}", listed(files)),
            Self::TwoSetsOfWeights { .. } => {
                "loaders disagree: transformers reads the single file, others the index".to_owned()
            }
            Self::NotRegular { .. } => "reading it could block or never end".to_owned(),
            Self::LinkLeavesRoot { target, .. } => {
                format!(
                    "it leads to `{}`; only links into the `blobs` folder of the same hub cache may leave",
                    shown_path(target)
                )
            }
            Self::DanglingLink { target, .. } => format!("it points to `{}`", shown_path(target)),
            Self::BadFileName { .. } => {
                "names must be UTF-8 without backslashes and control characters, or no checksum list can \
                 hold them"
                    .to_owned()
            }
            Self::TooManyFiles { .. } | Self::TooDeep { .. } => "no checkpoint looks like that".to_owned(),
            Self::TextTooLarge { .. } => "real ones are a hundred times smaller".to_owned(),
            Self::TextNotUtf8 { source, .. } => source.to_string(),
            Self::FileChanged { change, .. } => change.to_string(),
            Self::ReadPastEnd { offset, byte_len, .. } => {
                format!("{} from byte {offset} on", agreed(byte_len, "byte was wanted", "bytes were wanted"))
            }
            Self::NotHere { .. } => "it is yet to come, or was read to the end and let go".to_owned(),
            Self::NotAsAwaited { .. } => {
                "its length or its header differ from what the hub sent before the file".to_owned()
            }
            Self::NotASideFile { .. } => "only files that it listed when opened can be read".to_owned(),
            Self::Header(inner) => return inner.fault.why(),
            Self::Torch(inner) => return inner.fault.why(),
            Self::Index(inner) => return inner.fault.why(),
            Self::MissingShard { tensor, .. } => format!("the index lists tensor `{tensor}` there"),
            Self::TensorNotInShard { index, found_in: None, .. } => {
                format!("{} lists it there; the shard's header does not", file_name(index))
            }
            Self::TensorNotInShard { index, found_in: Some(other), .. } => {
                format!("{} lists it there; it is in `{}`", file_name(index), shown_bare(other))
            }
            Self::TensorNotInIndex { index, .. } => {
                format!("the shard holds it; {} does not list it", file_name(index))
            }
            Self::NamesClash { .. } => "a bundle must also fit on Windows and macOS".to_owned(),
            Self::TensorInTwoShards { .. } => "loaders disagree on which one counts".to_owned(),
        })
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { .. } => "check the path; a hub model is named `org/name`".to_owned(),
            Self::NotAFolder { path } => match path.extension() {
                Some(extension) if extension == "safetensors" => {
                    format!(
                        "give its folder, or look at this one file with {}",
                        mention::call("inspect", &shown_path(path), &[])
                    )
                }
                _ => "give the folder that holds the weights".to_owned(),
            },
            Self::NotACheckpoint { .. } => "give the folder that holds the weights".to_owned(),
            Self::NoWeights { .. } | Self::MissingShard { .. } | Self::DanglingLink { .. } => {
                "the download may not be complete: fetch the model again".to_owned()
            }
            Self::OtherWeights { .. } => "give the checkpoint they were made from".to_owned(),
            Self::IsPipeline { .. } => {
                "give the folder of one of its models, as `unet` or `transformer`".to_owned()
            }
            Self::UnclearWeights { .. } => {
                "name the model's file `pytorch_model.bin`, or move the others out of the checkpoint"
                    .to_owned()
            }
            Self::TwoSetsOfWeights { file, .. } => {
                format!("move `{file}` or the index elsewhere, whichever is not the model")
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "make it readable for you, then try again".to_owned()
            }
            Self::NamesClash { second, .. } => format!("rename `{second}` or move it out of the checkpoint"),
            Self::NotRegular { .. } | Self::BadFileName { .. } => {
                "rename it or move it out of the checkpoint".to_owned()
            }
            Self::LinkLeavesRoot { .. } => "put a copy of the file in the link's place".to_owned(),
            Self::TooManyFiles { .. } | Self::TooDeep { .. } => {
                "give the folder that holds the weights, not one above it".to_owned()
            }
            Self::NotAsAwaited { .. } => "run the same command again".to_owned(),
            Self::FileChanged { .. } | Self::ReadPastEnd { .. } => {
                "wait until nothing writes to the checkpoint, then start again".to_owned()
            }
            Self::Header(inner) => return inner.fault.help(),
            Self::Torch(inner) => return inner.fault.help(),
            Self::Index(inner) => return inner.fault.help(),
            Self::TensorNotInShard { .. } | Self::TensorNotInIndex { .. } => {
                "fetch that shard and the index again: they are not of one version".to_owned()
            }
            Self::TensorInTwoShards { .. } => {
                "remove the shard that is not of this model, or fetch the model again".to_owned()
            }
            Self::TextTooLarge { .. } | Self::TextNotUtf8 { .. } => "fetch that file again".to_owned(),
            Self::Io { source, .. } => return super::io::help_for(source),
            Self::NotASideFile { .. } | Self::NotHere { .. } => return None,
        })
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| shown_bare(&name.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_stay_small_enough_to_return_by_value() {
        assert!(size_of::<CheckpointError>() <= 128, "{}", size_of::<CheckpointError>());
    }
}
