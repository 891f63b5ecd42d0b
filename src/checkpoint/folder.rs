//! A folder of files that come with a checkpoint but hold no weights of its own: a vision tower.

use std::fs::File;
use std::path::Path;

use super::files::Root;
use super::{SideFile, Skipped};
use crate::error::{CheckpointError, Result};

/// A folder, listed; its files are opened one by one, under the rules of a checkpoint's side files.
#[derive(Debug)]
pub struct Folder {
    root: Root,
    files: Vec<SideFile>,
    skipped: Vec<Skipped>,
}

impl Folder {
    /// Lists the folder `dir`, following links as a checkpoint does.
    ///
    /// # Errors
    /// [`CheckpointError`] where it is missing or a link leads out of it.
    pub fn open(dir: &Path) -> Result<Self> {
        let root = Root::new(dir)?;
        let (found, skipped) = root.walk()?;
        let mut files: Vec<SideFile> = found.into_iter().map(SideFile::new).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { root, files, skipped })
    }

    /// Every regular file below the folder, sorted by path.
    pub fn files(&self) -> &[SideFile] {
        &self.files
    }

    /// What was passed over.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Opens one of [`Self::files`].
    ///
    /// # Errors
    /// [`CheckpointError::NotASideFile`] for any other path, [`CheckpointError::FileChanged`] where it changed.
    pub fn open_file(&self, path: &str) -> Result<File> {
        match self.files.iter().find(|file| file.path == path) {
            Some(file) => Ok(self.root.open(&file.path, &file.fingerprint)?),
            None => {
                let (path, root) = (path.to_owned(), self.root.given.clone());
                Err(CheckpointError::NotASideFile { path, root }.into())
            }
        }
    }

    /// Checks that no file changed since the folder was listed.
    ///
    /// # Errors
    /// [`CheckpointError::FileChanged`] for the first that did.
    pub fn recheck(&self) -> Result<()> {
        self.files.iter().try_for_each(|file| self.root.recheck(&file.path, &file.fingerprint))
    }
}
