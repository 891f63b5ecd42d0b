//! mgpack converts MiniGemini and other Hugging Face checkpoints into sealed, self-contained bundles.
//!
//! A conversion in one line: [`locate`] finds a [`checkpoint`] and its towers, [`family`] tells what is known
//! of the model, [`plan`] decides every tensor's fate and offset, [`device_map`] places the modules, and
//! [`convert`] reads, transforms, hashes and writes. The [`manifest`] seals the result, and [`bundle`] checks
//! every byte against it.
//!
//! Imports point down only: `cli` → verbs (`convert`, `bundle`, `release`, `hub`) → steps (`locate`, `plan`,
//! `modules`, `device_map`, `shard`, `manifest`, `archive`) → parts (`checkpoint`, `family`, `kernels`, `tiny`) → words
//! (`tensor`, `structure`, `scheme`, `digest`, `json_text`, `progress`) → `error`.

mod archive;
pub mod bundle;
pub mod checkpoint;
pub mod convert;
pub mod device_map;
pub mod digest;
pub mod error;
pub mod family;
#[cfg(feature = "hub")]
pub mod hub;
pub mod json_text;
pub mod kernels;
pub mod locate;
pub mod manifest;
pub mod modules;
pub mod plan;
pub mod progress;
pub mod release;
pub mod scheme;
pub mod shard;
pub mod structure;
pub mod tensor;
pub mod tiny;
mod torch_zip;

pub use error::{Error, Explain, Result};
