//! The tiny checkpoint in the user's cache folder: written at first use, used only while every byte is as written.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Located;
use crate::error::Result;
use crate::output::{Output, Replace, Target};
use crate::progress::Progress;
use crate::tiny::{self, BUNDLE_NAME, SEED, TinyFile};

/// Finds or writes the tiny checkpoint.
///
/// `var` reads a variable of the environment: `XDG_CACHE_HOME`, `HOME`. `cwd`: where it goes without both.
///
/// # Errors
/// [`crate::error::IoError`], and those of [`crate::output`].
pub(crate) fn tiny(
    var: impl Fn(&str) -> Option<OsString>,
    cwd: &Path,
    progress: &dyn Progress,
) -> Result<Located> {
    let dir = cached(&var, cwd);
    let files = tiny::files(SEED);
    if !is_as_written(&dir, &files) {
        if dir.symlink_metadata().is_ok() {
            progress.note(&format!("{} was not as mgpack wrote it and is written again", dir.display()));
        }
        // Whatever is at this name in mgpack's own cache gives way; another process writes the same bytes.
        let target = Target { path: &dir, inputs: &[], replace: Replace::If(&|_| Ok(())), len: 0 };
        let output = Output::begin(target, progress)?;
        tiny::write(&output.content(), SEED)?;
        let _ = output.commit()?;
    }
    Ok(Located { dir, hub_id: None, revision: None })
}

/// Gives the tiny checkpoint to `read` and leaves nothing behind: where it is not in the cache as it was written, it is made
/// in the folder for temporary files, and removed after.
///
/// `var` also reads `TMPDIR`.
///
/// # Errors
/// As [`tiny()`]; those of `read`.
pub(crate) fn borrow_tiny<T>(
    var: impl Fn(&str) -> Option<OsString>,
    cwd: &Path,
    progress: &dyn Progress,
    read: impl FnOnce(Located) -> Result<T>,
) -> Result<T> {
    let dir = cached(&var, cwd);
    if is_as_written(&dir, &tiny::files(SEED)) {
        return read(Located { dir, hub_id: None, revision: None });
    }
    let temporary = set(&var, "TMPDIR").unwrap_or_else(|| PathBuf::from("/tmp"));
    // Never committed: nothing gets this name.
    let path = temporary.join(BUNDLE_NAME);
    let target = Target { path: &path, inputs: &[], replace: Replace::If(&|_| Ok(())), len: 0 };
    let output = Output::begin(target, progress)?;
    tiny::write(&output.content(), SEED)?;
    read(Located { dir: output.content(), hub_id: None, revision: None })
}

/// Where the tiny checkpoint is kept.
fn cached(var: impl Fn(&str) -> Option<OsString>, cwd: &Path) -> PathBuf {
    let cache = set(&var, "XDG_CACHE_HOME").or_else(|| Some(set(&var, "HOME")?.join(".cache")));
    let cache = cache.unwrap_or_else(|| cwd.join(".cache")).join("mgpack");
    cache.join(format!("{BUNDLE_NAME}-{}", env!("CARGO_PKG_VERSION")))
}

/// The path in a variable; an empty one counts as none.
fn set(var: impl Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    var(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// True where `dir` holds exactly these files.
fn is_as_written(dir: &Path, files: &[TinyFile]) -> bool {
    let mut expected: BTreeMap<PathBuf, &TinyFile> =
        files.iter().map(|file| (dir.join(&file.path), file)).collect();
    let listed = each_file(dir, &mut |path| {
        let file = expected.remove(path).ok_or(io::ErrorKind::InvalidData)?;
        let is_same =
            path.symlink_metadata()?.len() == file.bytes.len() as u64 && fs::read(path)? == file.bytes;
        if is_same { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    });
    listed.is_ok() && expected.is_empty()
}

/// Gives every entry below `dir` that is no folder.
fn each_file(dir: &Path, give: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => each_file(&entry.path(), give)?,
            kind if kind.is_file() => give(&entry.path())?,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn a_changed_byte_a_lost_file_and_a_stranger_in_the_cache_are_mended() {
        let home = tempfile::tempdir().unwrap();
        let find = || {
            let var = |name: &str| (name == "XDG_CACHE_HOME").then(|| home.path().into());
            tiny(var, Path::new("."), &Silent).unwrap().dir
        };
        let dir = find();
        let files = tiny::files(SEED);
        let shard = dir.join("model-00001-of-00003.safetensors");
        let sound = fs::read(&shard).unwrap();

        let mut flipped = sound.clone();
        flipped[2000] ^= 1;
        fs::write(&shard, &flipped).unwrap();
        assert_eq!(fs::read(find().join("model-00001-of-00003.safetensors")).unwrap(), sound);

        fs::remove_file(dir.join("config.json")).unwrap();
        fs::write(dir.join("mgpack.json"), "{}").unwrap();
        find();
        assert!(is_as_written(&dir, &files));
        assert!(!dir.join("mgpack.json").exists());
        assert_eq!(fs::read_dir(home.path().join("mgpack")).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_name_left_by_a_killed_process_of_the_same_number_does_not_matter() {
        // Once, a first run killed as process 1 of a container left `.tiny-1`, and no later process 1 could start.
        let home = tempfile::tempdir().unwrap();
        let left = home.path().join("mgpack").join(format!(".tiny-{}", std::process::id()));
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("config.json"), "cut").unwrap();
        let var = |name: &str| (name == "XDG_CACHE_HOME").then(|| home.path().into());
        let found = tiny(var, Path::new("."), &Silent).unwrap();
        assert!(is_as_written(&found.dir, &tiny::files(SEED)));
    }
}
