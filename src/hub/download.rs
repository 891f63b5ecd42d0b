//! One file: from the hub into `blobs/`, resumed, checked, then renamed.
//!
//! Unfinished bytes lie in `blobs/HASH.incomplete`, under a lock on `.locks/REPO/HASH.lock`: the lock is the
//! one that huggingface_hub takes (flock), so two programs never fetch one blob at once. The blob appears
//! under its name only when its digest is right and it is on the disk.
//!
//! huggingface_hub 0.20 has the same name for unfinished bytes, and either program goes on where the other ended.
//! Version 2.4 writes to `blobs/HASH.RANDOM.incomplete`, a name of each process, and removes it when it fails.
//! Those are never read here: with Xet their bytes do not come in order.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FlockOperation, flock};
use sha1::Digest as _;
use ureq::Body;
use ureq::http::Response;

use super::http::{Client, Failure, MAX_ATTEMPTS, Subject, pause};
use super::listing::{BlobHash, Listed};
use crate::digest::Hasher;
use crate::error::HubError;
use crate::progress::{Progress, Stop};
use crate::size::counted;

/// Bytes read at once.
const BUFFER_LEN: usize = 256 << 10;

/// Times that a whole file with a wrong digest is fetched.
const MAX_WRONG: u32 = 2;

/// One file to fetch.
pub(super) struct Job<'a> {
    pub(super) client: &'a Client,
    pub(super) subject: Subject<'a>,
    pub(super) url: String,
    pub(super) file: &'a Listed,
    pub(super) blob: PathBuf,
    pub(super) lock: PathBuf,
    pub(super) progress: &'a dyn Progress,
    pub(super) stop: &'a Stop,
    /// Set when another file failed.
    pub(super) failed: &'a AtomicBool,
}

/// Where the unfinished bytes of a blob lie.
pub(super) fn incomplete(blob: &Path) -> PathBuf {
    let mut name = blob.file_name().unwrap_or_default().to_owned();
    name.push(".incomplete");
    blob.with_file_name(name)
}

