//! A finished bundle: checked against its seal, and read.
//!
//! `verify` owns the check of every byte, over the `contents` of a folder or a tar, and with what lies around a `released`
//! one; `headers` and `lists` are its checks of what shards and texts say; `open` the reading of tensors and their decoding to values; `naming` what MGM's loader makes of the folder's name.

mod contents;
mod finding;
mod headers;
mod lists;
mod naming;
mod open;
mod released;
mod replace;
mod small;
mod verify;

pub(crate) use contents::BundleFolder;
pub use finding::{Finding, FindingKind};
pub(crate) use naming::{full_path, misnamed, misnamed_as_given};
pub use open::Bundle;
pub(crate) use open::Coded;
pub(crate) use open::{Weight, weights};
pub(crate) use replace::may_replace;
pub use small::{SMALL_LEN, verify_small};
pub(crate) use verify::examine;
pub(crate) use verify::is_at;
pub use verify::{Verification, read_manifest, verify};
