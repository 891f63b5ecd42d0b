//! What a device works in while the model reads a prompt: bytes beside weights and cache, at their peak.
//!
//! Owns the closed forms for decoder layers, the head and MGM's encoders. Each adds up the tensors that live at one
//! time in the classes that run a bundle, two bytes an element unless it says otherwise, and is held against bytes
//! that were counted in those classes (tests/data/device_map/memory). Leaves cache and placing to the files beside it.
//! Carries out formats/bundle.md, "Working memory".

use std::fmt;

use serde::{Deserialize, Serialize};

use super::decoder::{Classes, Decoder};

/// How the scores of attention are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Attention {
    /// All scores at once, which grow with the square of the prompt: torch before 2.1.1
    Eager,
    /// Fused kernels, which keep no scores: torch 2.1.1 or later
    Sdpa,
}

impl Attention {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Eager, Self::Sdpa];

    /// What transformers selects with a version of torch: `sdpa` from 2.1.1 on, and where the version is open.
    pub fn selected_by(torch: &str) -> Self {
        // Of `2.1.1+cu121` and `2.2.0a0` the numbers count.
        let mut parts = torch.split(|sign: char| !sign.is_ascii_digit()).map(|part| part.parse::<u32>());
        let mut next = || parts.next().and_then(Result::ok);
        match next() {
            Some(major) if (major, next().unwrap_or(0), next().unwrap_or(0)) < (2, 1, 1) => Self::Eager,
            _ => Self::Sdpa,
        }
    }
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eager => "eager",
            Self::Sdpa => "sdpa",
        })
    }
}

/// Sequences that are read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// How many.
    pub batch: u64,
    /// Tokens of the longest.
    pub tokens: u64,
    /// How they are read.
    pub attention: Attention,
}

impl Prompt {
    fn rows(&self) -> u64 {
        self.batch.saturating_mul(self.tokens)
    }

    /// Places of one head's scores.
    fn scores(&self) -> u64 {
        self.rows().saturating_mul(self.tokens)
    }
}

impl Decoder {
    /// A device that holds decoder layers, the embedding elsewhere.
    pub fn layer(&self, prompt: &Prompt) -> u64 {
        let (attention, feed_forward) = (self.attention_half(prompt), self.feed_forward_half(prompt));
        let layer = match self.classes {
            Classes::Other => attention.saturating_add(feed_forward),
            Classes::Mgm | Classes::Counted => attention.max(feed_forward),
        };
        with_margin(layer.saturating_add(self.mask(prompt)))
    }

    /// What comes on top of a layer's on the device of the embedding: the embedded prompt, kept until the end.
    pub fn embedded(&self, prompt: &Prompt) -> u64 {
        with_margin(product([2, prompt.rows(), self.hidden]))
    }

    /// The device of the embedding alone: the embedded prompt, a scaled copy, and the mask while it is made.
    pub fn entry(&self, prompt: &Prompt) -> u64 {
        let mask = if self.is_masked(prompt) { product([10, prompt.scores()]) } else { 0 };
        with_margin(product([4, prompt.rows(), self.hidden]).saturating_add(mask))
    }

    /// The device of the head: its input before and behind the norm, and the logits of every position.
    pub fn head(&self, prompt: &Prompt) -> u64 {
        let logit = match self.classes {
            Classes::Mgm | Classes::Other => 2 + 4,
            Classes::Counted => 2,
        };
        let norm = product([4, prompt.rows(), self.hidden]);
        with_margin(norm.saturating_add(product([logit, prompt.rows(), self.vocab])))
    }

    /// What each layer keeps once it has run, beside its cache: bitsandbytes keeps the columns of every int8 weight that
    /// met outlying values, in 16 bits. A thousandth of the columns is assumed.
    pub fn kept(&self) -> u64 {
        if !self.is_int8 {
            return 0;
        }
        let columns = |from: u64, to: u64| product([2, from.div_ceil(1000), to]);
        let queries = self.heads.saturating_mul(self.head_dim);
        let keys = self.kv_heads.saturating_mul(self.head_dim).saturating_mul(2);
        let attention =
            columns(self.hidden, queries.saturating_add(keys)).saturating_add(columns(queries, self.hidden));
        let wide = self.intermediate.saturating_mul(2);
        let expert = columns(self.hidden, wide).saturating_add(columns(self.intermediate, self.hidden));
        attention.saturating_add(product([self.experts_in_all, expert]))
    }

    fn is_masked(&self, prompt: &Prompt) -> bool {
        prompt.attention == Attention::Eager || prompt.batch > 1 || prompt.tokens >= self.masked_from
    }

    fn mask(&self, prompt: &Prompt) -> u64 {
        let place = match (self.classes, prompt.attention) {
            (Classes::Mgm, _) | (_, Attention::Eager) => 2,
            // One of bools, and in each layer one of numbers.
            (Classes::Counted | Classes::Other, Attention::Sdpa) => 1 + 2,
        };
        if self.is_masked(prompt) { product([place, prompt.scores()]) } else { 0 }
    }

