//! A finished bundle: checked against its seal, and read.
//!
//! `verify` owns the check of every byte, `open` the reading of tensors and their decoding to values.

mod open;
mod verify;

pub use open::{Bundle, Weight};
pub use verify::{Finding, FindingKind, Report, read_manifest, verify};
