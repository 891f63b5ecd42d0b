//! Errors of planning a device map.

use std::fmt;

use serde::Serialize;

use super::Explain;
use crate::device::{Device, MemoryTable};
use crate::size::{counted, gib};

/// A device map was asked for that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceMapError {
    /// No arrangement that the rules allow fits the devices.
    #[error("{0}")]
    DoesNotFit(Box<DoesNotFit>),
    /// A memory table's text is not one.
    #[error("`{text}` is not a memory table: {reason}")]
    BadMemoryTable {
        /// The part of the table that was not understood.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A memory table names a model of GPU that is not in formats/gpus.json.
    #[error("no model of GPU is known here as `{}`{}", name.escape_debug(), like_it(near))]
    UnknownGpu {
        /// As given.
        name: String,
        /// Names that resemble it.
        near: Vec<String>,
    },
    /// The memory table names no accelerator, and some modules may stand nowhere else.
    #[error("the memory table names no accelerator")]
    NoAccelerator,
    /// Accelerate's map follows from a memory table, and none was given.
    #[error("the planner `accelerate-0.25-sequential` needs a memory table")]
    NoTable,
    /// Accelerate 0.25.0 itself raises an exception for this model and table.
    #[error("accelerate 0.25.0 raises {exception}: {message}")]
    Accelerate {
        /// The type of the exception.
        exception: Exception,
        /// Its text.
        message: String,
    },
    /// A model's config says something no tree can be built from.
    #[error("cannot build the model's tree: `{field}` is `{value}`")]
    BadConfig {
        /// The field of `config.json`.
        field: &'static str,
        /// What it says.
        value: String,
    },
    /// A model's class is none that a tree is known of.
    #[error("no tree is known for the class `{class}`")]
    NoTree {
        /// `architectures[0]` of its config.json.
        class: String,
    },
    /// Accelerate 0.25.0's stack does not read this scheme.
    #[error("the planner `accelerate-0.25-sequential` knows no scheme {scheme}")]
    SchemeForPlanner {
        /// The scheme.
        scheme: &'static str,
    },
    /// A model that is no bundle was given without the precision it would be stored in.
    #[error("`{model}` is no bundle: its sizes depend on how it will be stored")]
    NoPrecision {
        /// The model as given.
        model: String,
    },
    /// Two modules of a request have one name.
    #[error("module `{module}` is listed twice")]
    DuplicateModule {
        /// The name that occurs twice.
        module: String,
    },
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

impl fmt::Display for DoesNotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the model does not fit: {} ({}) are missing on {}",
            gib(self.shortfall),
            counted(self.shortfall, "byte"),
            self.device
        )
    }
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

/// An exception type of Python.
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

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Exception::ValueError => "ValueError",
            Exception::IndexError => "IndexError",
            Exception::AttributeError => "AttributeError",
            Exception::OverflowError => "OverflowError",
        })
    }
}

/// `; like it: A, B`, or nothing.
fn like_it(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; like it: {}", near.join(", ")) }
}

