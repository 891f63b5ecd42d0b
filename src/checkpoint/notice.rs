//! What a person may want to know about a checkpoint: what was passed over, and what is odd but sound.

use std::fmt;

use crate::error::NodeKind;
use crate::size::{agreed, counted};
use crate::tensor::TensorName;

/// A file or folder that is no part of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Below the root, with `/`.
    pub path: String,
    /// Why it was passed over.
    pub reason: SkipReason,
}

/// Why a file or folder is no part of the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// The history of a git repository.
    GitFolder,
    /// What download tools keep beside the files.
    CacheFolder,
    /// A lock of some tool.
    LockFile,
    /// Another name that begins with a dot, of a file or a folder: none is part of a model.
    Hidden,
    /// What a program has not finished, by the ending of its name.
    Temporary,
    /// A file in a hub's snapshot that is not of the commit, by the listing that the cache keeps.
    Unlisted,
    /// A link to a folder: only links to files are followed.
    FolderLink,
    /// A pipe, socket or device.
    NotRegular(NodeKind),
    /// The same weights as torch files, beside the safetensors files that are read.
    TorchWeights,
    /// A file of weights in the root that the index does not list.
    UnlistedWeights,
    /// An adapter of the model, or its configuration, by which loaders would attach it.
    Adapter,
    /// The same weights under Mistral's or Meta's own names.
    Consolidated,
    /// The same weights in another type.
    Variant,
}

impl SkipReason {
    /// True for what is no file of the checkpoint at all: what programs keep or leave beside its files, by their names. A
    /// bundle does not list it, so the same checkpoint gives the same bundle wherever it was downloaded with.
    pub fn is_foreign(self) -> bool {
        match self {
            Self::GitFolder
            | Self::CacheFolder
            | Self::LockFile
            | Self::Hidden
            | Self::Temporary
            | Self::Unlisted => true,
            Self::FolderLink
            | Self::NotRegular(_)
            | Self::TorchWeights
            | Self::UnlistedWeights
            | Self::Adapter
            | Self::Consolidated
            | Self::Variant => false,
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GitFolder => f.write_str("the history of a git repository"),
            Self::CacheFolder => f.write_str("a download tool's own folder"),
            Self::LockFile => f.write_str("a lock"),
            Self::Hidden => f.write_str("hidden: no part of a model"),
            Self::Temporary => f.write_str("a file that a program has not finished"),
            Self::Unlisted => f.write_str("not of this commit"),
            Self::FolderLink => f.write_str("a link to a folder"),
            Self::NotRegular(kind) => kind.fmt(f),
            Self::TorchWeights => f.write_str("torch weights; the safetensors weights are read"),
            Self::UnlistedWeights => f.write_str("weights that the index does not list"),
            Self::Adapter => f.write_str("an adapter, which is not the model"),
            Self::Consolidated => f.write_str("the same weights under other names"),
            Self::Variant => f.write_str("a variant of the weights; the plain ones are read"),
        }
    }
}

/// Most names that a sentence lists.
const LISTED: usize = 20;

