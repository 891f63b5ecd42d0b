//! Errors of planning a conversion.

use std::path::PathBuf;

use super::Explain;
use crate::size::counted;

/// The recipe and the checkpoint do not go together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// An ignore pattern names nothing in the checkpoint.
    #[error("the pattern `{pattern}` matches no tensor and no module")]
    IgnoreMatchesNothing {
        /// The pattern as given.
        pattern: String,
        /// The name that comes closest, if any does.
        nearest: Option<String>,
    },
    /// An ignore pattern is no regular expression.
    #[error("the pattern `{pattern}` is not a regular expression")]
    BadPattern {
        /// The pattern as given.
        pattern: String,
        /// What the parser says of it.
        #[source]
        cause: Box<regex::Error>,
    },
    /// The checkpoint holds no tensor.
    #[error("the checkpoint holds no tensor")]
    NoTensors,
    /// Nothing would be quantized.
    #[error("no tensor of the checkpoint is a linear to quantize")]
    NothingToQuantize {
        /// Tensors looked at.
        tensors: usize,
        /// Why they stay float, with how many tensors, the most frequent first.
        reasons: Vec<(String, usize)>,
    },
    /// The checkpoint says that it is quantized already.
    #[error("the checkpoint is already quantized (`{method}`)")]
    AlreadyQuantized {
        /// `quantization_config.quant_method` of its config.json.
        method: String,
    },
    /// A weight is codes, by its type and what is beside it.
    #[error("the checkpoint is already quantized: `{tensor}` holds codes of {form}")]
    Codes {
        /// The kind of codes.
        form: &'static str,
        /// The first such tensor.
        tensor: String,
        /// What is beside it: its scales, or how it is coded.
        beside: String,
    },
    /// The checkpoint is a bundle.
    #[error("this is a bundle, not a checkpoint")]
    IsBundle {
        /// The folder.
        path: PathBuf,
    },
    /// Nothing could load the bundle.
    #[error("no client loads {what} with scheme {scheme}")]
    NoClient {
        /// What of the checkpoint.
        what: &'static str,
        /// The scheme.
        scheme: &'static str,
        /// What a client does with it.
        why: &'static str,
    },
    /// The layout is not one that the family's pinned stack reads.
    #[error("family {family} cannot load the compressed-tensors layout")]
    LayoutForFamily {
        /// The family's name.
        family: String,
    },
    /// The scheme and the layout contradict each other.
    #[error("scheme {scheme} is not of the layout that was asked for")]
    SchemeInLayout {
        /// The scheme.
        scheme: &'static str,
    },
    /// A tensor that the plan would write has the name of another.
    #[error("two tensors would be written as `{name}`")]
    NameClash {
        /// The name.
        name: String,
    },
    /// The conversion cannot run within the memory budget.
    #[error("the conversion needs {} of memory, more than the budget of {budget}", counted(needed, "byte"))]
    Budget {
        /// Smallest budget that serves, in bytes.
        needed: u64,
        /// The budget given, in bytes.
        budget: u64,
    },
    /// A size overflowed: no real checkpoint is that large.
    #[error("tensor `{name}` is too large to be written")]
    TooLarge {
        /// The tensor.
        name: String,
    },
}

impl Explain for PlanError {
    fn place(&self) -> Option<String> {
        match self {
            PlanError::IgnoreMatchesNothing { .. } | PlanError::BadPattern { .. } => Some("‹ignore›".into()),
            PlanError::SchemeInLayout { .. } => Some("‹format›".into()),
            PlanError::IsBundle { path } => Some(path.display().to_string()),
            _ => None,
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            PlanError::IgnoreMatchesNothing { .. } => {
                Some("a pattern is the whole name of a tensor or module, or re: and a regular expression that matches from its start".into())
            }
            // The parser draws the pattern with a mark below it; its last line says what is wrong.
            PlanError::BadPattern { cause, .. } => {
                let said = cause.to_string();
                said.lines().last().map(|line| line.trim_start_matches("error: ").to_owned())
            }
            PlanError::NothingToQuantize { tensors, reasons } => {
                let reasons: Vec<_> = reasons.iter().map(|(why, count)| format!("{count} × {why}")).collect();
                Some(format!(
                    "a linear is a two-dimensional float `.weight` in a decoder layer; of {}: {}",
                    counted(tensors, "tensor"),
                    reasons.join(", ")
                ))
            }
            PlanError::AlreadyQuantized { .. } => {
                Some("its config.json has a quantization_config; mgpack reads floats, and codes quantized again would only lose precision".into())
            }
            PlanError::Codes { beside, .. } => Some(format!(
                "`{beside}` is beside it; mgpack reads floats, and codes that were cast would mean nothing"
            )),
            PlanError::IsBundle { .. } => {
                Some("its mgpack.json begins as a bundle's manifest does: its weights are converted already".into())
            }
            PlanError::NoClient { why, .. } => Some((*why).into()),
            PlanError::LayoutForFamily { .. } => {
                Some("its pinned transformers knows bitsandbytes, GPTQ and AWQ, not compressed-tensors".into())
            }
            PlanError::Budget { .. } => {
                Some("one batch per thread, the widest row and the scales of a tensor must fit at once".into())
            }
            _ => None,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            PlanError::IgnoreMatchesNothing { nearest, .. } => Some(match nearest {
                Some(name) => format!("did you mean `{name}`? ‹inspect()› lists the names"),
                None => "‹inspect()› lists the names of a checkpoint".into(),
            }),
            PlanError::NothingToQuantize { .. } => {
                Some("‹scheme=\"bf16\"› and ‹scheme=\"fp16\"› cast everything".into())
            }
            PlanError::AlreadyQuantized { .. } | PlanError::Codes { .. } | PlanError::IsBundle { .. } => {
                Some("convert from the original bf16 or fp16 checkpoint".into())
            }
            PlanError::NoClient { .. } => {
                Some("give ‹scheme=\"bf16\"›, or ‹scheme=\"W8A8\"› for vLLM".into())
            }
            PlanError::SchemeInLayout { .. } => Some("leave out ‹format›: the scheme decides it".into()),
            PlanError::LayoutForFamily { .. } => {
                Some("give ‹scheme=\"int8\"› without ‹format›, which is bitsandbytes' there".into())
            }
            PlanError::Budget { needed, .. } => {
                Some(format!("give ‹max_memory=\"{}MiB\"›, or fewer ‹threads›", needed.div_ceil(1 << 20)))
            }
            PlanError::NoTensors => Some("‹inspect()› shows what a checkpoint holds".into()),
            _ => None,
        }
    }
}
