//! Faults inside an index of shards. Which file it is tells [`super::CheckpointError`].

use std::fmt;

use super::shown::{name_rule, shown};
use super::{Explain, OverLimit};

/// What is wrong in one `model.safetensors.index.json`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexFault {
    /// It lists too much.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The index is not UTF-8.
    #[error("the index is not UTF-8 text")]
    NotUtf8 {
        /// Where the first bad byte is.
        source: std::str::Utf8Error,
    },
    /// The index is not JSON.
    #[error("the index is not sound JSON")]
    Json {
        /// The parser's own words.
        source: serde_json::Error,
    },
    /// A value is of the wrong JSON type.
    #[error("the index holds a value of the wrong type")]
    WrongType {
        /// The parser's own words.
        source: serde_json::Error,
    },
    /// An object has one key twice.
    #[error("the index has the key {} twice", shown(key))]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// There is no `weight_map`.
    #[error("the index has no `weight_map`")]
    NoWeightMap,
    /// The `weight_map` is empty.
    #[error("the index lists no tensors")]
    Empty,
    /// A tensor name that is empty, too long, or holds a control character.
    #[error("the index lists a tensor with an unusable name: {}", shown(name))]
    BadTensorName {
        /// The name.
        name: String,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// A shard name that is not a plain path below the checkpoint.
    #[error("the index gives tensor `{tensor}` a shard name that is not acceptable: {}", shown(shard))]
    BadShardName {
        /// The tensor.
        tensor: String,
        /// The shard name.
        shard: String,
        /// The rule it breaks.
        rule: ShardNameRule,
    },
}

/// The rules for shard names. They are read as Windows paths on every system, so that an index that is
/// safe here is safe everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShardNameRule {
    /// Must not be empty.
    Empty,
    /// Must not begin with a separator.
    Rooted,
    /// Must not name a drive or a stream (`:`).
    Drive,
    /// Must not have a part `..`.
    ParentFolder,
    /// Must not hold a backslash.
    Backslash,
    /// Must not have an empty part or a part `.`.
    OddPart,
    /// Must not have a part longer than 255 bytes.
    TooLong,
    /// Must not hold a control character.
    ControlCharacter,
    /// Must end in `.safetensors`.
    Extension,
    /// Must end in `.bin`, in an index of torch files.
    BinExtension,
}

impl fmt::Display for ShardNameRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "a shard name must not be empty",
            Self::Rooted => "a shard name must not begin with a separator",
            Self::Drive => "a shard name must not hold a colon (a drive or a stream)",
            Self::ParentFolder => "a shard name must not lead through a parent folder (`..`)",
            Self::Backslash => "a shard name must use `/`, never a backslash",
            Self::OddPart => "a shard name must not have an empty part or a part `.`",
            Self::TooLong => "a shard name must not have a part longer than 255 bytes",
            Self::ControlCharacter => "a shard name must not hold a control character",
            Self::Extension => "a shard name must end in `.safetensors`",
            Self::BinExtension => "in an index of torch files a shard name must end in `.bin`",
        })
    }
}

impl Explain for IndexFault {
    fn why(&self) -> Option<String> {
        Some(match self {
            Self::OverLimit(over) => return over.why(),
            Self::NotUtf8 { source } => source.to_string(),
            Self::Json { source } | Self::WrongType { source } => source.to_string(),
            Self::DuplicateKey { .. } => "readers disagree on which of the two counts".to_owned(),
            Self::NoWeightMap | Self::Empty => "its `weight_map` says which shard holds a tensor".to_owned(),
            Self::BadTensorName { limit, .. } => name_rule(*limit),
            Self::BadShardName { rule, .. } => rule.to_string(),
        })
    }

    fn help(&self) -> Option<String> {
        Some(
            "fetch the index again, or move it elsewhere: without one, all shards in the folder are read"
                .to_owned(),
        )
    }
}