/// Something a person may want to know about a checkpoint that is sound nonetheless.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Notice {
    /// The index has no `metadata.total_size`.
    TotalSizeAbsent {
        /// Bytes of all tensors.
        actual: u64,
    },
    /// The index's `metadata.total_size` is wrong.
    TotalSizeDiffers {
        /// What it says; `None` where that is no number of bytes.
        listed: Option<u64>,
        /// Bytes of all tensors.
        actual: u64,
    },
    /// There are torch weights beside safetensors; they are not read.
    BothFormats {
        /// The torch files and their index, sorted.
        torch: Vec<String>,
    },
    /// A torch file holds more than its state dict.
    StateDict {
        /// The file.
        file: String,
        /// The keys that lead to the state dict, joined by dots; empty where the file's root is it.
        path: String,
        /// The first of the keys that are not read.
        left: Vec<String>,
    },
    /// The head is the embedding under another name; only the embedding is read.
    TiedHead {
        /// The head.
        head: TensorName,
        /// The embedding.
        embedding: TensorName,
    },
    /// Tensors that are one in the checkpoint and become several in the bundle.
    Shared {
        /// One of them.
        first: TensorName,
        /// Another name of it.
        second: TensorName,
        /// How many names have another before them.
        count: usize,
    },
    /// Several shards and no index: all of them were read.
    NoIndex {
        /// The shards, sorted.
        shards: Vec<String>,
    },
    /// Files of weights in the root that the index does not list; they are not read.
    UnlistedWeights {
        /// The files, sorted.
        files: Vec<String>,
    },
    /// Files of weights in the root that are not the model's; they are not read.
    Beside {
        /// What they are.
        reason: SkipReason,
        /// The files, sorted.
        files: Vec<String>,
    },
    /// The names of all tensors begin with what a wrapper of the model put before them; it is stripped.
    Wrapped {
        /// What is stripped, with its dot.
        prefix: String,
    },
    /// Weights are decoded from codes.
    Decoded {
        /// How many of each coding, by its name.
        counts: Vec<(&'static str, usize)>,
        /// Other tensors of two dimensions or more.
        rest: usize,
    },
    /// There are codes that are not read; the tensors are as they are stored.
    NotDecoded {
        /// Why.
        why: String,
    },
    /// The configuration says that plain weights are quantized.
    StaleSettings {
        /// The key, or the file.
        place: String,
        /// The method that it names.
        method: Option<String>,
    },
    /// Scales and the like beside weights that are floats.
    LeftScales {
        /// The first of them.
        first: TensorName,
        /// How many there are.
        count: usize,
    },
    /// Tensor names that look like paths. They are never used as paths.
    PathLikeNames {
        /// The first of them.
        first: TensorName,
        /// How many there are.
        count: usize,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TotalSizeAbsent { actual } => {
                write!(f, "the index has no total size; the tensors have {}", counted(actual, "byte"))
            }
            Self::TotalSizeDiffers { listed: Some(listed), actual } => {
                write!(
                    f,
                    "the index has a total size of {}; the tensors have {actual}",
                    counted(listed, "byte")
                )
            }
            Self::TotalSizeDiffers { listed: None, actual } => {
                write!(f, "the index's total size is not a number of bytes; the tensors have {actual}")
            }
            Self::BothFormats { torch } => write!(
                f,
                "the checkpoint has both safetensors and torch weights; the safetensors are read, {} not",
                list(torch)
            ),
            Self::StateDict { file, path, left } => {
                match path.as_str() {
                    "" => write!(f, "`{file}`: the state dict is the file's root")?,
                    path => write!(f, "`{file}`: the state dict is `{path}`")?,
                }
                if left.is_empty() { Ok(()) } else { write!(f, "; not read: {}", list(left)) }
            }
            Self::TiedHead { head, embedding } => write!(
                f,
                "`{head}` is `{embedding}` under another name and is left out, as transformers does with safetensors"
            ),
            Self::Shared { first, second, count } => write!(
                f,
                "`{second}` shares its values with `{first}`; the bundle holds them twice ({})",
                counted(count, "such name")
            ),
            Self::NoIndex { shards } => {
                write!(
                    f,
                    "the checkpoint has no index; {} read",
                    agreed(shards.len(), "shard is", "shards are")
                )
            }
            Self::UnlistedWeights { files } => {
                write!(f, "the index does not list {}; not read", list(files))
            }
            Self::Beside { reason, files } => write!(f, "not read: {} ({reason})", list(files)),
            Self::Wrapped { prefix } => {
                write!(
                    f,
                    "every tensor's name begins with `{prefix}`, which a wrapper put there; it is stripped"
                )
            }
            Self::Decoded { counts, rest } => {
                let kinds = counts.iter().map(|(name, count)| format!("{count} of {name}"));
                let kinds = kinds.collect::<Vec<_>>().join(", ");
                write!(
                    f,
                    "weights are decoded from codes: {kinds}; {} of more than one dimension stored as floats",
                    agreed(*rest, "tensor is", "tensors are")
                )
            }
            Self::NotDecoded { why } => f.write_str(why),
            Self::StaleSettings { place, method } => {
                let method =
                    method.as_deref().map(|it| format!(" (`{}`)", it.escape_debug())).unwrap_or_default();
                write!(
                    f,
                    "`{}`{method} says that the weights are quantized; they are plain, so it is left out",
                    place.escape_debug()
                )
            }
            Self::LeftScales { first, count } => write!(
                f,
                "{} left out that say how weights were quantized, the first is `{first}`",
                agreed(*count, "tensor is", "tensors are")
            ),
            Self::PathLikeNames { first, count } => {
                write!(f, "{count} tensor names look like paths, the first is `{first}`; they are only names")
            }
        }
    }
}

/// Names in quotes, the first of many. They come from the checkpoint: control characters are escaped.
fn list(names: &[String]) -> String {
    let shown = names.iter().take(LISTED).map(|name| format!("`{}`", name.escape_debug()));
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if let Some(more) = names.len().checked_sub(LISTED).filter(|more| *more > 0) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}
