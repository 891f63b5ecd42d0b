//! Errors of loading a bundle onto devices.

use super::explain::what;
use super::{Explain, Explanation};
use crate::device::Device;
use crate::size::{counted, gib};
use crate::tensor::Dtype;

/// A bundle could not be loaded onto its devices.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.explain().what)]
#[non_exhaustive]
pub enum LoadError {
    /// A stage needs more bytes than its device, `place`, has free.
    DoesNotFit { stage: String, place: String, needed: u64, free: u64 },
    /// The map names a device that was not given.
    NoDevice { device: Device },
    /// The map has no device for a module.
    NotInMap { module: String },
    /// `known`: the stages that are not layers, and the first and the last layer.
    NoStage { stage: String, known: Vec<String> },
    /// `number`: from 1.
    NoProfile { number: usize, count: usize },
    /// Candle has no type for a tensor's elements.
    Dtype { tensor: String, dtype: Dtype },
    /// Candle or its device failed.
    Candle { tensor: String, why: String },
}

impl Explain for LoadError {
    fn explain(&self) -> Explanation {
        match self {
            Self::DoesNotFit { stage, place, needed, free } => {
                let needs = counted(needed, "byte");
                what(format!("stage {stage} does not fit: it takes {needs} and {place} has {free} left"))
                    .place(place)
                    .why(format!("{} are missing", gib(needed.saturating_sub(*free))))
                    .help("‹map(\"BUNDLE\", gpus=\"auto\")› plans for what is free; ‹until› stops before this stage")
                    .refused()
            }
            Self::NoDevice { device } => {
                what(format!("the device map names {device}, and no such device was given"))
                    .help("give a device for each that the map names")
            }
            Self::NotInMap { module } => what(format!("module `{module}` is not in the device map"))
                .why("the map was made for another bundle"),
            Self::NoStage { stage, known } => what(format!("the bundle has no stage `{stage}`"))
                .why(format!("its stages are {}", known.join(", "))),
            Self::NoProfile { number, count } => {
                what(format!("the bundle has no profile {number}: it has {count}"))
                    .help("‹map(\"BUNDLE\")› shows its profiles")
            }
            Self::Dtype { tensor, dtype } => {
                what(format!("tensor `{tensor}` is {dtype:?}, which candle has no type for"))
                    .help("read the tensor with `Bundle::read`")
            }
            Self::Candle { tensor, why } => {
                what(format!("tensor `{tensor}` could not be placed on its device")).why(why)
            }
        }
    }
}
