//! Opening files that someone else made: regular files only, and never waiting for the other end of a pipe.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a regular file for reading. Links are followed.
///
/// What is opened is what is judged: a pipe, socket, device or folder that takes the file's place after a look at its
/// name is refused too, and a pipe without a writer does not wait.
///
/// # Errors
/// The system's; [`io::ErrorKind::InvalidInput`] where it is no regular file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    check(&file)?;
    Ok(file)
}

/// Refuses an open file that is no regular one.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`]; the system's.
pub(crate) fn check(file: &File) -> io::Result<()> {
    match file.metadata()?.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

/// Whether anything is at `path`. Links are followed.
///
/// # Errors
/// The system's, where it does not know: a disk or a server that fails is no absence.
pub(crate) fn is_there(path: &Path) -> io::Result<bool> {
    use rustix::io::Errno;
    match path.metadata() {
        Ok(_) => Ok(true),
        Err(cause) => match Errno::from_io_error(&cause) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP) => Ok(false),
            // A zero in the path, which no file has.
            None => Ok(false),
            Some(_) => Err(cause),
        },
    }
}

/// True where the system could not read a file (a disk or a server that fails, no permission, no memory, too many open
/// files), which says nothing of what is in it.
///
/// False where the cause is the file itself: it is gone, a link, a socket or no regular file, it ends too soon, or its
/// bytes were refused.
pub(crate) fn is_of_environment(cause: &io::Error) -> bool {
    use rustix::io::Errno;
    match errno(cause) {
        Some(errno) => !matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO),
        None => cause.kind() == io::ErrorKind::OutOfMemory,
    }
}

/// The system's number of an error, also where a reader between has put its own words around it.
pub(crate) fn errno(cause: &io::Error) -> Option<rustix::io::Errno> {
    use std::error::Error;
    rustix::io::Errno::from_io_error(cause).or_else(|| {
        let mut around: Option<&(dyn Error + 'static)> = cause.get_ref().map(|inner| inner as _);
        while let Some(error) = around {
            // Its own source would be the one below what it holds.
            if let Some(inner) = error.downcast_ref::<io::Error>() {
                return errno(inner);
            }
            around = error.source();
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_file_can_be_called_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        for name in ["none", "file/below", "loop", "zero\0", &"x".repeat(300)] {
            assert!(!is_there(&dir.path().join(name)).unwrap(), "{name}");
        }
        assert!(is_there(&file).unwrap());
    }

    #[test]
    fn an_error_of_the_system_says_nothing_of_the_file() {
        use rustix::io::Errno;
        for errno in
            [Errno::IO, Errno::ACCESS, Errno::PERM, Errno::STALE, Errno::TIMEDOUT, Errno::MFILE, Errno::NOMEM]
        {
            assert!(is_of_environment(&errno.into()), "{errno:?}");
            // As a reader in between passes it on.
            let kind = io::Error::from(errno).kind();
            let around = io::Error::new(kind, io::Error::other(io::Error::from(errno)));
            assert!(is_of_environment(&around), "{errno:?}");
        }
        for errno in [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::NXIO] {
            assert!(!is_of_environment(&errno.into()), "{errno:?}");
        }
        for kind in [io::ErrorKind::InvalidInput, io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof] {
            assert!(!is_of_environment(&io::Error::new(kind, "words")), "{kind}");
        }
        assert!(is_of_environment(&io::ErrorKind::OutOfMemory.into()));
    }

    #[test]
    fn pipes_devices_and_folders_are_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        for path in [pipe.as_path(), Path::new("/dev/null"), dir.path()] {
            assert_eq!(open(path).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{}", path.display());
        }
        std::fs::write(dir.path().join("file"), "text").unwrap();
        assert_eq!(std::io::read_to_string(open(&dir.path().join("file")).unwrap()).unwrap(), "text");
    }
}
