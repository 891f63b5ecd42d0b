//! Writing where the user asked: what is half-made is never visible, what is finished is never lost, and nothing gives
//! way that mgpack did not make.
//!
//! An [`Output`] is a folder or a file on its way to its target. It grows in a work folder beside the target, and
//! [`Output::commit`] moves it there in one step. `guard` holds the target against what is read, `place` does the
//! last step, `leftovers` removes what dead processes left. Every command that writes goes through here; what a file
//! holds is the caller's. Carries out formats/bundle.md, "Writing".

mod guard;
mod leftovers;
mod place;
mod work;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

pub(crate) use place::Placed;

use crate::disk;
use crate::error::{IoError, OutputError, Result};
use crate::progress::Progress;
use work::Work;

/// What may be at the target and give way to the output.
#[derive(Clone, Copy)]
pub(crate) enum Replace<'a> {
    /// Nothing.
    Never,
    /// What this accepts; its error says why not. Asked at the beginning, and again before the last step.
    If(&'a (dyn Fn(&Path) -> Result<()> + Sync)),
}

/// Makes `name` in the open folder `dir`, or puts something in the place of what is there, in one step for readers: `make`
/// makes it in the open folder `aside`, on the same file system, under a name that no other process has and that no reader
/// of `dir` sees.
///
/// # Errors
/// The system's; then nothing is left in `aside`.
#[cfg(feature = "hub")]
pub(crate) fn replace(
    dir: &File,
    name: &str,
    aside: &File,
    make: impl FnOnce(&str) -> io::Result<()>,
) -> io::Result<()> {
    use rustix::fs::{AtFlags, renameat, unlinkat};
    let staged = work::random_name()?;
    let made = make(&staged).and_then(|()| Ok(renameat(aside, staged.as_str(), dir, name)?));
    if made.is_err() {
        // Best effort: it is hidden, and `sweep_aside` removes it.
        let _ = unlinkat(aside, staged.as_str(), AtFlags::empty());
    }
    made
}

/// Removes what processes that died in [`replace`] left in `aside`: names a day old, since the step takes milliseconds.
#[cfg(feature = "hub")]
pub(crate) fn sweep_aside(aside: &Path) {
    for entry in fs::read_dir(aside).into_iter().flatten().flatten() {
        if work::is_random_name(&entry.file_name()) && leftovers::is_old(&entry.path()) {
            // Best effort: nobody reads it.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Where something is to be written.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    /// The folder or file.
    pub path: &'a Path,
    /// What is read meanwhile: the target is neither of these, nor inside, nor around one.
    pub inputs: &'a [&'a Path],
    /// What may be there already.
    pub replace: Replace<'a>,
    /// Bytes that will be written; the disk must have them free.
    pub len: u64,
}

/// A folder or file that is not yet at its target. Dropped before [`Output::commit`], it is removed, unless it is one
/// to go on with.
pub(crate) struct Output<'a> {
    work: Work,
    target: PathBuf,
    replace: Replace<'a>,
}

impl<'a> Output<'a> {
    /// Checks the target, removes what dead processes left beside it, and makes the work folder.
    ///
    /// # Errors
    /// [`OutputError`]: the target exists or may not be written, the disk has too little room, or the system refuses.
    pub(crate) fn begin(target: Target<'a>, progress: &dyn Progress) -> Result<Self> {
        let (parent, path) = prepare(target, target.len, progress)?;
        let work = Work::make(&parent)?;
        Ok(Self { work, target: path, replace: target.replace })
    }

    /// The same, in a work folder that stays when this is dropped, and in which the next run with this target finds
    /// what it holds.
    ///
    /// # Errors
    /// As [`Output::begin`]; [`OutputError::Busy`] where another process works in it.
    pub(crate) fn resume(target: Target<'a>, progress: &dyn Progress) -> Result<Self> {
        let there = unfinished_len(target.path);
        let (_, path) = prepare(target, target.len.saturating_sub(there), progress)?;
        let work = Work::keep(&kept(&path))?;
        Ok(Self { work, target: path, replace: target.replace })
    }

    /// Where the output is written: the caller makes a folder or a file of this path.
    pub(crate) fn content(&self) -> PathBuf {
        self.work.content()
    }

    /// A file beside the content, which does not go to the target.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.work.dir().join(name)
    }

    /// Nothing in the work folder is worth keeping: it is removed when this is dropped.
    pub(crate) fn give_up(&mut self) {
        self.work.give_up();
    }

    /// Makes the output durable and moves it to its target in one step. What was there stays whole until then, and is
    /// removed after.
    ///
    /// # Errors
    /// [`OutputError::NotPlaced`] names where the finished output is when the last step fails: it is never removed.
    /// [`OutputError::NotDurable`] where it is in place and the disk does not confirm it.
    pub(crate) fn commit(mut self) -> Result<Placed> {
        let content = self.content();
        sync_tree(&content).map_err(|cause| io_error("making the output durable", &content, cause))?;
        place::place(&mut self.work, &self.target, self.replace)
    }
}

