//! Which folder may give way to a new bundle: one that mgpack wrote, with nothing in it that mgpack did not write.

use std::collections::BTreeSet;
use std::path::Path;

use super::contents::{BundleFolder, Contents as _};
use crate::error::{Error, Explain as _, IoError, OutputError, Result};
use crate::legible::legible;
use crate::manifest::{MANIFEST_NAME, SIGNATURE_NAME};
use crate::regular;

/// Names shown of what is in the way.
const SHOWN: usize = 5;

/// Accepts an empty folder, and a bundle whose manifest lists every file in it. A damaged file does not matter; one that
/// is not listed does.
///
/// # Errors
/// [`Error::Io`] where the system could not read it. [`OutputError::NotOurs`] with the names that are in the way, or with the reason why this is no bundle.
pub(crate) fn may_replace(dir: &Path) -> Result<()> {
    let refused = |why: String| Err(OutputError::NotOurs { path: dir.to_owned(), why }.into());
    match dir.symlink_metadata() {
        Ok(meta) if meta.is_dir() => {}
        Err(cause) if regular::is_of_environment(&cause) => {
            return Err(IoError::new("looking at the target", dir, cause).into());
        }
        _ => return refused("it is not a folder".into()),
    }
    let folder = BundleFolder::open(dir)?;
    if folder.entries().is_empty() {
        return Ok(());
    }
    let manifest = match folder.manifest() {
        Ok((manifest, _)) => manifest,
        Err(error @ Error::Io(_)) => return Err(error),
        Err(error) => {
            let why = error.explain().why.unwrap_or_else(|| error.to_string());
            return refused(format!("it is neither empty nor a bundle: {why}"));
        }
    };
    let listed: BTreeSet<&str> =
        manifest.files.iter().map(|file| file.path.as_str()).chain([MANIFEST_NAME, SIGNATURE_NAME]).collect();
    let others: Vec<&str> =
        folder.entries().keys().map(String::as_str).filter(|path| !listed.contains(path)).collect();
    if others.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = others.iter().take(SHOWN).map(|path| format!("`{}`", legible(path))).collect();
    let more =
        if others.len() > SHOWN { format!(" and {} more", others.len() - SHOWN) } else { String::new() };
    refused(format!("the bundle has files that its manifest does not list: {}{more}", shown.join(", ")))
}
