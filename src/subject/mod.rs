//! What a model is, as far as its config.json says: one of MGM's families, an architecture that transformers has, or
//! neither. Made once by [`Subject::of`] and passed along; nothing else asks config.json.
//!
//! `architecture` is what transformers' class makes of a checkpoint, `classes` which class loads it, `quirks` what that
//! class does with quantized weights. Names of tensors are judged by `structure`.

mod architecture;
mod classes;
mod quirks;

use std::borrow::Cow;

use serde_json::Value;

pub use architecture::{Architecture, Made};
pub use classes::{
    Class, Loader, NoClass, PROCESSOR_FILES, TOKENIZER_FILES, class_of, loader_of, pinned,
    transformers_version,
};
pub(crate) use quirks::{ROUTERS, TIED_HEADS, is_fused_experts, is_single_expert, not_for_bitsandbytes};

use crate::config;
use crate::family::{Detected, Family, Match};
use crate::structure;

/// A model with what is known of it.
#[derive(Clone, Debug)]
pub struct Subject {
    config: Value,
    known: Known,
}

/// What is known.
#[derive(Clone, Debug)]
pub enum Known {
    /// One of MGM's families.
    Mgm(Match),
    /// A model type of transformers.
    Architecture(&'static Architecture),
    /// Nothing but names and shapes of its tensors.
    Nothing,
}

impl Subject {
    /// That of a config.json, null where there is none.
    pub fn of(config: Value) -> Self {
        let known = match Family::detect(&config) {
            Detected::Mgm(found) => Known::Mgm(found),
            Detected::Generic => config::model_type(&config)
                .and_then(Architecture::of)
                .map_or(Known::Nothing, Known::Architecture),
        };
        Self { config, known }
    }

    /// Its config.json, null where there is none.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// What is known.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// The family and variant of an MGM model; any other is generic.
    pub fn mgm(&self) -> Option<&Match> {
        match &self.known {
            Known::Mgm(found) => Some(found),
            Known::Architecture(_) | Known::Nothing => None,
        }
    }

    /// The family of an MGM model.
    pub fn family(&self) -> Option<&'static Family> {
        self.mgm().map(|found| found.family)
    }

    fn architecture(&self) -> Option<&'static Architecture> {
        match self.known {
            Known::Architecture(architecture) => Some(architecture),
            Known::Mgm(_) | Known::Nothing => None,
        }
    }

    /// The name that `name`, of a tensor or module of a checkpoint, has in the class that loads it.
    pub fn name_in_class<'a>(&self, name: &'a str) -> Cow<'a, str> {
        self.architecture().map_or(Cow::Borrowed(name), |architecture| architecture.name_in_class(name))
    }

    /// The key in a device map that a tensor of a checkpoint falls under: a module of the class that loads it.
    pub fn key_of(&self, tensor: &str) -> String {
        key_of(self.architecture(), tensor)
    }

    /// Whether the head shares the weight of the embedding: as config.json says, and else as its class does.
    pub fn ties_head(&self) -> bool {
        let of_class = || match &self.known {
            Known::Mgm(found) => found.family.shapes.tie_word_embeddings,
            Known::Architecture(architecture) => architecture.ties(),
            Known::Nothing => false,
        };
        config::ties_head(&self.config).unwrap_or_else(of_class)
    }

    /// The part of config.json that describes the text.
    pub fn text(&self) -> &Value {
        self.architecture().map_or_else(|| config::text(&self.config), |it| it.text(&self.config))
    }

    /// A number of the text's configuration, by the key that most models have for it.
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.architecture() {
            Some(architecture) => architecture.number(self.text(), key),
            None => self.text().get(key).and_then(Value::as_u64),
        }
    }

    /// Whether the decoder layer of that index keeps keys and values of every token: those of linear attention,
    /// convolution or a state space do not. Where config.json does not say what its layers are, each does.
    pub fn caches(&self, layer: u32) -> bool {
        let text = self.text();
        let at = usize::try_from(layer).unwrap_or(usize::MAX);
        let number = |key: &str| text.get(key).and_then(Value::as_u64).filter(|number| *number > 0);
        let lists = ["layer_types", "layers_block_type", "block_types"];
        if let Some(kinds) = lists.iter().find_map(|key| text.get(key)?.as_array()) {
            // `block_types` of RecurrentGemma is repeated.
            let kind = kinds.get(at % kinds.len().max(1)).and_then(Value::as_str);
            return kind.is_none_or(|kind| {
                kind == "hybrid" || kind.contains("attention") && !kind.contains("linear")
            });
        }
        if let Some(pattern) = text.get("hybrid_override_pattern").and_then(Value::as_str) {
            return pattern.as_bytes().get(at).is_none_or(|kind| *kind == b'*');
        }
        if let Some(interval) = number("full_attention_interval") {
            return (u64::from(layer) + 1) % interval == 0;
        }
        number("attn_layer_period").is_none_or(|period| {
            u64::from(layer) % period == text.get("attn_layer_offset").and_then(Value::as_u64).unwrap_or(0)
        })
    }

    /// Whether it has a decoder beside an encoder.
    pub fn is_encoder_decoder(&self) -> bool {
        self.config.get("is_encoder_decoder").and_then(Value::as_bool).unwrap_or(false)
    }

    fn is_one_of(&self, model_types: &[&str]) -> bool {
        config::model_type(&self.config).is_some_and(|of| model_types.contains(&of))
    }
}

