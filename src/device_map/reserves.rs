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

    /// Working memory of both towers for one batch, by arithmetic on their shapes and not by measurement.
    ///
    /// The peak is the first stage of ConvNeXt on the large picture (768 pixels, 1536 in HD): maps of a quarter of
    /// its sides with 192 channels; input, shortcut, and the fourfold width before and behind the activation are
    /// alive together, 2 bytes an element. CLIP adds attention of 577 tokens over 16 heads per tile (5 in HD), once
    /// before and once behind the softmax, the latter at 4 bytes.
    pub fn encoder_activations(is_hd: bool, batch: u64) -> u64 {
        let (side, tiles) = if is_hd { (1536 / 4, 5) } else { (768 / 4, 1) };
        let convnext = (1 + 1 + 4 + 4) * 192 * side * side * 2;
        let clip = tiles * 16 * 577 * 577 * (2 + 4);
        batch.saturating_mul(convnext + clip)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_and_logits_count_text_image_and_batch() {
        // MGM-7B: 524,288 bytes per token over 32 layers.
        let attention = Attention { kv_heads: 32, head_dim: 128, vocab: 32000 };
        let one = Workload { attention, context: 1024, image_tokens: IMAGE_TOKENS_HD, batch: 1 };
        assert_eq!(one.kv_per_layer() * 32, 524_288 * (1024 + 2880));
        assert_eq!(one.logits(), (1024 + 2880) * 32000 * 4);
        let four = Workload { batch: 4, ..one };
        assert_eq!((four.kv_per_layer(), four.logits()), (4 * one.kv_per_layer(), 4 * one.logits()));
        let endless = Workload { context: u64::MAX, ..one };
        assert_eq!(endless.logits(), u64::MAX);
    }

    #[test]
    fn towers_work_in_more_memory_on_larger_pictures() {
        let (plain, hd) = (Workload::encoder_activations(false, 1), Workload::encoder_activations(true, 1));
        assert_eq!(plain, 173_518_944);
        assert!(hd > 4 * plain && hd < 5 * plain);
    }
}
