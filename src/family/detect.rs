//! From a config.json to the family of the checkpoint, and back.
//!
//! Owns the comparison of config.json with the families' shapes. Leaves the shapes themselves to `facts`. A folder's name
//! never counts.

use std::fmt;

use serde_json::Value;

use super::{Family, Shapes, Variant};
use crate::tiny;

/// What a config.json was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detected {
    /// An MGM checkpoint.
    Mgm(Match),
    /// Any other checkpoint: no family facts apply.
    Generic,
}

/// The family a config.json belongs to, and where it departs from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The family.
    pub family: &'static Family,
    /// Plain, or HD where `image_grid` is above 1.
    pub variant: Variant,
    /// Shapes in which the checkpoint differs from the family; empty for the published checkpoints.
    pub differences: Vec<ShapeDifference>,
}

impl Match {
    /// One sentence for the user where shapes differ: which family was taken, and the shapes.
    ///
    /// None for the shapes of mgpack's own [`tiny`] checkpoint, which differ because it is small.
    pub fn notice(&self) -> Option<String> {
        if self.differences.is_empty() || self.is_tiny() {
            return None;
        }
        let list: Vec<String> = self.differences.iter().map(ToString::to_string).collect();
        Some(format!("taken as {}, but its shapes differ: {}", self.family.name, list.join(", ")))
    }

    /// Whether all shapes are those of the tiny checkpoint.
    fn is_tiny(&self) -> bool {
        let config = serde_json::from_str(tiny::CONFIG).unwrap_or_default();
        match Family::detect(&config) {
            Detected::Mgm(tiny) => (tiny.family, &tiny.differences) == (self.family, &self.differences),
            Detected::Generic => false,
        }
    }
}

/// One value of config.json that differs from the family's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeDifference {
    /// The key in config.json.
    pub key: &'static str,
    /// The family's value.
    pub expected: Value,
    /// The checkpoint's value; null where a needed key is missing.
    pub found: Value,
}

impl fmt::Display for ShapeDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (not {})", self.key, self.found, self.expected)
    }
}

impl Family {
    /// Tells the family from a checkpoint's config.json, never from a folder's name.
    ///
    /// `model_type` gives the class; the shapes, all of which must agree, give the family in it. Shapes of no
    /// family lead to the smallest family of the class, with the differences listed: the class decides the
    /// tensor names and the requirements. A key that config.json does not hold disagrees with nothing,
    /// except `hidden_size` and `num_hidden_layers`. An `image_grid` above 1 makes it HD.
    pub fn detect(config: &Value) -> Detected {
        let model_type = config.get("model_type").and_then(Value::as_str);
        let of_class =
            || Family::all().iter().filter(|family| Some(family.model.model_type.as_str()) == model_type);
        let Some(first) = of_class().next() else { return Detected::Generic };

        let family = of_class().find(|family| family.shapes.has_structure_of(config)).unwrap_or(first);
        let grid = config.get("image_grid").and_then(Value::as_u64).unwrap_or(1);
        let variant = if grid > 1 { Variant::Hd } else { Variant::Plain };
        Detected::Mgm(Match { family, variant, differences: family.shapes.differences(config) })
    }

    /// The config.json of one variant, as far as the facts go: enough to build its tree and to detect it.
    pub fn config(&self, variant: Variant) -> Value {
        let mut config = serde_json::Map::new();
        config.insert("architectures".into(), vec![self.model.architecture.clone()].into());
        config.insert("model_type".into(), self.model.model_type.as_str().into());
        config.extend(self.shapes.entries().map(|(key, value)| (key.to_owned(), value)));
        if let Some(published) = self.checkpoint(variant) {
            config.insert("image_grid".into(), published.config.image_grid.get().into());
        }
        config.into()
    }
}