/// The key in a device map that a tensor of a checkpoint falls under, by the architecture of the class that loads it.
pub(crate) fn key_of(architecture: Option<&Architecture>, tensor: &str) -> String {
    let unit = structure::unit_of(tensor);
    let Some(architecture) = architecture else { return unit.to_owned() };
    match architecture.name_in_class(tensor) {
        Cow::Owned(name) => structure::unit_of(&name).to_owned(),
        Cow::Borrowed(_) => architecture.unit_in_class(unit).unwrap_or_else(|| unit.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::family::Variant;

    #[test]
    fn a_model_is_of_a_family_or_of_an_architecture_or_unknown() {
        let mgm = Family::by_alias("7b").unwrap().0.config(Variant::Plain);
        assert_eq!(Subject::of(mgm).family().unwrap().name.as_str(), "mgm-7b");
        for (config, is_known) in [
            (json!({"model_type": "llama"}), true),
            (json!({"model_type": "mine"}), false),
            (Value::Null, false),
        ] {
            let subject = Subject::of(config);
            assert!(subject.mgm().is_none());
            assert_eq!(matches!(subject.known(), Known::Architecture(_)), is_known, "{subject:?}");
        }
    }

    #[test]
    fn a_head_is_tied_as_config_json_says_and_else_as_its_class_does() {
        for (config, tied) in [
            (json!({"model_type": "gemma"}), true),
            (json!({"model_type": "gemma", "tie_word_embeddings": false}), false),
            (json!({"model_type": "llama"}), false),
            (json!({"model_type": "llama", "tie_word_embeddings": true}), true),
            (json!({"model_type": "mine"}), false),
            (Family::by_alias("2b").unwrap().0.config(Variant::Plain), true),
        ] {
            assert_eq!(Subject::of(config.clone()).ties_head(), tied, "{config}");
        }
    }

    #[test]
    fn numbers_of_the_text_are_found_whatever_they_are_called() {
        let gpt2 = Subject::of(json!({"model_type": "gpt2", "n_head": 3}));
        assert_eq!(gpt2.number("num_attention_heads"), Some(3));
        let nested = json!({"model_type": "mine", "llm_config": {"num_attention_heads": 5}});
        assert_eq!(Subject::of(nested).number("num_attention_heads"), Some(5));
    }

    #[test]
    fn layers_without_attention_keep_no_cache_however_config_json_says_so() {
        let kept = |config: Value| {
            (0..6).filter(|&layer| Subject::of(config.clone()).caches(layer)).collect::<Vec<_>>()
        };
        assert_eq!(kept(json!({})), [0, 1, 2, 3, 4, 5]);
        let types =
            ["linear_attention", "full_attention", "conv", "sliding_attention", "mamba", "chunked_attention"];
        assert_eq!(kept(json!({"text_config": {"layer_types": types}})), [1, 3, 5]);
        assert_eq!(kept(json!({"block_types": ["recurrent", "recurrent", "attention"]})), [2, 5]);
        assert_eq!(
            kept(json!({"layers_block_type": ["mamba", "hybrid", "mamba", "mamba", "mamba", "hybrid"]})),
            [1, 5]
        );
        assert_eq!(kept(json!({"hybrid_override_pattern": "M-M*-M"})), [3]);
        assert_eq!(kept(json!({"full_attention_interval": 4})), [3]);
        assert_eq!(kept(json!({"attn_layer_period": 4, "attn_layer_offset": 1})), [1, 5]);
        assert_eq!(kept(json!({"full_attention_interval": 0, "layer_types": []})), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn tensors_fall_under_the_keys_that_loaders_have() {
        let subject = Subject::of(json!({"model_type": "qwen2_vl"}));
        for (tensor, key) in [
            ("model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0"),
            ("visual.blocks.3.attn.qkv.weight", "model.visual"),
            ("lm_head.weight", "lm_head"),
        ] {
            assert_eq!(subject.key_of(tensor), key);
        }
        // The class makes three of it.
        let kimi = Subject::of(json!({"model_type": "kimi_k25"}));
        assert_eq!(kimi.key_of("vision_tower.encoder.blocks.3.wqkv.weight"), "model.vision_tower");
        assert_eq!(
            kimi.key_of("language_model.model.layers.1.mlp.experts.7.up_proj.weight"),
            "model.language_model.layers.1"
        );
    }
}
