//! What transformers 5 makes of a generic checkpoint: the names its classes give to modules, and what it cannot load
//! quantized.
//!
//! Facts only, read in transformers 5.23.0 (`conversion_mapping.py`, `quantizers/base.py`) and seen by
//! tests/python/test_other_architectures.py. Carries out formats/bundle.md, "Device map", and formats/schemes.md,
//! "What is quantized" and "quantization_config".

use std::borrow::Cow;

use serde_json::Value;

use crate::structure::number;

/// First part of a tensor's or module's name in checkpoints, and what stands for it in the class.
type Renaming = (&'static str, &'static str);

/// LLaVA's way: the parts side by side in the checkpoint, all below `model` in the class.
const SIDE_BY_SIDE: &[Renaming] = &[
    ("language_model.lm_head", "lm_head"),
    ("language_model.model", "model.language_model"),
    ("vision_tower", "model.vision_tower"),
    ("vision_model", "model.vision_model"),
    ("vision_embed_tokens", "model.vision_embed_tokens"),
    ("image_tower", "model.image_tower"),
    ("image_newline", "model.image_newline"),
    ("video_tower", "model.video_tower"),
    ("audio_tower", "model.audio_tower"),
    ("multi_modal_projector", "model.multi_modal_projector"),
    ("mm_projector", "model.mm_projector"),
];

/// Qwen2-VL's way: the language model is the checkpoint's `model`, and the rest stands beside it.
const AROUND_THE_TEXT: &[Renaming] = &[
    ("visual", "model.visual"),
    ("audio_tower", "model.audio_tower"),
    ("mlp_AR", "model.projector"),
    ("model", "model.language_model"),
];

/// Model types whose classes have other names than their checkpoints. The first prefix that fits counts.
const RENAMED: [(&[&str], &[Renaming]); 4] = [
    (
        &[
            "aria",
            "audioflamingo3",
            "aya_vision",
            "fuyu",
            "gemma3",
            "glmasr",
            "got_ocr2",
            "internvl",
            "kimi_k25",
            "llava",
            "llava_next",
            "llava_next_video",
            "llava_onevision",
            "mistral3",
            "mllama",
            "musicflamingo",
            "paligemma",
            "pp_chart2table",
            "qwen2_audio",
            "video_llava",
            "vipllava",
            "voxtral",
            "voxtral_realtime",
        ],
        SIDE_BY_SIDE,
    ),
    (
        &["paddleocr_vl", "qwen2_5_omni_thinker", "qwen2_5_vl", "qwen2_vl", "qwen3_omni_moe_thinker"],
        AROUND_THE_TEXT,
    ),
    (&["gpt_neox"], &[("embed_out", "lm_head")]),
    (&["nemotron_h"], &[("backbone", "model")]),
];

/// Matches what chooses experts, by the names it has in classes. Nothing of that name is ever quantized.
pub(crate) const ROUTERS: &str = r".*\.(?:gate|router)$";

/// Matches the output heads that classes tie to the embedding: a checkpoint has no tensor of them, and a client would
/// take them for linears that it lacks. Nothing inside a layer is one. In Python's syntax.
pub(crate) const TIED_HEADS: &str = concat!(
    r"(?:[a-z_]+\.)*(?:lm_head(?:\.decoder|\.out_proj)?|[a-z_]*predictions\.decoder|proj_out|generator_lm_head",
    r"|output_projection|embed_out|pred_layer\.proj|lm_loss|vocab_projector)$|decoder$",
);

/// The name that `name`, of a tensor or module of a checkpoint, has in the class of that `model_type`.
///
/// Only the first parts: inside a vision tower a class may have yet other names.
pub(crate) fn name_in_class<'a>(name: &'a str, model_type: Option<&str>) -> Cow<'a, str> {
    let is_of = |types: &[&str]| model_type.is_some_and(|model_type| types.contains(&model_type));
    let rules = RENAMED.iter().find(|(types, _)| is_of(types)).map_or(&[][..], |(_, rules)| rules);
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
    parts.next().is_some_and(|part| number::<u32>(part).is_some())
}

/// True for experts that a checkpoint holds as one tensor.
pub(crate) fn is_fused_experts(name: &str, shape: &[u64]) -> bool {
    shape.len() == 3 && name.split('.').any(|part| part == "experts")
}

/// Why a linear of a generic checkpoint stays float in the bitsandbytes layout, where its name tells.
pub(crate) fn not_for_bitsandbytes(name: &str) -> Option<&'static str> {
    if is_single_expert(name) {
        return Some("expert: transformers 5 fuses experts, and bitsandbytes quantizes linears only");
    }
    let module = name.strip_suffix(".weight")?;
    // T5's kind: the class looks at the type of this weight, and transformers keeps it in binary32.
    if module.ends_with(".DenseReluDense.wo") {
        return Some("wo: its class looks at the type of this weight");
    }
    // Multi-head latent attention (DeepSeek, Kimi, GLM): its input has a dimension for heads.
    let is_expansion = module.ends_with(".kv_b_proj");
    is_expansion.then_some("kv_b_proj: its input has four dimensions, and bitsandbytes takes up to three")
}

/// True for the model types whose fused experts are replaced by linears, without their weights, when a quantized model
/// is loaded.
pub(crate) fn loses_fused_experts(config: &Value) -> bool {
    is_one_of(config, &["llama4", "llama4_text"])
}

/// True for the model types whose classes read the weights of linears themselves, which packed ones have not.
pub(crate) fn reads_weights_itself(config: &Value) -> bool {
    const TYPES: [&str; 10] = [
        "falcon",
        "falcon_mamba",
        "gpt_bigcode",
        "longt5",
        "mamba",
        "mamba2",
        "modernbert",
        "mt5",
        "t5",
        "umt5",
    ];
    is_one_of(config, &TYPES)
}

/// True for the model types whose linears bitsandbytes leaves alone, or whose classes fail on what it makes of them.
pub(crate) fn is_lost_on_bitsandbytes(config: &Value) -> bool {
    is_one_of(config, &["falcon", "mamba"])
}

fn is_one_of(config: &Value, model_types: &[&str]) -> bool {
    config.get("model_type").and_then(Value::as_str).is_some_and(|of| model_types.contains(&of))
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
