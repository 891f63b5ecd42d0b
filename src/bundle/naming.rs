//! Whether the folder of a bundle has a name from which MGM's loader takes the bundle's class.
//!
//! The seal does not cover the folder's name, and mgpack loads under any; MGM's own programs do not. The rule is
//! [`crate::family`]'s; this asks it about a folder as it lies on the disk. Carries out formats/bundle.md, "Names".

use std::path::Path;

use crate::family::{Misnamed, ModelType};
use crate::manifest::Manifest;

/// What MGM's loader makes of the name of the bundle's folder, where that is not the bundle's class.
///
/// `dir`: any path to the folder; a link has its own name, as it has for MGM. `None` for bundles that are no MGM family's.
pub(crate) fn misnamed(manifest: &Manifest, dir: &Path) -> Option<Misnamed> {
    of_path(manifest, &full_path(dir))
}

/// The same for the path as it was typed, from which MGM's command line (`--model-path`) takes the name: `.` has none.
pub(crate) fn misnamed_as_given(manifest: &Manifest, dir: &Path) -> Option<Misnamed> {
    of_path(manifest, &dir.to_string_lossy())
}

/// The folder's path from the root, with the name that it is given here: a link at its end is kept.
pub(crate) fn full_path(dir: &Path) -> String {
    let full = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    // Only the file system knows what `..` leads to.
    let real = match (full.parent(), full.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize().map(|parent| parent.join(name)),
        _ => full.canonicalize(),
    };
    real.unwrap_or(full).to_string_lossy().into_owned()
}

fn of_path(manifest: &Manifest, path: &str) -> Option<Misnamed> {
    let name = &manifest.model.name;
    if manifest.model.facts.is_null() {
        return None;
    }
    Misnamed::at(path, ModelType::from_word(manifest.model.model_type.as_deref()?)?, name)
}
