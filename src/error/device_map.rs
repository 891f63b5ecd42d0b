//! Errors of planning a device map.

use std::fmt;

use serde::Serialize;

use super::explain::what;
use super::{Explain, Explanation};
use crate::device::{Device, MemoryTable};
use crate::size::{counted, gib};

/// A device map cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.explain().what)]
#[non_exhaustive]
pub enum DeviceMapError {
    /// No arrangement that the rules allow fits the devices.
    DoesNotFit(Box<DoesNotFit>),
    /// `text`: the part of the memory table that was not understood.
    BadMemoryTable { text: String, reason: &'static str },
    /// A model of GPU that is not in formats/gpus.json. `near`: names like it.
    UnknownGpu { name: String, near: Vec<String> },
    /// The memory table has none, and some modules need one.
    NoAccelerator,
    /// Accelerate's map follows from a memory table, and none was given.
    NoTable,
    /// Accelerate 0.25.0 itself raises an exception for this model and table.
    Accelerate { exception: Exception, message: String },
    /// A field of config.json has a value that no model can have.
    BadConfig { field: &'static str, value: String },
    /// `class`: `architectures[0]` of config.json.
    NoTree { class: String },
    /// Accelerate 0.25.0's stack does not read this scheme.
    SchemeForPlanner { scheme: &'static str },
    /// A model that is not a bundle was given without its scheme.
    NoScheme { model: String },
    /// Two modules of a request have one name.
    DuplicateModule { module: String },
}

/// By how much a model does not fit, and what would help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DoesNotFit {
    /// Bytes that are missing: the least that has to be added to one device.
    pub shortfall: u64,
    /// The device which that addition would go to.
    pub device: Device,
    /// Bytes that the model takes in all: weights, cache, working memory and reserves.
    pub need: u64,
    /// Per accelerator, what it has and how much more it alone would need.
    pub needs: Vec<DeviceNeed>,
    /// The memory table that was too small.
    pub memory: MemoryTable,
    /// Changes that were tried and make it fit, nearest first.
    pub remedies: Vec<Remedy>,
}

/// What one device would need for the model to fit, all other devices staying as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceNeed {
    /// The device.
    pub device: Device,
    /// Bytes the memory table gives it.
    pub budget: u64,
    /// Bytes it would have to have.
    pub needed: u64,
}

/// A change that was tried and makes the model fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// Keep nothing free per device.
    WithoutReserve,
    /// At most this many tokens of text.
    Context {
        /// The largest context that fits.
        tokens: u64,
    },
    /// The attention that keeps no scores: it needs torch 2.1.1 or later.
    Sdpa,
    /// Weights in int8.
    Int8,
    /// Further accelerators, as large as the last one.
    MoreGpus {
        /// How many.
        count: u32,
        /// Bytes of each.
        bytes: u64,
    },
    /// Host memory for decoder layers; proposed only where some was allowed already.
    AllowCpu {
        /// The least budget that fits.
        bytes: u64,
    },
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remedy::WithoutReserve => f.write_str("‹reserve=0›"),
            Remedy::Context { tokens } => write!(f, "‹context={tokens}›"),
            Remedy::Sdpa => f.write_str("‹attention=\"sdpa\"› (torch 2.1.1 or later)"),
            Remedy::Int8 => f.write_str("‹scheme=\"int8\"›"),
            Remedy::MoreGpus { count, bytes } => {
                write!(f, "{} of {}", counted(count, "more GPU"), gib(*bytes))
            }
            Remedy::AllowCpu { bytes } => write!(f, "‹allow_cpu={bytes}› ({})", gib(*bytes)),
        }
    }
}

/// An exception type of Python, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exception {
    /// A size or a device that accelerate does not know.
    ValueError,
    /// A tied parameter whose module was placed already.
    IndexError,
    /// A tensor that would have to be split.
    AttributeError,
    /// An infinite size.
    OverflowError,
}

/// What a memory table looks like.
const TABLES: &str = "write `2x24GiB`, `24GiB`, `2xRTX-4090`, or `0=22GiB,1=24GiB`";