impl Shapes {
    /// True where everything that decides the layers' tensors agrees. Vocabulary, positions and tower widths
    /// may differ: a tokenizer with added words makes no other family.
    fn has_structure_of(&self, config: &Value) -> bool {
        const FREE: [&str; 6] = [
            "vocab_size",
            "max_position_embeddings",
            "mm_hidden_size",
            "mm_hidden_size_aux",
            "mm_projector_type",
            "tie_word_embeddings",
        ];
        self.differences(config).iter().all(|difference| FREE.contains(&difference.key))
    }

    /// Every key in which `config` says something else.
    fn differences(&self, config: &Value) -> Vec<ShapeDifference> {
        let heads = config.get("num_attention_heads");
        let mut found = Vec::new();
        for (key, expected) in self.entries() {
            let value = match key {
                // Absent or null means one key head for each query head, in every class that has the key.
                "num_key_value_heads" => config.get(key).filter(|value| !value.is_null()).or(heads),
                "hidden_size" | "num_hidden_layers" => Some(config.get(key).unwrap_or(&Value::Null)),
                _ => config.get(key),
            };
            if let Some(value) = value.filter(|value| **value != expected) {
                found.push(ShapeDifference { key, expected, found: value.clone() });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn detect(config: Value) -> Match {
        match Family::detect(&config) {
            Detected::Mgm(found) => found,
            Detected::Generic => panic!("generic: {config}"),
        }
    }

    #[test]
    fn each_familys_own_config_is_detected_as_it_without_differences() {
        for family in Family::all() {
            for variant in [Variant::Plain, Variant::Hd] {
                let found = detect(family.config(variant));
                assert_eq!((&found.family.name, found.variant), (&family.name, variant));
                assert_eq!(found.notice(), None);
            }
        }
    }

    #[test]
    fn shapes_of_no_family_go_to_the_first_of_the_class_with_a_notice() {
        let found = detect(json!({ "model_type": "mgm", "hidden_size": 256, "num_hidden_layers": 4,
            "num_attention_heads": 32, "intermediate_size": 11008, "vocab_size": 32000 }));
        assert_eq!(found.family.name.as_str(), "mgm-7b");
        let notice = "taken as mgm-7b, but its shapes differ: hidden_size 256 (not 4096), num_hidden_layers 4 (not 32)";
        assert_eq!(found.notice().unwrap(), notice);
    }

    #[test]
    fn a_larger_vocabulary_stays_in_the_family_with_a_notice() {
        let mut config = Family::by_alias("13b").unwrap().0.config(Variant::Plain);
        config["vocab_size"] = 32003.into();
        let found = detect(config);
        assert_eq!(found.family.name.as_str(), "mgm-13b");
        assert_eq!(
            found.notice().unwrap(),
            "taken as mgm-13b, but its shapes differ: vocab_size 32003 (not 32000)"
        );
    }

    #[test]
    fn a_missing_kv_head_count_means_one_for_each_head() {
        let mut config = Family::by_alias("7b").unwrap().0.config(Variant::Plain);
        config.as_object_mut().unwrap().remove("num_key_value_heads");
        assert_eq!(detect(config).notice(), None);
        let mut config = Family::by_alias("34b").unwrap().0.config(Variant::Plain);
        config["num_key_value_heads"] = Value::Null;
        assert_eq!(detect(config).family.name.as_str(), "mgm-7b", "34B has 8, not 56");
    }

    #[test]
    fn a_config_without_shapes_says_which_are_missing() {
        let found = detect(json!({ "model_type": "mgm_gemma" }));
        assert_eq!(found.family.name.as_str(), "mgm-2b");
        let keys: Vec<_> = found.differences.iter().map(|difference| difference.key).collect();
        assert_eq!(keys, ["hidden_size", "num_hidden_layers"]);
    }

    #[test]
    fn anything_else_is_generic() {
        for config in
            [json!({ "model_type": "llama" }), json!({ "model_type": "mgm_mistral" }), json!({}), json!([1])]
        {
            assert_eq!(Family::detect(&config), Detected::Generic, "{config}");
        }
    }
}
