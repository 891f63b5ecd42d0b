//! What a configuration says of how a model is quantized: under which key, by which method, in which groups and blocks.
//!
//! A hint, never a verdict: keys may be stale, or missing.

use serde_json::Value;

/// Files beside config.json that quantizers write their settings to; no bundle has them.
pub(crate) const BESIDE: [&str; 3] = ["hf_quant_config.json", "quantize_config.json", "quant_config.json"];

/// Keys of config.json, at any depth.
const KEYS: [&str; 3] = ["quantization_config", "compression_config", "quantization"];

/// Objects within objects that are looked at.
const MAX_DEPTH: usize = 8;

/// Whether the entry of this key says how the model is quantized.
pub(crate) fn is_key(key: &str) -> bool {
    KEYS.contains(&key)
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    /// Where, with the file's name where it is not config.json: `text_config.quantization_config`.
    pub(crate) places: Vec<String>,
    /// The method by its writer's name.
    pub(crate) method: Option<String>,
    /// Rows and columns that share a scale.
    blocks: Vec<[u64; 2]>,
    groups: Vec<Group>,
}

/// One group of compressed-tensors' settings, or what others say of all weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) bits: u64,
    pub(super) len: Option<u64>,
    pub(super) is_symmetric: bool,
}

impl Settings {
    /// Those of a config.json, and of the files of [`BESIDE`] that are there.
    pub(crate) fn of(config: &Value, beside: &[(&str, Value)]) -> Self {
        let mut settings = Self::default();
        settings.search(config, "", MAX_DEPTH);
        for (file, value) in beside {
            settings.places.push((*file).to_owned());
            settings.take(value);
            if let Some(inner) = value.get("quantization") {
                settings.take(inner);
            }
        }
        settings
    }

    /// Whether there are any.
    pub(crate) fn is_there(&self) -> bool {
        !self.places.is_empty()
    }

    fn search(&mut self, value: &Value, path: &str, depth: usize) {
        let Some(object) = value.as_object().filter(|_| depth > 0) else { return };
        for (key, inner) in object {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            if is_key(key) && inner.is_object() {
                self.places.push(path.clone());
                self.take(inner);
            }
            self.search(inner, &path, depth - 1);
        }
    }

    fn take(&mut self, entry: &Value) {
        let word = |key: &str| entry.get(key).and_then(Value::as_str);
        let method = word("quant_method").or_else(|| word("quant_algo")).or_else(|| word("quant_type"));
        if self.method.is_none() {
            self.method = method.map(str::to_owned);
        }
        self.blocks.extend(entry.get("weight_block_size").and_then(pair));
        let groups = entry.get("config_groups").and_then(Value::as_object);
        for weights in
            groups.into_iter().flat_map(|groups| groups.values()).filter_map(|it| it.get("weights"))
        {
            self.blocks.extend(weights.get("block_structure").and_then(pair));
            let number = |key: &str| weights.get(key).and_then(Value::as_u64);
            let Some(bits) = number("num_bits") else { continue };
            self.groups.push(Group {
                bits,
                len: number("group_size").filter(|len| *len > 0),
                is_symmetric: weights.get("symmetric").and_then(Value::as_bool).unwrap_or(true),
            });
        }
    }

    /// Rows and columns of a block, each that is given.
    pub(super) fn blocks(&self) -> &[[u64; 2]] {
        &self.blocks
    }

    /// The groups for codes of so many bits.
    pub(super) fn groups(&self, bits: u64) -> impl Iterator<Item = Group> + '_ {
        self.groups.iter().copied().filter(move |group| group.bits == bits)
    }

    /// The numbers of bits that codes have; none where nothing says so.
    pub(super) fn bits(&self) -> Vec<u64> {
        let mut bits: Vec<u64> = self.groups.iter().map(|group| group.bits).collect();
        bits.sort_unstable();
        bits.dedup();
        bits
    }

    /// Whether codes of so many bits have zero points.
    pub(super) fn has_zero_points(&self, bits: u64) -> bool {
        self.groups(bits).next().is_some() && self.groups(bits).all(|group| !group.is_symmetric)
    }
}

/// Two lengths that are not 0.
fn pair(value: &Value) -> Option<[u64; 2]> {
    match value.as_array()?.as_slice() {
        [rows, columns] => {
            let pair = [rows.as_u64()?, columns.as_u64()?];
            (!pair.contains(&0)).then_some(pair)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_found_wherever_programs_put_it() {
        let inner = json!({"quant_method": "fp8", "weight_block_size": [64, 32]});
        for config in [
            json!({"quantization_config": inner}),
            json!({"compression_config": inner}),
            json!({"text_config": {"quantization_config": inner}}),
            json!({"thinker_config": {"text_config": {"quantization_config": inner}}}),
        ] {
            let settings = Settings::of(&config, &[]);
            assert!(settings.is_there());
            assert_eq!(settings.method.as_deref(), Some("fp8"), "{config}");
            assert_eq!(settings.blocks(), [[64, 32]]);
        }
        let of_modelopt = json!({"quantization": {"quant_algo": "FP8"}});
        let settings = Settings::of(&json!({}), &[("hf_quant_config.json", of_modelopt)]);
        assert_eq!(settings.method.as_deref(), Some("FP8"));
        for none in [json!({}), json!({"quantization_config": null}), json!(null)] {
            assert!(!Settings::of(&none, &[]).is_there(), "{none}");
        }
    }
}
