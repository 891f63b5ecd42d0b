//! mgpack converts MiniGemini and other Hugging Face checkpoints into sealed, self-contained bundles.
//!
//! The layers, each importing only from those below it: `cli` → verbs → steps → parts → words → `error`.

pub mod device_map;
pub mod error;
pub mod tensor;

pub use error::{Error, Explain, Result};