impl Explain for DeviceMapError {
    fn place(&self) -> Option<String> {
        match self {
            DeviceMapError::DoesNotFit(miss) => Some(format!("memory table {}", miss.memory)),
            DeviceMapError::BadMemoryTable { .. }
            | DeviceMapError::UnknownGpu { .. }
            | DeviceMapError::NoAccelerator
            | DeviceMapError::NoTable => Some("‹gpus›".to_owned()),
            DeviceMapError::Accelerate { .. } => Some("infer_auto_device_map".to_owned()),
            DeviceMapError::BadConfig { .. } | DeviceMapError::NoTree { .. } => {
                Some("config.json".to_owned())
            }
            DeviceMapError::SchemeForPlanner { .. } => Some("‹planner›".to_owned()),
            DeviceMapError::NoPrecision { .. } | DeviceMapError::DuplicateModule { .. } => None,
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            DeviceMapError::DoesNotFit(miss) => {
                let total: u128 = miss.needs.iter().map(|need| u128::from(need.budget)).sum();
                let each: Vec<String> = miss
                    .needs
                    .iter()
                    .map(|need| {
                        format!(
                            "{} has {}, alone would need {}",
                            need.device,
                            gib(need.budget),
                            gib(need.needed)
                        )
                    })
                    .collect();
                let total = gib(u64::try_from(total).unwrap_or(u64::MAX));
                Some(format!("it takes {} of {total} in all; {}", gib(miss.need), each.join("; ")))
            }
            DeviceMapError::BadMemoryTable { .. }
            | DeviceMapError::UnknownGpu { .. }
            | DeviceMapError::NoPrecision { .. } => None,
            DeviceMapError::NoTree { .. } => Some(
                "trees are known of Llama, Mistral, Mixtral, Gemma, Qwen2 and Qwen3, and of MGM's classes"
                    .to_owned(),
            ),
            DeviceMapError::NoTable => {
                Some("what it places where depends on the size of each device".to_owned())
            }
            DeviceMapError::SchemeForPlanner { .. } => Some(
                "transformers 4.36.2, whose loading it imitates, reads bitsandbytes and plain floats"
                    .to_owned(),
            ),
            DeviceMapError::BadConfig { .. } => {
                Some("it is no known word, or beyond any real model".to_owned())
            }
            DeviceMapError::Accelerate { exception, .. } => Some(
                match exception {
                    Exception::ValueError => "the memory table has a size or a device it does not know",
                    Exception::OverflowError => "the memory table has an infinite size",
                    Exception::IndexError => "the module of a shared parameter was placed before its partner",
                    Exception::AttributeError => "a bare tensor does not fit, and it tries to split it",
                }
                .to_owned(),
            ),
            DeviceMapError::NoAccelerator => {
                Some("embeddings, projector, towers and lm_head run on an accelerator only".to_owned())
            }
            DeviceMapError::DuplicateModule { .. } => {
                Some("each module gets one entry in a device map".to_owned())
            }
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            DeviceMapError::DoesNotFit(miss) if miss.remedies.is_empty() => {
                Some("give larger or more devices, or let layers go to the host with ‹allow_cpu›".to_owned())
            }
            DeviceMapError::DoesNotFit(miss) => {
                let each: Vec<String> = miss.remedies.iter().map(Remedy::to_string).collect();
                Some(format!("it fits with {}", each.join(", or with ")))
            }
            DeviceMapError::UnknownGpu { .. } => Some("give its memory: `2x24GiB`".to_owned()),
            DeviceMapError::BadMemoryTable { .. } | DeviceMapError::NoAccelerator => {
                Some("write `2x24GiB`, `24GiB`, `2xRTX-4090`, or `0=22GiB,1=24GiB`".to_owned())
            }
            DeviceMapError::NoTable => Some("add the devices: ‹gpus=\"2x24GiB\"›".to_owned()),
            DeviceMapError::Accelerate { .. } | DeviceMapError::SchemeForPlanner { .. } => {
                Some("use the planner `mgm`".to_owned())
            }
            DeviceMapError::NoTree { .. } => {
                Some("give a folder with the weights: their headers tell the sizes".to_owned())
            }
            DeviceMapError::NoPrecision { .. } => {
                Some("add ‹scheme=\"int8\"›, ‹scheme=\"fp16\"› or ‹scheme=\"bf16\"›".to_owned())
            }
            DeviceMapError::BadConfig { .. } | DeviceMapError::DuplicateModule { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_tells_where_why_and_what_to_do() {
        let error = MemoryTable::parse("2x24Gi").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`2x24Gi` is not a memory table: a size is a positive number with a unit, such as 24GiB"
        );
        assert_eq!(error.place().unwrap(), "‹gpus›");
        assert_eq!(error.help().unwrap(), "write `2x24GiB`, `24GiB`, `2xRTX-4090`, or `0=22GiB,1=24GiB`");

        let message = "list index out of range".to_owned();
        let error = DeviceMapError::Accelerate { exception: Exception::IndexError, message };
        assert_eq!(error.to_string(), "accelerate 0.25.0 raises IndexError: list index out of range");
        assert_eq!(error.why().unwrap(), "the module of a shared parameter was placed before its partner");
        assert_eq!(error.help().unwrap(), "use the planner `mgm`");
    }
}