/// Looks whether anything is at the target, before long work that would be lost; removes what dead processes left there.
///
/// # Errors
/// [`OutputError::Exists`].
pub(crate) fn check_absent(target: &Path, progress: &dyn Progress) -> Result<()> {
    prepare(Target { path: target, inputs: &[], replace: Replace::Never, len: 0 }, 0, progress).map(|_| ())
}

/// Writes a file in one step.
///
/// # Errors
/// As [`Output::begin`] and [`Output::commit`].
pub(crate) fn write_file(target: Target<'_>, bytes: &[u8], progress: &dyn Progress) -> Result<Placed> {
    let target = Target { len: bytes.len() as u64, ..target };
    let output = Output::begin(target, progress)?;
    let content = output.content();
    let write = || -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).open(&content)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|cause| io_error("writing a file", target.path, cause))?;
    output.commit()
}

/// The folder in which an interrupted [`Output::resume`] to `target` left its content.
pub(crate) fn unfinished(target: &Path) -> Option<PathBuf> {
    let (parent, name) = split(target).ok()?;
    Some(kept(&parent.join(name))).filter(|dir| dir.is_dir())
}

/// Bytes of the content in that folder; 0 where there is none.
pub(crate) fn unfinished_len(target: &Path) -> u64 {
    unfinished(target).and_then(|dir| tree_len(&dir.join(work::CONTENT)).ok()).unwrap_or(0)
}

/// Accepts a regular file.
///
/// # Errors
/// [`OutputError::NotOurs`] for anything else.
pub(crate) fn regular_file(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_file() => Ok(()),
        Ok(_) => {
            Err(OutputError::NotOurs { path: path.to_owned(), why: "it is not a regular file".into() }.into())
        }
        Err(cause) => Err(io_error("looking at the target", path, cause)),
    }
}

/// Accepts a regular file that begins with `mark`, which mgpack writes.
///
/// # Errors
/// [`OutputError::Exists`] for another file: `--force` replaces it. [`OutputError::NotOurs`] for what is no file.
pub(crate) fn file_that_begins_with(path: &Path, mark: &str) -> Result<()> {
    regular_file(path)?;
    let begins = || -> io::Result<bool> {
        let mut head = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(File::open(path)?, mark.len() as u64), &mut head)?;
        Ok(head == mark.as_bytes())
    };
    if begins().map_err(|cause| io_error("looking at the target", path, cause))? {
        return Ok(());
    }
    Err(OutputError::Exists { path: path.to_owned() }.into())
}

/// Everything that can be said before a byte is written. Returns the folder of the target, which is there now, and
/// the target below it.
fn prepare(target: Target<'_>, len: u64, progress: &dyn Progress) -> Result<(PathBuf, PathBuf)> {
    guard::check(target.path, target.inputs)?;
    let (parent, name) = split(target.path)?;
    // First, since a complete output of an earlier run may come to this target.
    leftovers::sweep(&parent, progress);
    // Without dots at its end, which no rename accepts.
    let path = target.path.with_file_name(name);
    match (path.symlink_metadata(), target.replace) {
        (Ok(_), Replace::Never) => return Err(OutputError::Exists { path }.into()),
        (Ok(_), Replace::If(accepts)) => accepts(&path)?,
        (Err(cause), _) if cause.kind() == io::ErrorKind::NotFound => {}
        (Err(cause), _) => return Err(io_error("looking at the target", &path, cause)),
    }
    fs::create_dir_all(&parent).map_err(|cause| io_error("making the target's folder", &parent, cause))?;
    let free = disk::free(&parent).map_err(|cause| io_error("asking for free space", &parent, cause))?;
    if free < len {
        return Err(OutputError::NoSpace { path: parent, needed: len, free }.into());
    }
    Ok((parent, path))
}

/// The folder of a target and its name.
fn split(target: &Path) -> Result<(PathBuf, &OsStr)> {
    let Some(name) = target.file_name() else {
        // `.`, `..` and `/` are there whatever they are called.
        let path = target.to_owned();
        return Err(if target.exists() {
            OutputError::Exists { path }
        } else {
            OutputError::NoName { path }
        }
        .into());
    };
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")).to_owned(), name))
}

/// The work folder that stays, of a target.
fn kept(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default();
    let digest = crate::digest::Digest::of(name.as_encoded_bytes()).to_string();
    target.with_file_name(format!("{}{}", work::KEPT, digest.get(..16).unwrap_or(&digest)))
}

/// Bytes of the files in a folder, and below it.
fn tree_len(dir: &Path) -> io::Result<u64> {
    let mut sum = 0u64;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() { tree_len(&entry.path())? } else { meta.len() };
    }
    Ok(sum)
}

/// Makes every folder below `path`, and `path`, durable. The files are already.
fn sync_tree(path: &Path) -> io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    sync_dir(path)
}

/// Makes the names in a folder durable, as [`sync`] does.
///
/// # Errors
/// The system's.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    sync(&File::open(dir)?)
}

/// Makes a file durable; a file system that cannot do so is taken at its word.
///
/// # Errors
/// The system's.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::fsync(file) {
        Ok(()) | Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS) => Ok(()),
        Err(cause) => Err(cause.into()),
    }
}

fn io_error(doing: &'static str, path: &Path, cause: io::Error) -> crate::Error {
    IoError::new(doing, path, cause).into()
}
