//! A folder that is opened once, and the files below it.
//!
//! Whoever made the folder may still change it. Every file is found from one descriptor, part by part and through no link,
//! so all that is read is of the folder that was opened: also where another takes its name meanwhile, and no path leads
//! out of it. Only regular files are opened, as in [`crate::regular`].

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};

use crate::regular;

/// Deepest folder that is listed: no path of 1024 bytes is deeper.
const MAX_DEPTH: usize = 512;
/// How folders are opened: `NOFOLLOW` refuses a link.
const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC).union(OFlags::RDONLY);

/// A folder, open.
#[derive(Debug)]
pub(crate) struct Root(File);

/// One entry of a folder, or of a folder below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TreeEntry {
    /// Its path below the root with `/`. Bytes that are no UTF-8 are shown as `\xff`, which is no path of a bundle.
    pub(crate) path: String,
    /// What it is.
    pub(crate) kind: Kind,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file of so many bytes.
    File(u64),
    /// A link, whatever it leads to.
    Link,
    /// A folder with nothing in it; its path ends in `/`.
    EmptyFolder,
    /// A folder so deep that it is not listed; its path ends in `/`.
    DeepFolder,
    /// A pipe, socket or device.
    Special,
}

impl Root {
    /// Opens the folder at `path`, links followed.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::NotADirectory`] where it is none.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(File::from(openat(CWD, path, FOLDER, Mode::empty())?)))
    }

    /// True while `path` still leads to this folder.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        match (self.0.metadata(), path.metadata()) {
            (Ok(here), Ok(there)) => (here.dev(), here.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }

    /// Opens a regular file below the folder, for reading. `path`: plain parts joined by `/`.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::InvalidInput`] for a path with an empty part, `.` or `..`, and where it is no regular
    /// file.
    pub(crate) fn file(&self, path: &str) -> io::Result<File> {
        let parts: Vec<&str> = path.split('/').collect();
        if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no path below the folder"));
        }
        let Some((name, folders)) = parts.split_last() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let folder = self.folder(folders.iter().map(|part| part.as_bytes()))?;
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let file = File::from(openat(&folder, *name, flags, Mode::empty())?);
        regular::check(&file)?;
        Ok(file)
    }

    /// Opens a regular file of the folder itself, wherever a link of that name leads. For what is checked by its content
    /// alone. `name`: one plain part.
    ///
    /// # Errors
    /// As [`Root::file`].
    pub(crate) fn linked(&self, name: &OsStr) -> io::Result<File> {
        if name.is_empty() || name == "." || name == ".." || name.as_bytes().contains(&b'/') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no name in the folder"));
        }
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::RDONLY;
        let file = File::from(openat(&self.0, name, flags, Mode::empty())?);
        regular::check(&file)?;
        Ok(file)
    }

    /// The names in the folder itself, but those that are no UTF-8.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let dir = self.folder([].into_iter())?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        Ok(names)
    }

    /// Everything below the folder but folders that hold something. `None` where that is more than `most`.
    ///
    /// # Errors
    /// The system's, with the path below the root that it is about.
    pub(crate) fn list(&self, most: usize) -> Result<Option<Vec<TreeEntry>>, (String, io::Error)> {
        let mut found = Vec::new();
        let mut folders: Vec<Vec<Vec<u8>>> = vec![Vec::new()];
        while let Some(parts) = folders.pop() {
            let prefix: String = parts.iter().map(|part| format!("{}/", shown(part))).collect();
            let failed = |cause: rustix::io::Errno| (prefix.clone(), cause.into());
            let dir =
                self.folder(parts.iter().map(Vec::as_slice)).map_err(|cause| (prefix.clone(), cause))?;
            let mut is_empty = true;
            for entry in Dir::read_from(&dir).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                is_empty = false;
                let path = format!("{prefix}{}", shown(name.to_bytes()));
                let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|cause| (path.clone(), io::Error::from(cause)))?;
                let kind = match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory if parts.len() < MAX_DEPTH => {
                        let mut below = parts.clone();
                        below.push(name.to_bytes().to_vec());
                        folders.push(below);
                        continue;
                    }
                    FileType::Directory => Kind::DeepFolder,
                    FileType::RegularFile => Kind::File(stat.st_size.try_into().unwrap_or(u64::MAX)),
                    FileType::Symlink => Kind::Link,
                    _ => Kind::Special,
                };
                let path = if kind == Kind::DeepFolder { format!("{path}/") } else { path };
                found.push(TreeEntry { path, kind });
                if found.len() + folders.len() > most {
                    return Ok(None);
                }
            }
            if is_empty && !prefix.is_empty() {
                found.push(TreeEntry { path: prefix, kind: Kind::EmptyFolder });
            }
        }
        Ok(Some(found))
    }
    /// Opens a folder below this one, through no link.
    fn folder<'a>(&self, parts: impl Iterator<Item = &'a [u8]>) -> io::Result<File> {
        // A descriptor of its own: reading a folder moves its position.
        let mut dir = openat(&self.0, ".", FOLDER, Mode::empty())?;
        for part in parts {
            dir = openat(&dir, part, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(dir.into())
    }
}

/// A name as text, bytes that are no UTF-8 as `\xff`.
fn shown(name: &[u8]) -> String {
    let mut shown = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        shown.push_str(chunk.valid());
        shown.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_are_found_through_no_link_and_not_outside() {
        let world = tempfile::tempdir().unwrap();
        let dir = world.path().join("root");
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::write(dir.join("a/b/file"), "inside").unwrap();
        fs::write(world.path().join("secret"), "outside").unwrap();
        symlink("../secret", dir.join("link")).unwrap();
        symlink("a", dir.join("folder")).unwrap();
        let root = Root::open(&dir).unwrap();
        assert_eq!(io::read_to_string(root.file("a/b/file").unwrap()).unwrap(), "inside");
        assert_eq!(io::read_to_string(root.linked(OsStr::new("link")).unwrap()).unwrap(), "outside");
        for name in ["../secret", "a/b/file", "", "..", "a", "none"] {
            assert!(root.linked(OsStr::new(name)).is_err(), "{name}");
        }
        for path in [
            "link",
            "folder/b/file",
            "../secret",
            "a/../../secret",
            "/etc/passwd",
            "a//b/file",
            "",
            ".",
            "a",
            "a/b/",
        ] {
            assert!(root.file(path).is_err(), "{path}");
        }
        // Another folder takes its name: what is read is still of the one that was opened.
        assert!(root.is_at(&dir));
        fs::rename(&dir, world.path().join("aside")).unwrap();
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::write(dir.join("a/b/file"), "another").unwrap();
        assert!(!root.is_at(&dir));
        assert_eq!(io::read_to_string(root.file("a/b/file").unwrap()).unwrap(), "inside");
    }

    #[test]
    fn everything_is_listed_as_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &[u8]| dir.path().join(OsStr::from_bytes(name));
        fs::create_dir_all(at(b"a/b")).unwrap();
        fs::create_dir(at(b"empty")).unwrap();
        fs::write(at(b"a/b/file"), "12345").unwrap();
        fs::write(at(b"bytes\xff"), "").unwrap();
        fs::write(at("lossy\u{fffd}".as_bytes()), "").unwrap();
        symlink("nowhere", at(b"link")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut listed = root.list(100).unwrap().unwrap();
        listed.sort_by(|a, b| a.path.cmp(&b.path));
        let expected = [
            ("a/b/file", Kind::File(5)),
            ("bytes\\xff", Kind::File(0)),
            ("empty/", Kind::EmptyFolder),
            ("link", Kind::Link),
            ("lossy\u{fffd}", Kind::File(0)),
        ];
        assert_eq!(listed, expected.map(|(path, kind)| TreeEntry { path: path.to_owned(), kind }));
        assert_eq!(root.list(4).unwrap(), None);
        let mut names = root.names().unwrap();
        names.sort();
        assert_eq!(names, ["a", "empty", "link", "lossy\u{fffd}"]);
    }
}
