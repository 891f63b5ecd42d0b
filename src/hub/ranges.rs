//! A large file through several requests at once: one connection brings less than a network has.
//!
//! Each request is for a piece. Pieces wait in memory until those before them are written, so the unfinished file
//! stays the begin of the content, and its digest is computed as it grows. What waits is bounded: no piece is asked
//! for that lies more than twice the number of requests behind the one that is written next.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::patience::TICK;
use super::transfer::{Sink, Transfer};
use crate::error::{Error, Result};
use crate::threads;

/// Length of a piece: some round trips of a far server are then little beside it.
const PIECE_LEN: u64 = 4 << 20;

/// Shorter rests are fetched by one request.
const LEAST_LEN: u64 = 4 * PIECE_LEN;

/// Fetches all that the sink lacks of a file, by as many requests at once as may be.
///
/// # Errors
/// As [`Transfer::fetch`].
pub(super) fn fetch(transfer: &Transfer<'_>, sink: &mut dyn Sink, at_once: usize) -> Result<()> {
    let size = transfer.size;
    if at_once < 2 || size.saturating_sub(sink.len()) < LEAST_LEN {
        return transfer.fetch(0, size, sink);
    }
    // The first piece by itself: a server that knows no ranges then sends all, from the first byte.
    transfer.begin(sink.len() + PIECE_LEN, sink)?;
    if size.saturating_sub(sink.len()) < LEAST_LEN {
        return transfer.fetch(0, size, sink);
    }
    let start = sink.len();
    let pieces = usize::try_from((size - start).div_ceil(PIECE_LEN)).unwrap_or(usize::MAX);
    let shared = Shared { state: Mutex::new(State::default()), changed: Condvar::new() };
    std::thread::scope(|scope| {
        let begin = |_: &usize| threads::also(scope, || shared.work(transfer, (start, pieces), 2 * at_once));
        if (0..at_once).take_while(begin).count() == 0 {
            return transfer.fetch(0, size, sink);
        }
        shared.write(transfer, sink, pieces).inspect_err(|_| transfer.halt.fail())
    })
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Number of the piece that is asked for next.
    asked: usize,
    /// Pieces that are written.
    written: usize,
    /// Those that wait to be written.
    here: BTreeMap<usize, Vec<u8>>,
    error: Option<Error>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Fetches one piece after the other.
    fn work(&self, transfer: &Transfer<'_>, (start, pieces): (u64, usize), ahead: usize) {
        while let Some(number) = self.next(transfer, pieces, ahead) {
            let from = start + number as u64 * PIECE_LEN;
            let to = transfer.size.min(from + PIECE_LEN);
            let mut piece = Vec::with_capacity(PIECE_LEN as usize);
            let outcome = transfer.fetch(from, to, &mut piece);
            let mut state = self.lock();
            match outcome {
                Ok(()) => drop(state.here.insert(number, piece)),
                Err(error) => drop(state.error.get_or_insert(error)),
            }
            self.changed.notify_all();
        }
    }

    /// The next piece, when it may be asked for; `None` when there is none, or the work is over.
    fn next(&self, transfer: &Transfer<'_>, pieces: usize, ahead: usize) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if transfer.halt.is_asked() || state.error.is_some() || state.asked == pieces {
                return None;
            }
            if state.asked < state.written + ahead {
                state.asked += 1;
                return Some(state.asked - 1);
            }
            state = self.wait(state);
        }
    }

    /// Writes the pieces in their order.
    fn write(&self, transfer: &Transfer<'_>, sink: &mut dyn Sink, pieces: usize) -> Result<()> {
        for number in 0..pieces {
            let mut state = self.lock();
            let piece = loop {
                if let Some(piece) = state.here.remove(&number) {
                    break piece;
                }
                if let Some(error) = state.error.take() {
                    return Err(error);
                }
                if transfer.halt.is_asked() {
                    return Err(Error::Interrupted { kept: true });
                }
                state = self.wait(state);
            };
            drop(state);
            sink.put(&piece)?;
            self.lock().written += 1;
            self.changed.notify_all();
        }
        Ok(())
    }
}
