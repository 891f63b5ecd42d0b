//! What transformers' class for a model type makes of a checkpoint, as data.
//!
//! Owns formats/architectures/models.json, which formats/architectures/make_models.py writes by asking the pinned
//! transformers. Carries out formats/bundle.md, "Architectures".

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

use crate::config;
use crate::structure;

/// One model type.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// The class that was asked; `None` where it could not be built.
    pub class: Option<String>,
    /// Why it could not.
    pub unbuilt: Option<String>,
    /// Keys that lead to the configuration of the text; none where it is all of config.json.
    #[serde(default)]
    text: Vec<String>,
    /// Numbers of the text's configuration that have another key there: usual name → key.
    #[serde(default)]
    keys: BTreeMap<String, String>,
    /// Numbers that hold where config.json has none, by their usual names.
    #[serde(default)]
    defaults: BTreeMap<String, u64>,
    /// Whether the head is tied where config.json says nothing.
    ties: bool,
    /// Names in checkpoints and in the class: dotted prefixes, `*` for a number. The first that fits counts.
    #[serde(default)]
    renames: Vec<(String, String)>,
    /// Lists of layers outside towers, by their names in the class.
    #[serde(default)]
    pub layers: Vec<String>,
    /// Models within the model that are not of the text, by their names in the class.
    #[serde(default)]
    pub towers: Vec<String>,
    /// Modules that have no weight of their own where the head is tied.
    #[serde(default)]
    pub tied: Vec<String>,
    /// Words of names that the class keeps in float32.
    #[serde(default)]
    pub float32: Vec<String>,
    /// Names that the class leaves out of a checkpoint, as regular expressions of Python.
    #[serde(default)]
    pub dropped: Vec<String>,
    /// Tensors of the class that are made of several of a checkpoint, or several of one.
    #[serde(default)]
    pub made: Vec<Made>,
}

/// Tensors that the class makes of others when it loads.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// Ends of names in checkpoints.
    pub from: Vec<String>,
    /// Ends of names in the class.
    pub to: Vec<String>,
    /// What transformers does, in order: `MergeModulelist`, `Concatenate`, `Transpose`, …
    pub by: Vec<String>,
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Models {
    #[cfg_attr(not(test), expect(dead_code, reason = "a test holds it against the other file"))]
    transformers: String,
    models: BTreeMap<String, Architecture>,
}

impl Architecture {
    /// That of a model type that transformers maps.
    pub fn of(model_type: &str) -> Option<&'static Self> {
        file().models.get(model_type)
    }

    /// The name in the class of what a checkpoint calls `name`, a tensor or module.
    pub fn name_in_class<'a>(&self, name: &'a str) -> Cow<'a, str> {
        let renamed = self.renames.iter().find_map(|(old, new)| replaced(name, old, new));
        renamed.map_or(Cow::Borrowed(name), Cow::Owned)
    }

    /// The unit in the class of what checkpoints have in `unit`, by the tensors of it that have a rule: one that the class
    /// makes of several has none.
    pub(super) fn unit_in_class(&self, unit: &str) -> Option<String> {
        let is_inside = |old: &str| old.strip_prefix(unit).is_some_and(|rest| rest.starts_with('.'));
        let (_, new) = self.renames.iter().find(|(old, _)| is_inside(old))?;
        Some(structure::unit_of(&format!("{new}.weight")).to_owned())
    }

    /// The configuration of the text within that of the model.
    pub(super) fn text<'a>(&self, config: &'a Value) -> &'a Value {
        let known = if self.text.is_empty() { None } else { config::part(config, &self.text) };
        known.unwrap_or_else(|| config::text(config))
    }

    /// A number of the text's configuration by its usual name. `null` is none, whatever the default.
    pub(super) fn number(&self, text: &Value, name: &str) -> Option<u64> {
        let keys = [Some(name), self.keys.get(name).map(String::as_str)];
        match keys.into_iter().flatten().find_map(|key| text.get(key)) {
            Some(value) => value.as_u64(),
            None => self.defaults.get(name).copied(),
        }
    }

    /// Whether the head is tied where config.json says nothing.
    pub(super) fn ties(&self) -> bool {
        self.ties
    }
}