    /// Norm and attention. Alive throughout: the layer's input, and that behind the norm.
    fn attention_half(&self, prompt: &Prompt) -> u64 {
        let rows = prompt.rows();
        let queries = self.heads.saturating_mul(self.head_dim);
        let keys = self.kv_heads.saturating_mul(self.head_dim);
        let repeated = if self.heads > self.kv_heads { queries.saturating_mul(2) } else { 0 };
        let held = sum([product([2, self.hidden]), queries, repeated]);
        // Scores, the same at four bytes before softmax, and behind it.
        let scores = match prompt.attention {
            Attention::Eager => product([2 + 4 + 4, self.heads, prompt.scores()]),
            Attention::Sdpa => product([rows, sum([product([2, queries]), product([4, self.heads])])]),
        };
        let float = sum([product([2, rows, held]), self.rotary(rows), scores]);
        if !self.is_int8 {
            return float;
        }
        let inputs = product([2, rows, sum([product([2, self.hidden]), queries, repeated, queries])]);
        let pairs = [
            (product([4, rows, self.hidden]), self.hidden, queries),
            (product([2, rows, sum([product([2, self.hidden]), queries, keys])]), self.hidden, keys),
            (inputs, queries, self.hidden),
        ];
        pairs.iter().map(|&(held, from, to)| held.saturating_add(int8(rows, from, to))).fold(float, u64::max)
    }

    /// Norm and feed-forward: three tensors of the inner width, beside what a layer and its experts hold.
    fn feed_forward_half(&self, prompt: &Prompt) -> u64 {
        let rows = prompt.rows();
        // transformers 5 keeps the scores of a layer until its end.
        let kept = match (self.classes, prompt.attention) {
            (Classes::Counted | Classes::Other, Attention::Eager) => {
                product([2, self.heads, prompt.scores()])
            }
            _ => 0,
        };
        let (outer, inner) = match (self.classes, self.experts) {
            (_, None) => (3, product([3, self.intermediate])),
            // One expert after the other; a router can send every token to it.
            (Classes::Mgm, Some(_)) => (6, product([3, self.intermediate])),
            // All at once, a row for each expert that a token goes through.
            (Classes::Counted | Classes::Other, Some(each)) => {
                (4, product([each, sum([product([4, self.hidden]), product([3, self.intermediate])])]))
            }
        };
        let held = product([2, rows, outer, self.hidden]);
        let float = sum([held, product([2, rows, inner]), self.rotary(rows), kept]);
        if !self.is_int8 {
            return float;
        }
        // While the second of the two wide products is made, the first lies beside it.
        let first = product([2, rows, self.intermediate]);
        float.max(sum([held, first, int8(rows, self.hidden, self.intermediate), kept]))
    }

    /// Sines and cosines of the whole prompt, which transformers 5 hands from layer to layer.
    fn rotary(&self, rows: u64) -> u64 {
        match self.classes {
            Classes::Mgm => 0,
            Classes::Counted | Classes::Other => product([4, rows, self.head_dim]),
        }
    }
}

/// One int8 product in bitsandbytes 0.41.0, its input apart: the codes of the input by row, by column and tiled; the
/// output at 4 bytes, at 2, the product of the outlying columns, and the copy that is returned (made when that product
/// is gone); and the weight laid out anew, in the first call.
fn int8(rows: u64, from: u64, to: u64) -> u64 {
    let output = 4 + 2 + 2;
    sum([product([3, rows, from]), product([output, rows, to]), product([from, to])])
}

/// MGM's two encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoders {
    /// Whether pictures come in four tiles and as a whole.
    pub is_hd: bool,
}

impl Encoders {
    /// Bytes while `batch` pictures are encoded.
    ///
    /// The peak is not in a tower but behind both: the maps of the auxiliary one (2,880 channels, a quarter of the
    /// picture's sides) lie there as they came, in the order of patches and behind a norm, beside two projections of
    /// them to 1,024. In HD those of the whole picture, half as wide and high, lie beside them.
    pub fn peak(&self, batch: u64) -> u64 {
        const CHANNELS: u64 = 2880;
        const WIDTH: u64 = 1024;
        let (side, tiles) = if self.is_hd { (1536, 5) } else { (768, 1) };
        let places = (side / 4) * (side / 4);
        let whole = if self.is_hd { 2 * (places / 4) * CHANNELS } else { 0 };
        let pictures = 2 * 3 * (side * side + tiles * 336 * 336);
        with_margin(batch.saturating_mul(2 * places * (3 * CHANNELS + 2 * WIDTH) + whole + pictures))
    }
}

/// A thirty-second more: what the forms leave out (statistics of rows, indices, outlying columns).
fn with_margin(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 32)
}

fn product<const N: usize>(factors: [u64; N]) -> u64 {
    factors.into_iter().fold(1, u64::saturating_mul)
}

fn sum<const N: usize>(terms: [u64; N]) -> u64 {
    terms.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torch_selects_sdpa_from_2_1_1_on() {
        for (torch, expected) in [
            ("2.0.1", Attention::Eager),
            ("2.1.0", Attention::Eager),
            ("2.1", Attention::Eager),
            ("1.13.1", Attention::Eager),
            ("2.1.1", Attention::Sdpa),
            ("2.5.1", Attention::Sdpa),
            // Once, what is behind the number made it 2.1.0.
            ("2.1.1+cu121", Attention::Sdpa),
            ("2.1.0+cu121", Attention::Eager),
            ("3", Attention::Sdpa),
        ] {
            assert_eq!(Attention::selected_by(torch), expected, "{torch}");
        }
    }

    #[test]
    fn numbers_beyond_any_model_saturate() {
        let all = u64::MAX;
        let decoder = Decoder {
            classes: Classes::Other,
            hidden: all,
            heads: all,
            kv_heads: 1,
            head_dim: all,
            intermediate: all,
            experts: Some(all),
            experts_in_all: all,
            vocab: all,
            cache_bytes_per_token: all.saturating_mul(2),
            masked_from: 0,
            is_int8: true,
            has_sdpa: true,
        };
        let prompt = Prompt { batch: all, tokens: all, attention: Attention::Eager };
        assert_eq!((decoder.layer(&prompt), decoder.head(&prompt)), (all, all));
    }
}
