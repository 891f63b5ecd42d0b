//! The numbers of a decoder that its cache and working memory follow from.
//!
//! Leaves what is made of them to `working`, and where config.json has them to `subject`. Carries out formats/bundle.md, "Working memory".

use serde_json::Value;

use super::TreeKind;
use crate::subject::Subject;

/// Whose classes run the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classes {
    /// MGM's, over transformers 4.36 to 4.39: keys and values are repeated for every head, logits raised to 32 bits.
    Mgm,
    /// Those of transformers 5 that were counted.
    Counted,
    /// Another class of transformers 5: a bound, not a count.
    Other,
}

/// The numbers of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoder {
    /// Whose classes run it.
    pub classes: Classes,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Attention heads.
    pub heads: u64,
    /// Key-value heads.
    pub kv_heads: u64,
    /// Elements per head.
    pub head_dim: u64,
    /// Width inside the feed-forward half, of one expert where there are experts.
    pub intermediate: u64,
    /// Experts that a token goes through; `None` without experts.
    pub experts: Option<u64>,
    /// Experts of a layer: 1 without.
    pub experts_in_all: u64,
    /// Entries of the vocabulary.
    pub vocab: u64,
    /// Bytes that a layer caches for each token: 16 bits an element.
    pub cache_bytes_per_token: u64,
    /// Prompts of this many tokens and more need a mask whatever the attention: 0 for classes that always make one.
    pub masked_from: u64,
    /// Whether its linear layers are int8.
    pub is_int8: bool,
    /// Whether its class has sdpa at all: Mixtral in transformers 4.36.2 has not.
    pub has_sdpa: bool,
}

impl Decoder {
    /// That of a model; `None` where neither config.json nor its class has the heads and the vocabulary.
    pub fn of(subject: &Subject, is_int8: bool) -> Option<Self> {
        let number = |key: &str| subject.number(key);
        let vocab = number("vocab_size")?;
        let heads = number("num_attention_heads")?;
        let head_dim = number("head_dim").or_else(|| number("hidden_size")?.checked_div(heads))?;
        let hidden = number("hidden_size").unwrap_or_else(|| heads.saturating_mul(head_dim));
        let kv_heads = number("num_key_value_heads").unwrap_or(heads);
        let is_mgm = subject.mgm().is_some();
        let (config, text) = (subject.config(), subject.text());
        let class = config.get("architectures").and_then(|classes| classes.get(0)?.as_str());
        let known = class.and_then(TreeKind::of_class).filter(|_| std::ptr::eq(config, text));
        let classes = match known {
            _ if is_mgm => Classes::Mgm,
            Some(_) => Classes::Counted,
            None => Classes::Other,
        };
        // Multi-head latent attention (DeepSeek, Kimi, GLM): transformers 5 caches the latent of all heads, once.
        let latent = number("kv_lora_rank").zip(number("qk_rope_head_dim"));
        let latent = latent.map(|(latent, rotary)| latent.saturating_add(rotary));
        let cached = latent.unwrap_or_else(|| kv_heads.saturating_mul(head_dim).saturating_mul(2));
        let uses_window = text.get("use_sliding_window") != Some(&Value::Bool(false));
        let masked_from = match (classes, known) {
            (Classes::Other, _) | (Classes::Mgm, Some(TreeKind::Gemma)) => 0,
            (Classes::Counted, _) if uses_window => number("sliding_window").unwrap_or(u64::MAX),
            _ => u64::MAX,
        };
        let experts = number("num_local_experts").map(|_| number("num_experts_per_tok").unwrap_or(2));
        let dense = number("intermediate_size").unwrap_or_else(|| hidden.saturating_mul(4));
        let (intermediate, experts) = match classes {
            Classes::Mgm | Classes::Counted => (dense, experts),
            Classes::Other => {
                let each = number("num_experts_per_tok").unwrap_or(1);
                let shared = number("n_shared_experts").unwrap_or(1);
                let wide = number("moe_intermediate_size").unwrap_or(dense);
                (dense.max(wide.saturating_mul(each.saturating_add(shared))), None)
            }
        };
        Some(Self {
            classes,
            hidden,
            heads,
            kv_heads,
            head_dim,
            intermediate,
            experts,
            experts_in_all: number("num_local_experts").unwrap_or(1),
            vocab,
            cache_bytes_per_token: cached.saturating_mul(2),
            masked_from,
            is_int8,
            has_sdpa: !is_mgm || known != Some(TreeKind::Mixtral),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder(config: Value) -> Decoder {
        Decoder::of(&Subject::of(config), false).unwrap()
    }

    #[test]
    fn latent_attention_caches_one_latent_for_all_heads() {
        // DeepSeek-V3: 512 + 64 elements a token and layer, inside a model with a vision tower or alone.
        let text = serde_json::json!({
            "num_attention_heads": 128, "hidden_size": 7168, "vocab_size": 129280, "kv_lora_rank": 512,
            "qk_rope_head_dim": 64,
        });
        for config in [text.clone(), serde_json::json!({ "text_config": text })] {
            let decoder = decoder(config);
            assert_eq!((decoder.cache_bytes_per_token, decoder.classes), (2 * (512 + 64), Classes::Other));
        }
    }

    #[test]
    fn a_window_that_is_switched_off_needs_no_mask() {
        let config = |window: &str| {
            serde_json::from_str(&format!(
                r#"{{"architectures": ["Qwen2ForCausalLM"], "num_attention_heads": 2, "hidden_size": 8, "vocab_size": 9,
                    "sliding_window": 4096{window}}}"#
            ))
            .unwrap()
        };
        let masked_from = |window| decoder(config(window)).masked_from;
        assert_eq!(masked_from(""), 4096);
        assert_eq!(masked_from(r#", "use_sliding_window": false"#), u64::MAX);
    }
}
