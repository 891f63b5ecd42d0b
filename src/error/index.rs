//! Faults inside an index of shards. Which file it is, is in [`super::CheckpointError`].

use std::fmt;

use super::explain::{name_rule, shown, what};
use super::{Explain, Explanation, OverLimit};

/// What is wrong in one `model.safetensors.index.json`.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.explain().what)]
#[non_exhaustive]
pub enum IndexFault {
    OverLimit(OverLimit),
    NotUtf8 { source: std::str::Utf8Error },
    Json { source: serde_json::Error },
    WrongType { source: serde_json::Error },
    DuplicateKey { key: String },
    NoWeightMap,
    Empty,
    BadTensorName { name: String, limit: usize },
    BadShardName { tensor: String, shard: String, rule: ShardNameRule },
}

impl Explain for IndexFault {
    fn explain(&self) -> Explanation {
        let fault = match self {
            Self::OverLimit(over) => return over.explain(),
            Self::NotUtf8 { source } => what("the index is not UTF-8 text").why(source),
            Self::Json { source } => what("the index is not valid JSON").why(source),
            Self::WrongType { source } => what("the index holds a value of the wrong type").why(source),
            Self::DuplicateKey { key } => what(format!("the index has the key {} twice", shown(key)))
                .why("readers disagree on which of the two counts"),
            Self::NoWeightMap => what("the index has no `weight_map`").why(WEIGHT_MAP),
            Self::Empty => what("the index lists no tensors").why(WEIGHT_MAP),
            Self::BadTensorName { name, limit } => {
                what(format!("the index lists a tensor with an unusable name: {}", shown(name)))
                    .why(name_rule(*limit))
            }
            Self::BadShardName { tensor, shard, rule } => {
                let shard = shown(shard);
                what(format!(
                    "the index gives tensor `{tensor}` a shard name that is not acceptable: {shard}"
                ))
                .why(rule)
            }
        };
        fault.help(
            "download the index again, or move it elsewhere: without one, all shards in the folder are read",
        )
    }
}

const WEIGHT_MAP: &str = "its `weight_map` says which shard holds a tensor";

/// The rules for shard names. They are read as Windows paths on every system, so that an index that is
/// safe here is safe everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShardNameRule {
    Empty,
    Rooted,
    Drive,
    ParentFolder,
    Backslash,
    /// No part is empty or `.`.
    OddPart,
    TooLong,
    ControlCharacter,
    Extension,
    /// The extension in an index of torch files.
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
