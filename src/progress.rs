//! What long work reports while it runs, and how it is asked to stop. Nothing here prints.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::structure::Role;

/// A part of the work that has a length of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Bytes fetched from the hub.
    Download,
    /// Bytes fetched from the hub and bytes written, where a conversion does both at once.
    Stream,
    /// Bytes of the checkpoint's weights hashed, where their digests were asked for.
    Sources,
    /// Tensors read, transformed, hashed and written.
    Tensors,
    /// Towers, tokenizer and other files copied and hashed.
    Files,
    /// Bytes read again and compared with the seal.
    Verify,
    /// Bytes written into a release.
    Release,
    /// Bytes of a checkpoint compared with what a bundle has of them.
    Compare,
    /// The tensors of one part of a model brought onto their device.
    Load(Role),
}

impl Stage {
    /// One word for a bar.
    pub fn label(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Stage::Download => "download",
            Stage::Stream => "stream",
            Stage::Sources => "hash",
            Stage::Tensors => "convert",
            Stage::Files => "copy",
            Stage::Verify => "verify",
            Stage::Release => "release",
            Stage::Compare => "compare",
            Stage::Load(role) => return role.stage_name(),
        })
    }
}

/// Takes the events of long work. Called from many threads.
pub trait Progress: Sync {
    /// A stage of `total` bytes begins; the one before is over.
    fn begin(&self, stage: Stage, total: u64);
    /// `bytes` more are done.
    fn advance(&self, bytes: u64);
    /// The last stage is over.
    fn finish(&self);
    /// Something that the user should know and that does not stop the work: one sentence.
    fn note(&self, _text: &str) {}
    /// What long work is about to do: one line.
    fn announce(&self, _text: &str) {}
}

/// Reports to nobody.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: Stage, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}

/// A request to stop, seen by all threads within one batch of work.
#[derive(Debug, Default)]
pub struct Stop {
    requested: AtomicBool,
    attended: AtomicUsize,
}

/// Held by work that looks at its [`Stop`] and would leave something half-made if its process ended instead.
#[derive(Debug)]
pub struct Attended<'a>(&'a Stop);

impl Drop for Attended<'_> {
    fn drop(&mut self) {
        self.0.attended.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stop {
    /// Nothing asked yet.
    pub const fn new() -> Self {
        Self { requested: AtomicBool::new(false), attended: AtomicUsize::new(0) }
    }

    /// Asks all work to stop. Safe in a signal handler's thread.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }

    /// True once asked.
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// Says that work begins which looks at this until the result is dropped. Where there is none, whoever asks for a
    /// stop may end the process.
    pub fn attend(&self) -> Attended<'_> {
        self.attended.fetch_add(1, Ordering::Relaxed);
        Attended(self)
    }

    /// True while there is such work.
    pub fn is_attended(&self) -> bool {
        self.attended.load(Ordering::Relaxed) > 0
    }
}
