//! What a device needs beside weights: cache, activations, logits, and room kept on request.
//!
//! Owns the arithmetic from a workload (context, batch, images) to bytes. Source of the formulas: MGM's models
//! keep keys and values in 16 bits per layer and raise the logits of the whole context to 32 bits.

use super::Module;

/// Image tokens that one picture adds to the context in MGM.
pub const IMAGE_TOKENS: u64 = 576;

/// Image tokens that one picture adds in the HD variants: four tiles and the whole picture, 576 each.
pub const IMAGE_TOKENS_HD: u64 = 5 * IMAGE_TOKENS;

/// Bytes kept beside the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserves {
    /// On every accelerator that is used.
    pub per_device: u64,
    /// On the first accelerator in use: towers and embeddings run there.
    pub activations_first: u64,
    /// On the accelerator that holds `lm_head`.
    pub logits: u64,
    /// Key-value cache of one decoder layer, on the accelerator where it runs.
    pub kv_per_layer: u64,
}

/// The numbers of a model that its cache and logits follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Key-value heads per layer.
    pub kv_heads: u64,
    /// Elements per head.
    pub head_dim: u64,
    /// Entries of the vocabulary.
    pub vocab: u64,
}

/// How the model will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The model's numbers.
    pub attention: Attention,
    /// Text tokens, prompt and answer together.
    pub context: u64,
    /// Image tokens that come on top: [`IMAGE_TOKENS`] per picture, or [`IMAGE_TOKENS_HD`].
    pub image_tokens: u64,
    /// Sequences at a time.
    pub batch: u64,
}

impl Workload {
    /// Cache of one layer: keys and values, 2 bytes each. Saturates.
    pub fn kv_per_layer(&self) -> u64 {
        [4, self.attention.kv_heads, self.attention.head_dim, self.tokens()]
            .into_iter()
            .fold(1, u64::saturating_mul)
    }

    /// Logits of all positions at 4 bytes. Saturates.
    pub fn logits(&self) -> u64 {
        [4, self.attention.vocab, self.tokens()].into_iter().fold(1, u64::saturating_mul)
    }

    /// The reserves of this workload, with the given room kept on every device and for activations on the first.
    pub fn reserves(&self, per_device: u64, activations_first: u64) -> Reserves {
        Reserves { per_device, activations_first, logits: self.logits(), kv_per_layer: self.kv_per_layer() }
    }

    fn tokens(&self) -> u64 {
        self.context.saturating_add(self.image_tokens).saturating_mul(self.batch)
    }
}

/// What the caller could have instead; a refusal tries each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alternatives<'a> {
    /// The same modules with the sizes they have in int8.
    pub int8: Option<&'a [Module]>,
    /// The workload that `reserves` came from: lets a refusal look for the largest context that fits.
    pub workload: Option<Workload>,
}
