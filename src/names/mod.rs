//! Words that come from outside, as types: each has the form that its place allows, checked once, where it is read.
//!
//! Whoever holds a [`BundlePath`] may join it to a folder, and whoever holds a [`Pin`] may write it into a list of
//! requirements: nothing else gets such a type. The writer of a manifest makes its words of the same types, so it writes
//! nothing that a reader refuses. Owns the rules of the words and of the paths of a bundle among themselves. Leaves names of
//! tensors to `tensor`, devices to `device`, digests to `digest`. Carries out formats/bundle.md, "Names" and "Words".

mod checked;
mod package;
mod path;
mod text;

pub(crate) use checked::checked_text;
pub(crate) use package::{PackageName, Pin, Range};
pub(crate) use path::{BundleName, BundlePath, Clash, SourcePath, clash};
pub use text::FamilyName;
pub(crate) use text::{Commit, HubId, Line, ModuleName, Word, of_module, only_lines, text_of};
