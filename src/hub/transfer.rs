//! Bytes of one file: asked for by ranges, kept as they come, asked for again where they broke off.
//!
//! What arrives stays in the [`Sink`], and the next attempt goes on behind it. A server that knows no ranges, or that
//! refuses one, sends the file from its first byte. A file whose length is another than its listing says cannot become
//! the listed one, so it is given up the second time, not asked for until the patience ends.

use std::io::Read as _;
use std::time::Instant;

use ureq::Body;
use ureq::http::Response;

use super::http::{Client, Failure, Range, Subject};
use super::patience::{Halt, Patience};
use crate::error::{Error, HubError, Result};
use crate::progress::Progress;
use crate::size::counted;

/// Bytes read at once.
const BUFFER_LEN: usize = 256 << 10;

/// Files of this length are asked for by a range even from their first byte: the hub's storage refuses the largest
/// without one. Source: huggingface_hub issue 4330.
const RANGED_LEN: u64 = 16 << 20;

/// Times that all bytes are thrown away, since the server sends the file from its first byte only.
const MAX_RESTARTS: u32 = 5;

/// Where bytes go.
pub(super) trait Sink {
    /// Bytes that it has.
    fn len(&self) -> u64;

    /// Adds bytes.
    fn put(&mut self, bytes: &[u8]) -> Result<()>;

    /// Throws away all that it has.
    fn empty(&mut self) -> Result<()>;
}

impl Sink for Vec<u8> {
    fn len(&self) -> u64 {
        self.len() as u64
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn empty(&mut self) -> Result<()> {
        self.clear();
        Ok(())
    }
}

/// One file of the hub, as it is asked for.
#[derive(Clone, Copy)]
pub(super) struct Transfer<'a> {
    pub(super) client: &'a Client,
    pub(super) subject: Subject<'a>,
    pub(super) url: &'a str,
    /// Its length, as listed.
    pub(super) size: u64,
    pub(super) progress: &'a dyn Progress,
    pub(super) halt: Halt<'a>,
}

/// What went wrong so far in a way that another attempt may not mend.
#[derive(Default)]
struct Faults {
    restarts: u32,
    lengths: u32,
    refusals: u32,
}