/// `name` with its beginning `old` replaced by `new`, numbers carried over.
fn replaced(name: &str, old: &str, new: &str) -> Option<String> {
    let mut rest = name;
    let mut numbers = Vec::new();
    for part in old.split('.').filter(|part| !part.is_empty()) {
        let (first, behind) = rest.split_once('.').unwrap_or((rest, ""));
        match part {
            "*" if !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_digit()) => {
                numbers.push(first)
            }
            _ if part == first => {}
            _ => return None,
        }
        rest = behind;
    }
    let mut numbers = numbers.into_iter();
    let begun = new.split('.').filter(|part| !part.is_empty());
    let begun = begun.map(|part| if part == "*" { numbers.next().unwrap_or(part) } else { part });
    let parts: Vec<&str> = begun.chain((!rest.is_empty()).then_some(rest)).collect();
    Some(parts.join("."))
}

fn file() -> &'static Models {
    static FILE: LazyLock<Models> = LazyLock::new(|| {
        match serde_json::from_str(include_str!("../../formats/architectures/models.json")) {
            Ok(models) => models,
            // The file is part of the program, and tests read it.
            Err(error) => unreachable!("the embedded models are wrong: {error}"),
        }
    });
    &FILE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_type_is_read_and_each_was_built_or_says_why_not() {
        let models = &file().models;
        assert!(models.len() > 700, "{}", models.len());
        for (name, model) in models {
            assert!(model.class.is_some() != model.unbuilt.is_some(), "{name}");
        }
        let built = models.values().filter(|model| model.class.is_some()).count();
        assert!(built > 550, "{built}");
    }

    #[test]
    fn both_files_are_of_one_transformers() {
        assert_eq!(file().transformers, crate::subject::transformers_version());
    }

    #[test]
    fn no_rule_of_a_model_hides_another() {
        for (name, model) in &file().models {
            for (old, new) in &model.renames {
                let (old, new) = (old.replace('*', "7"), new.replace('*', "7"));
                assert_eq!(model.name_in_class(&old), new, "{name}: {old}");
            }
        }
    }

    #[test]
    fn modules_get_the_names_of_their_class() {
        for (model_type, old, new) in [
            ("kimi_k25", "language_model.model.layers.1", "model.language_model.layers.1"),
            ("kimi_k25", "language_model.lm_head", "lm_head"),
            (
                "kimi_k25",
                "vision_tower.encoder.blocks.3.norm0.weight",
                "model.vision_tower.layers.3.norm1.weight",
            ),
            ("paddleocr_vl", "model.layers.0", "model.language_model.layers.0"),
            ("paddleocr_vl", "mlp_AR.linear_1", "model.projector.linear_1"),
            ("paddleocr_vl", "lm_head", "lm_head"),
            // A name that the class has already, and one that only begins alike.
            ("paddleocr_vl", "model.language_model.norm", "model.language_model.norm"),
            ("paddleocr_vl", "visuals.x", "visuals.x"),
            ("mixtral", "model.layers.7.block_sparse_moe.gate.weight", "model.layers.7.mlp.gate.weight"),
            ("llama", "model.layers.0", "model.layers.0"),
        ] {
            assert_eq!(Architecture::of(model_type).unwrap().name_in_class(old), new, "{model_type}: {old}");
        }
    }

    #[test]
    fn numbers_are_found_under_their_own_key_and_else_have_its_default() {
        let gpt2 = Architecture::of("gpt2").unwrap();
        let config = serde_json::json!({"n_head": 3, "n_layer": null});
        let number = |name| gpt2.number(&config, name);
        assert_eq!((number("num_attention_heads"), number("num_hidden_layers")), (Some(3), None));
        assert_eq!((number("hidden_size"), number("kv_lora_rank")), (Some(768), None));
    }
}