impl Job<'_> {
    /// Fetches what is missing of the file.
    pub(super) fn run(&self) -> Result<(), HubError> {
        let _lock = self.take_lock()?;
        if self.blob.exists() {
            return Ok(());
        }
        let path = incomplete(&self.blob);
        let at = |doing| move |cause| HubError::Io { doing, path: path_of(&self.blob), cause };
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let mut file = options.open(&path).map_err(at("opening the unfinished file"))?;
        let mut digest = self.hash_kept(&mut file).map_err(at("reading the unfinished file"))?;
        if self.stop.requested() {
            return Err(HubError::Interrupted);
        }
        let (mut attempt, mut wrong) = (0, 0);
        loop {
            let before = digest.len;
            let failure = match self.attempt(&mut file, &mut digest) {
                Ok(()) => {
                    let received = digest.finish();
                    if received == self.file.hash.name() {
                        break;
                    }
                    wrong += 1;
                    digest = self.start_again(&mut file).map_err(at("emptying the unfinished file"))?;
                    if wrong == MAX_WRONG {
                        let listed = self.file.hash.name().to_owned();
                        return Err(HubError::WrongBytes { file: self.file.path.clone(), listed, received });
                    }
                    continue;
                }
                Err(failure) => failure,
            };
            let (url, why, wait) = match failure {
                Failure::Final(error) => return Err(error),
                Failure::Again { url, why, wait } => (url, why, wait),
            };
            attempt = if digest.len > before { 1 } else { attempt + 1 };
            if attempt == MAX_ATTEMPTS {
                return Err(HubError::Answer { url, why: format!("{why}, {attempt} times in a row") });
            }
            pause(attempt, wait, self.stop)?;
        }
        file.sync_all().map_err(at("writing to the disk"))?;
        fs::rename(&path, &self.blob).map_err(at("naming the finished file"))
    }

    /// Waits for the lock, so that whoever has it may finish the file.
    fn take_lock(&self) -> Result<File, HubError> {
        let at = |cause| HubError::Io { doing: "locking", path: self.lock.clone(), cause };
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).open(&self.lock).map_err(at)?;
        for round in 1.. {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => pause(round.min(3), None, self.stop)?,
                Err(cause) => return Err(at(cause.into())),
            }
        }
        Ok(lock)
    }

    /// The digest of the bytes that an earlier run left.
    fn hash_kept(&self, file: &mut File) -> io::Result<Running> {
        let kept = file.metadata()?.len();
        if kept > self.file.size {
            return self.start_again(file);
        }
        let mut digest = Running::new(self.file);
        let mut buffer = vec![0; BUFFER_LEN];
        while digest.len < kept && !self.stop.requested() {
            let len = file.read(&mut buffer)?;
            if len == 0 {
                break;
            }
            digest.update(&buffer[..len]);
        }
        Ok(digest)
    }

    fn start_again(&self, file: &mut File) -> io::Result<Running> {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Running::new(self.file))
    }

    /// One request for all that is missing. Whatever arrives is kept, also when the request fails.
    fn attempt(&self, file: &mut File, digest: &mut Running) -> Result<(), Failure> {
        if digest.len == self.file.size {
            return Ok(());
        }
        let answer = self.client.get(&self.url, digest.len, self.subject)?;
        let again = |why: String| Failure::Again { url: self.url.clone(), why, wait: None };
        let io =
            |doing| move |cause| Failure::Final(HubError::Io { doing, path: path_of(&self.blob), cause });
        match answer.status().as_u16() {
            206 if range_start(&answer) == Some((digest.len, self.file.size)) => {}
            206 => {
                let why = "the server sent another range than was asked for".to_owned();
                return Err(again(why));
            }
            416 => {
                *digest = self.start_again(file).map_err(io("emptying the unfinished file"))?;
                return Err(again("the server refused the range (HTTP status 416)".to_owned()));
            }
            // The server knows no ranges: all comes again.
            _ if digest.len > 0 => {
                *digest = self.start_again(file).map_err(io("emptying the unfinished file"))?
            }
            _ => {}
        }
        let mut body = answer.into_body().into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; BUFFER_LEN];
        while digest.len < self.file.size {
            if self.stop.requested() || self.failed.load(Ordering::Relaxed) {
                return Err(HubError::Interrupted.into());
            }
            let len = body.read(&mut buffer).map_err(|error| again(error.to_string()))?;
            if len == 0 {
                return Err(again(format!(
                    "the answer ended after {} of {}",
                    digest.len,
                    counted(self.file.size, "byte"),
                )));
            }
            // More than was listed is not written; the digest decides about the rest.
            let wanted = usize::try_from(self.file.size - digest.len).unwrap_or(len).min(len);
            file.write_all(&buffer[..wanted]).map_err(io("writing"))?;
            digest.update(&buffer[..wanted]);
            self.progress.advance(wanted as u64);
        }
        Ok(())
    }
}

fn path_of(blob: &Path) -> PathBuf {
    incomplete(blob)
}

/// First byte and whole length of `Content-Range: bytes FIRST-LAST/LENGTH`.
fn range_start(answer: &Response<Body>) -> Option<(u64, u64)> {
    let text = answer.headers().get("content-range")?.to_str().ok()?;
    let (range, len) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, len.parse().ok()?))
}

/// A digest as bytes come, and how many came.
struct Running {
    len: u64,
    kind: Kind,
}

enum Kind {
    Sha256(Box<Hasher>),
    Git(Box<sha1::Sha1>),
}

impl Running {
    fn new(file: &Listed) -> Self {
        let kind = match file.hash {
            BlobHash::Sha256(_) => Kind::Sha256(Box::default()),
            BlobHash::Git(_) => {
                Kind::Git(Box::new(sha1::Sha1::new_with_prefix(format!("blob {}\0", file.size))))
            }
        };
        Self { len: 0, kind }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        match &mut self.kind {
            Kind::Sha256(hasher) => hasher.update(bytes),
            Kind::Git(hasher) => hasher.update(bytes),
        }
    }

    /// Hexadecimal digits of all that came; begins anew.
    fn finish(&mut self) -> String {
        match &mut self.kind {
            Kind::Sha256(hasher) => std::mem::take(hasher).finish().to_string(),
            Kind::Git(hasher) => hasher.finalize_reset().iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}
