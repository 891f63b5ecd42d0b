//! Where an output may not go: into, over or around what is read, and into a bundle.

use std::io;
use std::path::{Component, Path, PathBuf};

use super::io_error;
use crate::error::{OutputError, Result};
use crate::manifest;
use crate::regular;

/// Refuses a target that is, lies in or holds one of `inputs`, links resolved, and one inside a bundle.
pub(super) fn check(target: &Path, inputs: &[&Path]) -> Result<()> {
    let failed = |cause| io_error("looking at the target", target, cause);
    let full = resolve(target).map_err(failed)?;
    for input in inputs {
        let real = resolve(input).map_err(failed)?;
        let (path, input) = (target.to_owned(), real.clone());
        if full.starts_with(&real) {
            return Err(OutputError::InsideInput { path, input }.into());
        }
        if real.starts_with(&full) {
            return Err(OutputError::HoldsInput { path, input }.into());
        }
    }
    for folder in full.ancestors().skip(1) {
        let is_bundle = match manifest::is_in(folder) {
            // What this user may not read is no bundle that this user could write into.
            Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => false,
            Err(cause) if regular::is_of_environment(&cause) => return Err(failed(cause)),
            is_bundle => is_bundle.unwrap_or(false),
        };
        if is_bundle {
            let (path, bundle) = (target.to_owned(), folder.to_owned());
            return Err(OutputError::InsideBundle { path, bundle }.into());
        }
    }
    Ok(())
}

/// The path without links and dots, for as much of it as exists.
///
/// # Errors
/// The system's, where the working directory is gone.
pub(crate) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let full = std::path::absolute(path)?;
    let mut known = full.as_path();
    let mut real = loop {
        match (known.canonicalize(), known.parent()) {
            (Ok(real), _) => break real,
            (Err(_), Some(parent)) => known = parent,
            (Err(cause), None) => return Err(cause),
        }
    };
    for part in full.strip_prefix(known).into_iter().flat_map(Path::components) {
        match part {
            Component::ParentDir => {
                real.pop();
            }
            other => real.push(other),
        }
    }
    Ok(real)
}
