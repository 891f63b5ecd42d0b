//! Errors of loading a bundle onto devices.

use super::Explain;
use crate::device::Device;
use crate::size::{counted, gib};
use crate::tensor::Dtype;

/// A bundle could not be brought onto its devices.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A stage is larger than what its device has left.
    #[error("stage {stage} does not fit: it takes {} and {place} has {free} left", counted(needed, "byte"))]
    DoesNotFit {
        /// The stage.
        stage: String,
        /// The device, by its name here.
        place: String,
        /// Bytes the stage takes.
        needed: u64,
        /// Bytes left.
        free: u64,
    },
    /// The map names a device that was not given.
    #[error("the device map names {device}, and no such device was given")]
    NoDevice {
        /// The device.
        device: Device,
    },
    /// A module of the bundle is not in the map.
    #[error("module `{module}` has no device in the map")]
    NotInMap {
        /// The module.
        module: String,
    },
    /// A stage's name is none of the bundle.
    #[error("the bundle has no stage `{stage}`")]
    NoStage {
        /// The name as given.
        stage: String,
        /// The first and the last layer's names, and those of the others.
        known: Vec<String>,
    },
    /// The bundle has no profile of that number.
    #[error("the bundle has no profile {number}: it has {count}")]
    NoProfile {
        /// The number asked for, from 1.
        number: usize,
        /// How many there are.
        count: usize,
    },
    /// Candle has no type for a tensor's elements.
    #[error("tensor `{tensor}` is {dtype:?}, which candle has no type for")]
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: Dtype,
    },
    /// Candle or its device failed.
    #[error("tensor `{tensor}` could not be placed on its device")]
    Candle {
        /// The tensor.
        tensor: String,
        /// What candle says.
        why: String,
    },
}

impl Explain for LoadError {
    fn place(&self) -> Option<String> {
        match self {
            LoadError::DoesNotFit { place, .. } => Some(place.clone()),
            _ => None,
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            LoadError::DoesNotFit { needed, free, .. } => {
                Some(format!("{} are missing", gib(needed.saturating_sub(*free))))
            }
            LoadError::NoStage { known, .. } => Some(format!("its stages are {}", known.join(", "))),
            LoadError::NotInMap { .. } => Some("the map was made for another bundle".into()),
            LoadError::Candle { why, .. } => Some(why.clone()),
            _ => None,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            LoadError::DoesNotFit { .. } => Some(
                "‹map(\"BUNDLE\", gpus=\"auto\")› plans for what is free; ‹until› stops before this stage"
                    .into(),
            ),
            LoadError::NoDevice { .. } => Some("give a device for each that the map names".into()),
            LoadError::NoProfile { .. } => Some("‹map(\"BUNDLE\")› shows its profiles".into()),
            LoadError::Dtype { .. } => Some("read the tensor with `Bundle::read`".into()),
            _ => None,
        }
    }
}