impl Transfer<'_> {
    /// Fetches the bytes from `start` up to `end`, those that the sink lacks of them.
    ///
    /// # Errors
    /// [`HubError::Answer`] where the patience ends; what no attempt can mend; the sink's own.
    pub(super) fn fetch(&self, start: u64, end: u64, sink: &mut dyn Sink) -> Result<()> {
        self.fetch_up_to((start, end, end), sink)
    }

    /// Fetches the file's begin, up to `end`, and all of it from a server that knows no ranges.
    ///
    /// # Errors
    /// As [`Transfer::fetch`].
    pub(super) fn begin(&self, end: u64, sink: &mut dyn Sink) -> Result<()> {
        self.fetch_up_to((0, end, self.size), sink)
    }

    /// `most`: the end of what is taken of an answer that has the whole file.
    fn fetch_up_to(&self, (start, end, most): (u64, u64, u64), sink: &mut dyn Sink) -> Result<()> {
        let mut patience = Patience::new(self.client.patience(), Instant::now());
        patience.kept(sink.len(), Instant::now());
        let mut faults = Faults::default();
        while start + sink.len() < end {
            let (url, why, asked) = match self.attempt((start, end, most), sink, &mut faults) {
                Ok(()) => continue,
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { url, why, wait }) => (url, why, wait),
            };
            patience.kept(sink.len(), Instant::now());
            patience.attend(&url, &why, asked, self.halt, self.progress)?;
        }
        Ok(())
    }

    /// One request for all that is missing. Whatever arrives is kept, also when the request fails.
    fn attempt(
        &self,
        (start, end, most): (u64, u64, u64),
        sink: &mut dyn Sink,
        faults: &mut Faults,
    ) -> Result<(), Failure> {
        let first = start + sink.len();
        let is_rest = end == self.size;
        let range = Range { first, end: (!is_rest).then_some(end) };
        let range = (first > 0 || !is_rest || self.size >= RANGED_LEN).then_some(range);
        let answer = self.client.get(self.url, range, self.subject, self.halt)?;
        let again = |why: String| Failure::again(self.url, why);
        let mut up_to = end;
        match answer.status().as_u16() {
            206 => match range_of(&answer) {
                Some((from, len)) if from == first && len.is_none_or(|len| len == self.size) => {}
                Some((from, Some(len))) if from == first => return Err(self.of_length(Some(len), faults)),
                _ => return Err(again("the server sent another range than was asked for".to_owned())),
            },
            416 => {
                faults.refusals += 1;
                if let Some(len) = refused_len(&answer).filter(|len| *len != self.size) {
                    sink.empty()?;
                    return Err(self.of_length(Some(len), faults));
                }
                let why = "the server refused the range (HTTP status 416)".to_owned();
                if start > 0 || faults.refusals > 1 {
                    return Err(HubError::Answer { url: super::http::bare(self.url), why }.into());
                }
                sink.empty()?;
                return Err(again(why));
            }
            // All comes, from the first byte on.
            _ => {
                if let Some(len) = content_len(&answer).filter(|len| *len != self.size) {
                    return Err(self.of_length(Some(len), faults));
                }
                up_to = most;
                if start > 0 {
                    return Err(again("the server sent the whole file, not the range asked for".to_owned()));
                }
                if sink.len() > 0 {
                    faults.restarts += 1;
                    if faults.restarts > MAX_RESTARTS {
                        let why =
                            format!("it broke off {MAX_RESTARTS} times and does not go on where it ended");
                        return Err(HubError::Answer { url: super::http::bare(self.url), why }.into());
                    }
                    sink.empty()?;
                }
            }
        }
        // An answer to a range has no more than that.
        let ends = answer.status().as_u16() == 206 || up_to == self.size;
        self.read(answer, start, up_to, sink, ends)
    }

    /// Reads an answer into the sink. `ends`: it has no more than is wanted.
    fn read(
        &self,
        answer: Response<Body>,
        start: u64,
        end: u64,
        sink: &mut dyn Sink,
        ends: bool,
    ) -> Result<(), Failure> {
        let again = |why: String| Failure::again(self.url, why);
        let mut body = answer.into_body().into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; BUFFER_LEN];
        loop {
            if self.halt.is_asked() {
                return Err(Error::Interrupted { kept: true }.into());
            }
            let left = end.saturating_sub(start + sink.len());
            if left == 0 && !ends {
                return Ok(());
            }
            // Once more behind the last byte: only an answer read to its end gives its connection back.
            let len = match body.read(&mut buffer) {
                Err(_) if left == 0 => return Ok(()),
                read => read.map_err(|error| again(error.to_string()))?,
            };
            if left == 0 {
                return Ok(());
            }
            if len == 0 {
                let got = counted(end - start, "byte");
                return Err(again(format!("the answer ended after {} of {got}", sink.len())));
            }
            // More than was listed is not kept; the digest decides about the rest.
            let wanted = usize::try_from(left).unwrap_or(len).min(len);
            sink.put(buffer.get(..wanted).unwrap_or_default())?;
        }
    }

    /// The file has another length than its listing says: worth one more attempt.
    fn of_length(&self, found: Option<u64>, faults: &mut Faults) -> Failure {
        faults.lengths += 1;
        let file = self.subject.file.unwrap_or_default().to_owned();
        let error = HubError::WrongLength { file, listed: self.size, found };
        if faults.lengths > 1 {
            return error.into();
        }
        Failure::again(self.url, error.to_string())
    }
}

/// First byte and whole length of `Content-Range: bytes FIRST-LAST/LENGTH`; the length may be `*`.
fn range_of(answer: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let (range, len) = content_range(answer)?.split_once('/')?;
    let len = if len == "*" { None } else { Some(len.parse().ok()?) };
    Some((range.split_once('-')?.0.parse().ok()?, len))
}

/// The length in `Content-Range: bytes */LENGTH`.
fn refused_len(answer: &Response<Body>) -> Option<u64> {
    content_range(answer)?.strip_prefix("*/")?.parse().ok()
}

fn content_range(answer: &Response<Body>) -> Option<&str> {
    answer.headers().get("content-range")?.to_str().ok()?.trim().strip_prefix("bytes ").map(str::trim)
}

fn content_len(answer: &Response<Body>) -> Option<u64> {
    answer.headers().get("content-length")?.to_str().ok()?.trim().parse().ok()
}
