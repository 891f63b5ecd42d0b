//! What a device needs beside weights: cache, activations, logits, and room kept on request.
//!
//! Owns the step from a workload (context, batch, images, attention) to bytes. Keys and values are kept in 16 bits
//! per layer. Leaves the forms of working memory to `working`.

use serde::{Deserialize, Serialize};

use super::Module;
use super::decoder::Decoder;
use super::working::{Attention, Encoders, Prompt};
use crate::size::counted;

/// Image tokens that one picture adds to the context in MGM.
pub const IMAGE_TOKENS: u64 = 576;

/// Image tokens that one picture adds in the HD variants: four tiles and the whole picture, 576 each.
pub(crate) const IMAGE_TOKENS_HD: u64 = 5 * IMAGE_TOKENS;

/// Tokens up to which a longest context is looked for where config.json has no positions.
const MOST_CONTEXT: u64 = 1 << 20;

/// Bytes kept beside the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserves {
    /// On every accelerator that is used.
    pub per_device: u64,
    /// What one decoder layer keeps, its key-value cache above all, on the accelerator where it runs.
    pub kv_per_layer: u64,
    /// What runs on an accelerator works in.
    pub working: Working,
}

/// What an accelerator works in, by what it holds. Its parts run one after the other, so it needs the largest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Working {
    /// Towers, projector and embedding: on the first accelerator in use.
    pub home: u64,
    /// Decoder layers.
    pub layers: u64,
    /// On top of decoder layers where they are on the first accelerator: the embedded prompt.
    pub embedded: u64,
    /// The head and its logits.
    pub head: u64,
}

impl Working {
    /// Of an accelerator that is the first in use, holds decoder layers, holds the head.
    pub fn of(&self, is_home: bool, has_layers: bool, has_head: bool) -> u64 {
        let home = if is_home { self.home } else { 0 };
        let embedded = if is_home { self.embedded } else { 0 };
        let layers = if has_layers { self.layers.saturating_add(embedded) } else { 0 };
        let head = if has_head { self.head } else { 0 };
        home.max(layers).max(head)
    }
}

/// How the model will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The model's numbers.
    pub decoder: Decoder,
    /// MGM's encoders; `None` for language models.
    pub encoders: Option<Encoders>,
    /// How attention is computed.
    pub attention: Attention,
    /// Text tokens, prompt and answer together.
    pub context: u64,
    /// Image tokens that come on top: [`IMAGE_TOKENS`] per picture, or `IMAGE_TOKENS_HD`.
    pub image_tokens: u64,
    /// Sequences at a time.
    pub batch: u64,
    /// Positions of the model, image tokens included: no longer prompt is looked for.
    pub positions: Option<u64>,
}

impl Workload {
    /// What one layer keeps: its cache, 2 bytes an element, and [`Decoder::kept`]. Saturates.
    pub fn kv_per_layer(&self) -> u64 {
        let tokens = self.tokens().saturating_mul(self.batch);
        self.decoder.cache_bytes_per_token.saturating_mul(tokens).saturating_add(self.decoder.kept())
    }

    /// The reserves of this workload, with the given room kept on every device. A prompt may take the whole context.
    pub fn reserves(&self, per_device: u64) -> Reserves {
        let prompt = Prompt { batch: self.batch, tokens: self.tokens(), attention: self.attention };
        let encoders = self.encoders.map_or(0, |encoders| encoders.peak(self.batch));
        let working = Working {
            home: encoders.max(self.decoder.entry(&prompt)),
            layers: self.decoder.layer(&prompt),
            embedded: self.decoder.embedded(&prompt),
            head: self.decoder.head(&prompt),
        };
        Reserves { per_device, kv_per_layer: self.kv_per_layer(), working }
    }

    /// The same model with its linear layers in int8.
    pub fn in_int8(self) -> Self {
        Self { decoder: Decoder { is_int8: true, ..self.decoder }, ..self }
    }

    /// The longest context that a longest context is looked for up to.
    pub(super) fn most_context(&self) -> u64 {
        let positions = self.positions.unwrap_or(MOST_CONTEXT);
        positions.saturating_sub(self.image_tokens).max(self.context)
    }

    fn tokens(&self) -> u64 {
        self.context.saturating_add(self.image_tokens)
    }
}

/// The longest contexts that a map holds, in tokens of prompt and answer, images apart. 0: none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongestContext {
    /// With eager attention.
    pub eager: u64,
    /// With sdpa; null where the model's class has none.
    pub sdpa: Option<u64>,
}

impl LongestContext {
    /// In words: what each attention holds.
    pub fn told(&self) -> String {
        let eager = format!("{} with eager attention", counted(self.eager, "token"));
        match self.sdpa {
            Some(sdpa) => format!("{eager}, {sdpa} with sdpa (torch 2.1.1 or later)"),
            None => eager,
        }
    }

    /// That with one of the two.
    pub fn with(&self, attention: Attention) -> Option<u64> {
        match attention {
            Attention::Eager => Some(self.eager),
            Attention::Sdpa => self.sdpa,
        }
    }
}

/// What the caller could have instead; a refusal tries each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alternatives<'a> {
    /// The same modules with the sizes they have in int8; their workload is that of `workload` in int8.
    pub int8: Option<&'a [Module]>,
    /// The workload that `reserves` came from: lets a refusal look for the largest context that fits.
    pub workload: Option<Workload>,
}

#[cfg(test)]
mod tests {
    use super::super::decoder::Classes;
    use super::*;

    #[test]
    fn cache_and_logits_count_text_image_and_batch() {
        // MGM-7B: 524,288 bytes per token over 32 layers.
        let decoder = Decoder {
            classes: Classes::Mgm,
            hidden: 4096,
            heads: 32,
            kv_heads: 32,
            head_dim: 128,
            intermediate: 11008,
            experts: None,
            experts_in_all: 1,
            vocab: 32000,
            cache_bytes_per_token: 4 * 32 * 128,
            masked_from: u64::MAX,
            is_int8: false,
            has_sdpa: true,
        };
        let one = Workload {
            decoder,
            encoders: None,
            attention: Attention::Sdpa,
            context: 1024,
            image_tokens: IMAGE_TOKENS_HD,
            batch: 1,
            positions: None,
        };
        assert_eq!(one.kv_per_layer() * 32, 524_288 * (1024 + 2880));
        let logits = (1024 + 2880) * (32000 * 6 + 4096 * 4);
        assert_eq!(one.reserves(0).working.head, logits + logits / 32);
        let four = Workload { batch: 4, ..one };
        assert_eq!(four.kv_per_layer(), 4 * one.kv_per_layer());
        let endless = Workload { context: u64::MAX, ..one };
        assert_eq!(endless.reserves(0).working.head, u64::MAX);
    }

    #[test]
    fn what_runs_one_after_the_other_shares_its_room() {
        let working = Working { home: 5, layers: 7, embedded: 1, head: 9 };
        assert_eq!(working.of(true, false, false), 5);
        assert_eq!(working.of(true, true, false), 8);
        assert_eq!(working.of(false, true, false), 7);
        assert_eq!(working.of(true, true, true), 9);
        assert_eq!(working.of(false, false, false), 0);
    }
}
