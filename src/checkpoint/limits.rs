//! How much the metadata of one checkpoint may hold: tensors, and bytes of text, in all its files together.
//!
//! Counted before memory is allocated for it, so that many files that are each within bounds are not too much together.

use crate::error::OverLimit;

/// Most tensors of a checkpoint. The largest models have some 200,000.
pub(crate) const MAX_TENSORS: u64 = 1_000_000;

/// Most bytes of headers, index, pickles and zip directories of a checkpoint, together. 200,000 tensors take 40 MB.
pub(crate) const MAX_TEXT_LEN: u64 = 256 << 20;

/// Bytes of memory that a tensor takes from the header to the manifest, and more than any was seen to take.
pub(crate) const TENSOR_LEN: u64 = 4096;

/// Memory that headers may count on, whatever is allowed: less than the program takes by itself.
const LEAST_MEMORY: u64 = 8 << 20;

/// Bounds for one checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tensors.
    pub tensors: u64,
    /// Most bytes of text that describes them.
    pub text: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { tensors: MAX_TENSORS, text: MAX_TEXT_LEN }
    }
}

impl Limits {
    /// For work that may take `memory` bytes: the tensors whose records fit there, and a quarter of it for text. A small
    /// model is always let through: what it needs in all is then said.
    pub fn within(memory: u64) -> Self {
        let (whole, memory) = (Self::default(), memory.max(LEAST_MEMORY));
        Self { tensors: whole.tensors.min(memory / TENSOR_LEN), text: whole.text.min(memory / 4) }
    }
}

/// What is left of [`Limits`] while the files of one checkpoint are opened.
#[derive(Debug, Clone)]
pub(super) struct Left {
    limits: Limits,
    used: Limits,
}

impl Left {
    pub(super) fn of(limits: Limits) -> Self {
        Self { limits, used: Limits { tensors: 0, text: 0 } }
    }

    /// All that there may be.
    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Counts `len` bytes of text, before they are read.
    pub(super) fn take_text(&mut self, len: u64) -> Result<(), OverLimit> {
        self.used.text = self.used.text.saturating_add(len);
        let limit = self.limits.text;
        if self.used.text > limit {
            Err(OverLimit::Text { limit, is_all: limit == MAX_TEXT_LEN })
        } else {
            Ok(())
        }
    }

    /// Bytes of text that may still come.
    pub(super) fn text(&self) -> u64 {
        self.limits.text.saturating_sub(self.used.text)
    }

    /// Counts one more tensor.
    pub(super) fn take_tensor(&mut self) -> Result<(), OverLimit> {
        self.used.tensors += 1;
        let limit = self.limits.tensors;
        if self.used.tensors > limit {
            Err(OverLimit::Tensors { limit, is_all: limit == MAX_TENSORS })
        } else {
            Ok(())
        }
    }
}
