//! Errors of weights that are stored as codes.

use super::explain::what;
use super::{Explain, Explanation};
use crate::size::counted;
use crate::tensor::Dtype;

/// Codes that are not read, or do not go with what lies beside them.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}", self.explain().what)]
#[non_exhaustive]
pub enum CodesError {
    /// Codes of a form that is known and not read. `beside`: its scales, or how it is coded; `way_out`: what to do instead.
    Unread { tensor: String, form: &'static str, beside: String, way_out: &'static str },
    /// Codes of no form that is known.
    Unknown { tensor: String, dtype: Dtype },
    /// `codes`: what the tensor holds.
    MissingPart { tensor: String, codes: &'static str, part: String },
    /// Scales or zero points of another shape. `expected`: what would go with the codes.
    PartShape { tensor: String, part: String, shape: Vec<u64>, expected: String },
    /// Scales or zero points of another type.
    PartType { tensor: String, part: String, dtype: Dtype },
    /// A row does not divide into its groups. `groups`: scales of a row; `len`: the length that the configuration has.
    GroupLength { tensor: String, part: String, groups: u64, len: Option<u64>, columns: u64 },
    /// A `weight_shape` that contradicts the codes. `told`: the weight's shape; `found`: that of the words.
    OtherShape { tensor: String, told: Vec<u64>, found: Vec<u64> },
    /// Nothing says how many bits a code has, or how many columns a row.
    NoWidth { tensor: String },
    /// A scale that is not finite. `number`: counted row by row from 0.
    BadScale { tensor: String, number: u64, value: f32 },
    /// A weight is there as codes and as floats, or as codes in two ways.
    TwoOfOne { tensor: String },
}

/// What to convert in place of codes that are not read.
const ORIGINAL: &str = "convert from the original bf16 or fp16 checkpoint";

/// What to do about codes that are not sound.
const AGAIN: &str =
    "download the checkpoint again; if the error stays, the program that wrote it is at fault";

impl Explain for CodesError {
    fn explain(&self) -> Explanation {
        match self {
            Self::Unread { tensor, form, beside, way_out } => {
                what(format!("`{tensor}` holds codes of {form}, which mgpack does not read"))
                    .why(format!("`{beside}` is beside it; codes that were copied would mean nothing to a loader"))
                    .help(way_out)
                    .refused()
            }
            Self::Unknown { tensor, dtype } => {
                what(format!("`{tensor}` holds {dtype:?}, and nothing beside it says what the codes stand for"))
                    .why("a weight is a float, or codes with scales beside them under a name that mgpack knows")
                    .help(ORIGINAL)
                    .refused()
            }
            Self::MissingPart { tensor, codes, part } => {
                what(format!("`{tensor}` holds {codes}, and there is no `{part}`"))
                    .why("codes mean nothing without it")
                    .help(AGAIN)
            }
            Self::PartShape { tensor, part, shape, expected } => {
                what(format!("`{part}` has the shape {shape:?}, which does not go with `{tensor}`"))
                    .why(format!("expected {expected}"))
                    .help(AGAIN)
            }
            Self::PartType { tensor, part, dtype } => {
                what(format!("`{part}` is of type {dtype:?}, which does not go with `{tensor}`"))
                    .why(
                        "scales are F64, F32, F16, BF16 or powers of two (F8_E8M0, U8), zero points I8 or packed in I32",
                    )
                    .help(AGAIN)
            }
            Self::GroupLength { tensor, part, groups, len, columns } => {
                let columns = counted(columns, "column");
                let groups = counted(groups, "equal group");
                what(format!("`{tensor}` has {columns}, which do not divide into {groups}"))
                    .why(match len {
                        Some(len) => format!("`{part}` has the scales; config.json has groups of {len}"),
                        None => format!("`{part}` has the scales"),
                    })
                    .help(AGAIN)
            }
            Self::OtherShape { tensor, told, found } => what(format!(
                "`{tensor}` is of a weight of {told:?}, by what is beside it, and has the shape {found:?}"
            ))
            .why("a word holds as many codes as fit into 32 bits")
            .help(AGAIN),
            Self::NoWidth { tensor } => what(format!("nothing says how many bits the codes of `{tensor}` have"))
                .why("config.json has no num_bits, and there is no weight_shape that can be read now")
                .help(ORIGINAL)
                .refused(),
            Self::BadScale { tensor, number, value } => what(format!("scale {number} of `{tensor}` is {value}"))
                .why("every value that it scales would be NaN or infinite")
                .help(AGAIN),
            Self::TwoOfOne { tensor } => what(format!("`{tensor}` is there twice, as codes and as values"))
                .why("two files of one checkpoint hold it, or two checkpoints are mixed")
                .help(AGAIN),
        }
    }
}
