//! What transformers 5 makes of a generic checkpoint: the names its classes give to modules, and what it cannot load
//! quantized.
//!
//! Facts only, read in transformers 5.23.0 (`conversion_mapping.py`, `quantizers/base.py`) and seen by
//! tests/python/test_other_architectures.py. Carries out formats/bundle.md, "Device map", and formats/schemes.md,
//! "What is quantized" and "quantization_config".

use std::borrow::Cow;

use serde_json::Value;

/// First part of a tensor's or module's name in checkpoints, and what stands for it in the class.
type Renaming = (&'static str, &'static str);

/// Model types whose classes have other names than their checkpoints. The first prefix that fits counts.
const RENAMED: [(&str, &[Renaming]); 2] = [
    (
        "kimi_k25",
        &[
            ("language_model.lm_head", "lm_head"),
            ("language_model.model", "model.language_model"),
            ("mm_projector", "model.mm_projector"),
            ("vision_tower", "model.vision_tower"),
        ],
    ),
    (
        "paddleocr_vl",
        &[("mlp_AR", "model.projector"), ("model", "model.language_model"), ("visual", "model.visual")],
    ),
];

/// The name that `name`, of a tensor or module of a checkpoint, has in the class of that `model_type`.
///
/// Only the first parts: inside a vision tower a class may have yet other names.
pub(crate) fn name_in_class<'a>(name: &'a str, model_type: Option<&str>) -> Cow<'a, str> {
    let rules = RENAMED.iter().find(|(of, _)| Some(*of) == model_type).map_or(&[][..], |(_, rules)| rules);
    let is_there = rules.iter().any(|(_, new)| after_prefix(name, new).is_some());
    let renamed = rules.iter().find_map(|(old, new)| Some(format!("{new}{}", after_prefix(name, old)?)));
    match renamed {
        Some(renamed) if !is_there => Cow::Owned(renamed),
        _ => Cow::Borrowed(name),
    }
}

/// What follows `prefix` in `name` if it ends at a dot or the end.
fn after_prefix<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    name.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// True for the weights of experts that a checkpoint holds one by one: a part `experts` and a number.
pub(crate) fn is_single_expert(name: &str) -> bool {
    let mut parts = name.split('.').skip_while(|part| *part != "experts").skip(1);
    parts.next().is_some_and(|part| part.parse::<u32>().is_ok())
}

/// True for experts that a checkpoint holds as one tensor.
pub(crate) fn is_fused_experts(name: &str, shape: &[u64]) -> bool {
    shape.len() == 3 && name.split('.').any(|part| part == "experts")
}

/// Why a linear stays float in the bitsandbytes layout, where its name tells.
pub(crate) fn not_for_bitsandbytes(name: &str) -> Option<&'static str> {
    if is_single_expert(name) {
        return Some("expert: transformers 5 fuses experts, and bitsandbytes quantizes linears only");
    }
    // Multi-head latent attention (DeepSeek, Kimi, GLM): its input has a dimension for heads.
    let module = name.strip_suffix(".weight")?;
    let is_expansion = module.ends_with(".kv_b_proj");
    is_expansion.then_some("kv_b_proj: its input has four dimensions, and bitsandbytes takes up to three")
}

/// True for the model types whose fused experts are replaced by linears, without their weights, when a quantized model
/// is loaded.
pub(crate) fn loses_fused_experts(config: &Value) -> bool {
    let model_type = config.get("model_type").and_then(Value::as_str);
    matches!(model_type, Some("llama4" | "llama4_text"))
}

/// How a checkpoint is quantized already, by its config.json; `None` if it is not. Of a model with towers the entry
/// may stand in the part for text, and all clients look there too.
pub(crate) fn quantization_of(config: &Value) -> Option<String> {
    let places = ["/quantization_config", "/text_config/quantization_config"];
    let entry = places.iter().find_map(|place| config.pointer(place).filter(|entry| entry.is_object()))?;
    Some(entry.get("quant_method").and_then(Value::as_str).unwrap_or("no quant_method").to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn modules_get_the_names_of_their_class() {
        let kimi = |name| name_in_class(name, Some("kimi_k25")).into_owned();
        assert_eq!(kimi("language_model.model.layers.1"), "model.language_model.layers.1");
        assert_eq!(kimi("language_model.lm_head"), "lm_head");
        assert_eq!(kimi("vision_tower"), "model.vision_tower");
        let paddle = |name| name_in_class(name, Some("paddleocr_vl")).into_owned();
        assert_eq!(paddle("model.layers.0"), "model.language_model.layers.0");
        assert_eq!(paddle("mlp_AR.linear_1"), "model.projector.linear_1");
        assert_eq!(paddle("lm_head"), "lm_head");
        // A name that the class knows already, and one that only begins alike.
        assert_eq!(paddle("model.visual.vision_model"), "model.visual.vision_model");
        assert_eq!(paddle("model.language_model.norm"), "model.language_model.norm");
        assert_eq!(paddle("visuals.x"), "visuals.x");
        assert_eq!(name_in_class("model.layers.0", Some("llama")), "model.layers.0");
        assert_eq!(name_in_class("model.layers.0", None), "model.layers.0");
    }

    #[test]
    fn experts_are_known_by_their_numbers() {
        assert!(is_single_expert("model.layers.1.mlp.experts.12.down_proj.weight"));
        assert!(!is_single_expert("model.layers.1.mlp.experts.gate_up_proj"));
        assert!(!is_single_expert("model.layers.1.mlp.shared_experts.down_proj.weight"));
    }

    #[test]
    fn quantization_is_found_beside_a_vision_tower_too() {
        assert_eq!(quantization_of(&json!({})), None);
        assert_eq!(quantization_of(&json!({"quantization_config": null})), None);
        assert_eq!(quantization_of(&json!({"quantization_config": {"quant_method": "fp8"}})).unwrap(), "fp8");
        let inner = json!({"text_config": {"quantization_config": {"quant_method": "compressed-tensors"}}});
        assert_eq!(quantization_of(&inner).unwrap(), "compressed-tensors");
        assert_eq!(
            quantization_of(&json!({"quantization_config": {"load_in_8bit": true}})).unwrap(),
            "no quant_method"
        );
    }
}
