//! mgpack converts MiniGemini and other Hugging Face checkpoints into sealed, self-contained bundles.
//!
//! A conversion in one line: [`locate`] finds a [`checkpoint`] and its towers, [`subject`] is what is known
//! of the model, [`plan`] decides every tensor's fate and offset, [`device_map`] places the modules, and
//! [`convert`] reads, transforms, hashes and writes. The [`manifest`] seals the result, and [`bundle`] checks
//! every byte against it.
//!
//! Imports point down only: `cli` → [`verbs`] → tasks (`convert`, `map`, `bundle`, `load`, `report`, `release`,
//! `doctor`, `hub`) → steps (`locate`, `plan`, `modules`, `device_map`, `devices`, `drawing`, `shard`, `manifest`, `archive`,
//! `environment`) → parts (`checkpoint`, `family`, `scheme`, `kernels`, `tiny`, `torch_zip`, `python`,
//! `subject`) → `error` → words (`tensor`, `structure`, `config`, `digest`, `device`, `disk`, `json_text`,
//! `legible`, `size`, `progress`, `program`, `mention`, `names`, `regular`, `beneath`).

// The command is written as any program that uses this library: `mgpack::convert`, not `crate::convert`.
#[cfg(feature = "cli")]
extern crate self as mgpack;

mod archive;
mod beneath;
pub mod bundle;
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
mod config;
pub mod convert;
pub mod device;
pub mod device_map;
pub mod devices;
pub mod digest;
pub mod disk;
pub mod doctor;
pub mod drawing;
pub mod environment;
pub mod error;
pub mod family;
pub mod gpu_models;
#[cfg(feature = "hub")]
pub mod hub;
pub mod json_text;
pub mod kernels;
pub mod legible;
#[cfg(feature = "load")]
pub mod load;
pub mod locate;
pub mod manifest;
pub mod map;
pub mod mention;
pub mod modules;
pub mod names;
pub mod output;
pub mod plan;
mod program;
pub mod progress;
pub mod python;
pub mod regular;
pub mod release;
pub mod report;
pub mod scheme;
pub mod shard;
pub mod size;
pub mod structure;
pub mod subject;
pub mod tensor;
pub mod threads;
pub mod tiny;
mod torch_zip;
pub mod verbs;

pub use bundle::Bundle;
pub use error::{Error, Explain, Result};
