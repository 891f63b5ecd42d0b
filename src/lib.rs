//! mgpack converts MiniGemini and other Hugging Face checkpoints into sealed, self-contained bundles.
//!
//! The layers, each importing only from those below it: `cli` → verbs → steps → parts → words → `error`.

pub mod error;
pub mod family;
pub mod tensor;
pub mod tiny;
mod torch_zip;

pub use error::{Error, Explain, Result};
