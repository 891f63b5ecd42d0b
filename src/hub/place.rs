//! A folder of the cache that is open, and what is made, renamed and removed in it.
//!
//! The cache may be another user's, who can put a link in any place at any time. So a folder is found once, through no link
//! but those that people put there to move a cache to another disk, and all that is written goes through its descriptor.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, readlinkat, renameat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::store::io_error;
use crate::error::{Error, HubError, Result};
use crate::output;

/// How folders are opened: to be searched, which needs no right to list them.
const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC).union(OFlags::PATH);
/// How files are opened: a pipe does not wait, a link is refused.
const PLAIN: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
/// Modes before the umask, as the standard library has them.
const NEW_FOLDER: Mode = Mode::from_raw_mode(0o777);
const NEW_FILE: Mode = Mode::from_raw_mode(0o666);

/// A folder, open, and its path for errors.
#[derive(Debug)]
pub(super) struct Place {
    dir: File,
    path: PathBuf,
}

impl Place {
    /// The folder at `path`, links followed.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let dir = openat(CWD, path, FOLDER, Mode::empty());
        let dir = dir.map_err(|cause| io_error("opening a folder of the cache", path)(cause.into()))?;
        Ok(Self { dir: dir.into(), path: path.to_owned() })
    }

    /// A folder below this one, each part made where it is not there, and none of them a link.
    ///
    /// # Errors
    /// [`HubError::LinkInCache`]; the system's.
    pub(super) fn make(&self, inside: &str) -> Result<Self> {
        let mut at = self.again()?;
        for part in inside.split('/').filter(|part| !part.is_empty()) {
            let made = mkdirat(&at.dir, part, NEW_FOLDER);
            at = match (at.part(part)?, made) {
                (Some(below), _) => below,
                // It was there, and another process has removed it.
                (None, Ok(()) | Err(Errno::EXIST)) => {
                    let path = at.path.join(part);
                    return Err(io_error("making a folder", &path)(io::ErrorKind::NotFound.into()).into());
                }
                (None, Err(cause)) => {
                    return Err(io_error("making a folder", &at.path.join(part))(cause.into()).into());
                }
            };
        }
        Ok(at)
    }

    /// A folder below this one, none of whose parts is a link; `None` where it is not there.
    ///
    /// # Errors
    /// As [`Place::make`].
    pub(super) fn find(&self, inside: &str) -> Result<Option<Self>> {
        let mut at = self.again()?;
        for part in inside.split('/').filter(|part| !part.is_empty()) {
            match at.part(part)? {
                Some(below) => at = below,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn again(&self) -> Result<Self> {
        let dir = self.dir.try_clone().map_err(io_error("opening a folder of the cache", &self.path))?;
        Ok(Self { dir, path: self.path.clone() })
    }

    fn part(&self, name: &str) -> Result<Option<Self>> {
        let path = self.path.join(name);
        match openat(&self.dir, name, FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(dir) => Ok(Some(Self { dir: dir.into(), path })),
            Err(Errno::NOENT) => Ok(None),
            Err(cause) => Err(self.refused("opening a folder of the cache", name, cause)),
        }
    }

    /// Opens a file in it, which is made where it is not there.
    ///
    /// # Errors
    /// [`HubError::LinkInCache`]; the system's.
    pub(super) fn file(&self, name: &str, doing: &'static str) -> Result<File> {
        let flags = PLAIN | OFlags::RDWR | OFlags::CREATE;
        let file = openat(&self.dir, name, flags, NEW_FILE);
        Ok(file.map_err(|cause| self.refused(doing, name, cause))?.into())
    }

    /// The error of a name: that it is a link, where it is one.
    fn refused(&self, doing: &'static str, name: &str, cause: Errno) -> Error {
        let path = self.path.join(name);
        match readlinkat(&self.dir, name, Vec::new()) {
            Ok(target) => {
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                HubError::LinkInCache { path, target }.into()
            }
            Err(_) => io_error(doing, &path)(cause.into()).into(),
        }
    }

    /// Makes a link of this name, or puts it in the place of what is there, in one step; made in `aside`.
    pub(super) fn put_link(&self, name: &str, aside: &Self, target: &str) -> io::Result<()> {
        output::replace(&self.dir, name, &aside.dir, |staged| Ok(symlinkat(target, &aside.dir, staged)?))
    }

    /// The same of a file with what `from` reads.
    pub(super) fn put_file(&self, name: &str, aside: &Self, from: &mut dyn io::Read) -> io::Result<()> {
        output::replace(&self.dir, name, &aside.dir, |staged| {
            let flags = PLAIN | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let mut file = File::from(openat(&aside.dir, staged, flags, NEW_FILE)?);
            io::copy(from, &mut file).map(drop)
        })
    }

    /// Gives a file here a name in another folder.
    pub(super) fn rename(&self, name: &str, to: &Self, new: &str) -> io::Result<()> {
        Ok(renameat(&self.dir, name, &to.dir, new)?)
    }

    /// Removes a file or a link, if it is there.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        match unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(cause) => {
                Err(io_error("removing a file from the cache", &self.path.join(name))(cause.into()).into())
            }
        }
    }

    /// The path of a name in it, for errors.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_written_through_a_link_whenever_it_is_planted() {
        let world = tempfile::tempdir().unwrap();
        let (cache, outside) = (world.path().join("cache"), world.path().join("outside"));
        fs::create_dir_all(cache.join("snapshots")).unwrap();
        fs::create_dir(&outside).unwrap();
        let root = Place::open(&cache).unwrap();
        // Before.
        symlink(&outside, cache.join("refs")).unwrap();
        match root.make("refs/pr") {
            Err(Error::Hub(HubError::LinkInCache { path, target })) => {
                assert_eq!((path, target), (cache.join("refs"), outside.clone()))
            }
            other => panic!("{other:?}"),
        }
        assert!(root.find("refs").is_err());
        // Between the look and the step.
        let folder = root.make("snapshots/0123").unwrap();
        fs::rename(cache.join("snapshots"), cache.join("aside")).unwrap();
        symlink(&outside, cache.join("snapshots")).unwrap();
        fs::create_dir(outside.join("0123")).unwrap();
        folder.put_link("config.json", &root, "../../blobs/1").unwrap();
        folder.put_file("text", &root, &mut &b"text"[..]).unwrap();
        folder.file("lock", "locking").unwrap();
        folder.rename("text", &root, "moved").unwrap();
        assert_eq!(fs::read_dir(outside.join("0123")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        let mut made: Vec<_> =
            fs::read_dir(cache.join("aside/0123")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        made.sort();
        assert_eq!(made, ["config.json", "lock"]);
        assert_eq!(fs::read(cache.join("moved")).unwrap(), b"text");
        // The last part.
        fs::write(outside.join("theirs"), "theirs").unwrap();
        symlink(outside.join("theirs"), cache.join("HASH.incomplete")).unwrap();
        assert!(matches!(
            root.file("HASH.incomplete", "opening"),
            Err(Error::Hub(HubError::LinkInCache { .. }))
        ));
        root.put_file("HASH.incomplete", &root, &mut &b"ours"[..]).unwrap();
        assert_eq!(fs::read(outside.join("theirs")).unwrap(), b"theirs");
        root.remove("HASH.incomplete").unwrap();
        root.remove("HASH.incomplete").unwrap();
        // A folder that is not there is made only where it is to be.
        assert!(root.find("none/below").unwrap().is_none());
        assert!(!cache.join("none").exists());
    }
}
