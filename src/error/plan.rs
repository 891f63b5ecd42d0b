//! Errors of planning a conversion.

use super::explain::what;
use super::{Explain, Explanation};
use crate::size::counted;

/// The checkpoint cannot be converted as asked.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.explain().what)]
#[non_exhaustive]
pub enum PlanError {
    /// `nearest`: the name of a tensor or module that is most like the pattern.
    IgnoreMatchesNothing { pattern: String, nearest: Option<String> },
    /// `ignored`: a module that stays float by the pattern; `rest`: those that clients hold with it as one.
    SplitGroup { pattern: String, ignored: String, rest: Vec<String> },
    /// A pattern is not a regular expression.
    BadPattern { pattern: String, source: Box<regex::Error> },
    /// The checkpoint holds no tensor.
    NoTensors,
    /// `reasons`: why tensors stay float, and how many for each, the most frequent first.
    NothingToQuantize { tensors: usize, reasons: Vec<(String, usize)> },
    /// Nothing could load the bundle. `what`: the part of the checkpoint; `why`: what a client does with it.
    NoClient { what: &'static str, scheme: &'static str, why: &'static str },
    /// The family's pinned stack does not read the layout.
    LayoutForFamily { family: String },
    /// The scheme and the layout contradict each other.
    SchemeInLayout { scheme: &'static str },
    /// Two tensors would have one name.
    NameClash { name: String },
    /// `needed`: the smallest memory budget that serves, in bytes.
    Budget { needed: u64, budget: u64 },
    /// A size overflowed: no real checkpoint is that large.
    TooLarge { name: String },
}

impl Explain for PlanError {
    fn explain(&self) -> Explanation {
        match self {
            Self::IgnoreMatchesNothing { pattern, nearest } => what(format!(
                "the pattern `{pattern}` matches no tensor and no module"
            ))
            .place("‹ignore›")
            .why(
                "a pattern is the whole name of a tensor or module, or re: and a regular expression that \
                         matches from its start",
            )
            .help(match nearest {
                Some(name) => format!("did you mean `{name}`? ‹inspect()› lists the names"),
                None => "‹inspect()› lists the names of a checkpoint".to_owned(),
            }),
            Self::SplitGroup { pattern, ignored, rest } => {
                what(format!("the pattern `{pattern}` leaves `{ignored}` float, and not {}", listed(rest)))
                    .place("‹ignore›")
                    .why("vLLM holds these as one linear, which has one scheme")
                    .help("ignore all of them, or none")
            }
            Self::BadPattern { pattern, source } => {
                // The parser draws the pattern with a mark below it; its last line says what is wrong.
                let drawn = source.to_string();
                what(format!("the pattern `{pattern}` is not a regular expression"))
                    .place("‹ignore›")
                    .why(drawn.lines().last().unwrap_or_default().trim_start_matches("error: "))
            }
            Self::NoTensors => {
                what("the checkpoint holds no tensor").help("‹inspect()› shows what a checkpoint holds")
            }
            Self::NothingToQuantize { tensors, reasons } => {
                let reasons: Vec<_> = reasons.iter().map(|(why, count)| format!("{count} × {why}")).collect();
                what("no tensor of the checkpoint is a linear to quantize")
                    .why(format!(
                        "a linear is a two-dimensional float `.weight` in a decoder layer; of {}: {}",
                        counted(tensors, "tensor"),
                        reasons.join(", ")
                    ))
                    .help("‹scheme=\"bf16\"› and ‹scheme=\"fp16\"› cast everything")
            }
            Self::NoClient { what: part, scheme, why } => {
                what(format!("no client loads {part} with scheme {scheme}"))
                    .why(why)
                    .help("give ‹scheme=\"bf16\"›, or ‹scheme=\"W8A8\"› for vLLM")
                    .refused()
            }
            Self::LayoutForFamily { family } => {
                what(format!("family {family} cannot load the compressed-tensors layout"))
                    .why("its pinned transformers reads bitsandbytes, GPTQ and AWQ, not compressed-tensors")
                    .help("give ‹scheme=\"int8\"› without ‹format›, which is bitsandbytes' there")
            }
            Self::SchemeInLayout { scheme } => {
                what(format!("scheme {scheme} is not of the layout that was asked for"))
                    .place("‹format›")
                    .help("leave out ‹format›: the scheme decides it")
            }
            Self::NameClash { name } => what(format!("two tensors would be written as `{name}`")),
            Self::Budget { needed, budget } => {
                let needs = counted(needed, "byte");
                what(format!("the conversion needs {needs} of memory, more than the budget of {budget}"))
                    .why("one batch per thread, the widest row and the scales of a tensor must fit at once")
                    .help(format!(
                        "give ‹max_memory=\"{}MiB\"›, or fewer ‹threads›",
                        needed.div_ceil(1 << 20)
                    ))
            }
            Self::TooLarge { name } => what(format!("tensor `{name}` is too large to be written")),
        }
    }
}

/// Names as a text lists them, the first few.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > SHOWN { ", …" } else { "" };
    format!("{}{more}", shown.join(" and "))
}