impl Explain for DeviceMapError {
    fn explain(&self) -> Explanation {
        match self {
            Self::DoesNotFit(miss) => miss.explain(),
            Self::BadMemoryTable { text, reason } => {
                what(format!("`{text}` is not a memory table: {reason}")).place("‹gpus›").help(TABLES)
            }
            Self::UnknownGpu { name, near } => {
                let name = name.escape_debug();
                let near = if near.is_empty() { String::new() } else { format!("; like it: {}", near.join(", ")) };
                what(format!("`{name}` is not a known GPU model{near}"))
                    .place("‹gpus›")
                    .help("give its memory: `2x24GiB`")
            }
            Self::NoAccelerator => what("the memory table has no accelerator")
                .place("‹gpus›")
                .why("embeddings, projector, towers and lm_head run on an accelerator only")
                .help(TABLES)
                .refused(),
            Self::NoTable => what("the planner `accelerate-0.25-sequential` needs a memory table")
                .place("‹gpus›")
                .why("what it places where depends on the size of each device")
                .help("add the devices: ‹gpus=\"2x24GiB\"›"),
            Self::Accelerate { exception, message } => {
                what(format!("accelerate 0.25.0 raises {exception:?}: {message}"))
                    .place("infer_auto_device_map")
                    .why(match exception {
                        Exception::ValueError => "the memory table has a size or a device it does not know",
                        Exception::OverflowError => "the memory table has an infinite size",
                        Exception::IndexError => "the module of a shared parameter was placed before its partner",
                        Exception::AttributeError => "a bare tensor does not fit, and it tries to split it",
                    })
                    .help("use the planner `mgm`")
            }
            Self::BadConfig { field, value } => {
                what(format!("cannot build the model's tree: `{field}` is `{value}`"))
                    .place("config.json")
                    .why("it is not a known word, or beyond any real model")
            }
            Self::NoTree { class } => what(format!("no module tree is known for the class `{class}`"))
                .place("config.json")
                .why("there are trees for Llama, Mistral, Mixtral, Gemma, Qwen2 and Qwen3, and for MGM's classes")
                .help("give a folder with the weights: their headers have the sizes"),
            Self::SchemeForPlanner { scheme } => {
                what(format!("the planner `accelerate-0.25-sequential` does not support scheme {scheme}"))
                    .place("‹planner›")
                    .why("transformers 4.36.2, whose loading it imitates, reads bitsandbytes and plain floats")
                    .help("use the planner `mgm`")
            }
            Self::NoScheme { model } => {
                what(format!("`{model}` is not a bundle: its sizes depend on how it will be stored"))
                    .help("add ‹scheme=\"int8\"›, ‹scheme=\"fp16\"› or ‹scheme=\"bf16\"›")
            }
            Self::DuplicateModule { module } => what(format!("module `{module}` is listed twice"))
                .why("each module gets one entry in a device map"),
        }
    }
}

impl DoesNotFit {
    fn explain(&self) -> Explanation {
        let total: u128 = self.needs.iter().map(|need| u128::from(need.budget)).sum();
        let total = gib(u64::try_from(total).unwrap_or(u64::MAX));
        let needs = self.needs.iter().map(|DeviceNeed { device, budget, needed }| {
            format!("{device} has {}, alone would need {}", gib(*budget), gib(*needed))
        });
        let needs: Vec<String> = needs.collect();
        let remedies: Vec<String> = self.remedies.iter().map(Remedy::to_string).collect();
        what(format!(
            "the model does not fit: {} ({}) are missing on {}",
            gib(self.shortfall),
            counted(self.shortfall, "byte"),
            self.device
        ))
        .place(format!("memory table {}", self.memory))
        .why(format!("it takes {} of {total} in all; {}", gib(self.need), needs.join("; ")))
        .help(match remedies.as_slice() {
            [] => "give larger or more devices, or let layers go to the host with ‹allow_cpu›".to_owned(),
            each => format!("it fits with {}", each.join(", or with ")),
        })
        .refused()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_where_why_and_what_to_do() {
        let error = MemoryTable::parse("2x24Gi").unwrap_err().explain();
        assert_eq!(
            error.what,
            "`2x24Gi` is not a memory table: a size is a positive number with a unit, such as 24GiB"
        );
        assert_eq!(error.place.unwrap(), "‹gpus›");
        assert_eq!(error.help.unwrap(), "write `2x24GiB`, `24GiB`, `2xRTX-4090`, or `0=22GiB,1=24GiB`");

        let message = "list index out of range".to_owned();
        let error = DeviceMapError::Accelerate { exception: Exception::IndexError, message }.explain();
        assert_eq!(error.what, "accelerate 0.25.0 raises IndexError: list index out of range");
        assert_eq!(error.why.unwrap(), "the module of a shared parameter was placed before its partner");
        assert_eq!(error.help.unwrap(), "use the planner `mgm`");
    }
}
