//! What a tensor's name says of its place in a model: embedding, decoder layer, head, tower.
//!
//! Names are all that a checkpoint of an unknown family gives, so these rules are few and plain, and every
//! decision taken from them is shown in the plan. Carries out formats/bundle.md, "Layer order".

use std::borrow::Cow;
use std::cmp::Ordering;
use std::str::FromStr;

use serde::Serialize;

/// The part a tensor or module plays. The order is that of a forward pass, towers last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Token or position embeddings.
    Embedding,
    /// Anything inside the decoder layer of that index.
    Layer(u32),
    /// What stands between the layers and the head: the final norm and whatever has no other role.
    Final,
    /// The projector from image features to the language model.
    Projector,
    /// The output head.
    Head,
    /// MGM's patch information mining (`vlm_uni_*`).
    Uni,
    /// An encoder of images, videos or sound.
    Tower,
}

impl Role {
    /// The name of this part as a stage of loading: `embeddings`, `layer.10`, `head`, …
    pub fn stage_name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Role::Embedding => "embeddings",
            Role::Layer(index) => return Cow::Owned(format!("layer.{index}")),
            Role::Final => "norm",
            Role::Projector => "projector",
            Role::Head => "head",
            Role::Uni => "vlm_uni",
            Role::Tower => "towers",
        })
    }

    /// The part that a stage's name means.
    pub fn of_stage(name: &str) -> Option<Self> {
        let plain = [Role::Embedding, Role::Final, Role::Projector, Role::Head, Role::Uni, Role::Tower];
        let layer = || number(name.strip_prefix("layer.")?).map(Role::Layer);
        plain.into_iter().find(|role| role.stage_name() == name).or_else(layer)
    }

    /// Whether it is of MGM's vision half, or stands for it in another model: projector, towers and `vlm_uni_*`.
    pub fn is_vision(self) -> bool {
        matches!(self, Role::Projector | Role::Tower | Role::Uni)
    }
}

/// The role of a tensor by its name.
pub fn role_of(tensor: &str) -> Role {
    role_by(tensor, tensor.rsplit_once('.').map_or(tensor, |(module, _)| module))
}

/// The role of a module by its name: that of a weight in it.
pub fn role_of_module(module: &str) -> Role {
    role_by(module, module)
}

/// The role of what has the name `name` and lies in `module`.
fn role_by(name: &str, module: &str) -> Role {
    let mut parts = name.split('.').peekable();
    if name.contains("vlm_uni") || name.contains("vision_fpn") {
        return Role::Uni;
    }
    if is_tower(name) {
        return Role::Tower;
    }
    if name.contains("mm_projector") || name.contains("multi_modal_projector") {
        return Role::Projector;
    }
    while let Some(part) = parts.next() {
        if let Some(index) = parts.peek().filter(|_| is_layer_list(part)).and_then(|next| number(next)) {
            return Role::Layer(index);
        }
    }
    let last = module.rsplit('.').next().unwrap_or(module);
    if matches!(last, "lm_head" | "embed_out" | "output" | "score") {
        Role::Head
    } else if last.contains("embed")
        || matches!(last, "wte" | "wpe" | "shared")
        || name.starts_with("embeddings.")
    {
        Role::Embedding
    } else {
        Role::Final
    }
}

/// The number that a part of a name is: digits and nothing else, no sign. `None` where it does not fit.
pub(crate) fn number<T: FromStr>(part: &str) -> Option<T> {
    part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok()).flatten()
}

/// True for the part of a name that is followed by the number of a layer.
pub(crate) fn is_layer_list(part: &str) -> bool {
    matches!(part, "layer" | "h" | "block" | "encoder" | "decoder")
        || part.ends_with("layers")
        || part.ends_with("blocks")
}

/// True for the tensors of an image, video or audio encoder.
fn is_tower(name: &str) -> bool {
    name.split('.').any(|part| {
        matches!(part, "visual" | "vision" | "image_newline" | "image_tower" | "video_tower" | "audio_tower")
            || part.starts_with("vision_tower")
            || part.starts_with("vision_model")
            || part.starts_with("vision_encoder")
            || part.starts_with("vision_stage")
            || part.starts_with("vision_stem")
    })
}

/// The part of a model that lies on one device as a whole and that a tensor is of: a decoder layer, a tower, a projector,
/// and for the rest the tensor's module. The beginning of `tensor`.
pub(crate) fn unit_of(tensor: &str) -> &str {
    let is_last: fn(&str, &str) -> bool = match role_of(tensor) {
        Role::Layer(_) => |before, part| is_layer_list(before) && number::<u32>(part).is_some(),
        Role::Uni => |_, part| part.starts_with("vlm_uni") || part.starts_with("vision_fpn"),
        Role::Projector => |_, part| part.ends_with("projector"),
        Role::Tower => |_, part| part.starts_with("vis") || part.starts_with("image"),
        Role::Embedding | Role::Final | Role::Head => |_, _| false,
    };
    let (mut end, mut before) = (0, "");
    for part in tensor.split('.') {
        end += part.len();
        if is_last(before, part) {
            return tensor.get(..end).unwrap_or(tensor);
        }
        (end, before) = (end + 1, part);
    }
    tensor.rsplit_once('.').map_or(tensor, |(module, _)| module)
}

/// Orders tensor names as a forward pass meets them: by role, then with numbers compared as numbers.
pub fn layer_order(a: &str, b: &str) -> Ordering {
    role_of(a).cmp(&role_of(b)).then_with(|| natural(a, b))
}

/// Compares names part by part, numbers as numbers (`experts.2` before `experts.10`).
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            // Numbers before words: comparing a number with a word as text would not be an order (9 < 10 < 1x < 9).
            (Some(x), Some(y)) => match (number::<u64>(x), number::<u64>(y)) {
                (Some(x), Some(y)) => x.cmp(&y),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => x.cmp(y),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// True for what decides which experts are chosen, how a state decays, the sinks of attention, and the number that GPT-2's
/// kind masks with (-1e9, beyond float16). Classes keep them in
/// f32 (transformers: `_keep_in_fp32_modules_strict`; vLLM: parameters of type float32), for rounding would move tokens to
/// other experts, and errors of a state add up.
pub(crate) fn is_precise(name: &str) -> bool {
    const PRECISE: [&str; 8] = [
        "e_score_correction_bias",
        "expert_bias",
        "A_log",
        "dt_bias",
        "D",
        "attn_sink",
        "sinks",
        "masked_bias",
    ];
    let last = name.rsplit('.').next().unwrap_or(name);
    PRECISE.contains(&last) || name.ends_with(".ffn.gate.bias")
}

/// True for what clients build without quantization, whatever a configuration says: the weights of DeepSeek's indexer and
/// what its prediction of further tokens adds (vLLM: `quant_config=None` and `nn.Linear` in deepseek_v2 and deepseek_mtp), and
/// the two narrow projections of linear attention (vLLM: one layer without quantization).
fn is_built_float(module: &str) -> bool {
    const FLOAT: [&str; 5] = [
        "indexer.weights_proj",
        "eh_proj",
        "shared_head.head",
        "linear_attn.in_proj_a",
        "linear_attn.in_proj_b",
    ];
    FLOAT
        .iter()
        .any(|end| module.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// What [`not_a_linear`] calls the choice of experts.
pub(crate) const ROUTER: &str = "router";

/// Why a two-dimensional weight is not a linear to quantize; `None` if it is one.
///
/// A linear is `<module>.weight` inside a decoder layer whose module is no embedding, norm, convolution or
/// router. Source: the module lists of llm-compressor and bitsandbytes, which skip the same kinds by class.
pub fn not_a_linear(name: &str, shape: &[u64]) -> Option<&'static str> {
    let Some(module) = name.strip_suffix(".weight") else {
        return Some(if shape.len() == 3 {
            "fused experts (3-D) are not one linear"
        } else {
            "not a weight"
        });
    };
    let last = module.rsplit('.').next().unwrap_or(module);
    match role_of(name) {
        Role::Layer(_) => {}
        Role::Embedding => return Some("embedding"),
        Role::Head => return Some("head"),
        Role::Projector => return Some("projector"),
        Role::Uni => return Some("vlm_uni"),
        Role::Tower => return Some("tower"),
        Role::Final => return Some("outside the decoder layers"),
    }
    if shape.len() != 2 {
        return Some(if shape.len() == 1 { "norm or other vector" } else { "not two-dimensional" });
    }
    if shape.contains(&0) {
        return Some("empty");
    }
    if last.contains("norm") || last.starts_with("ln_") {
        return Some("norm");
    }
    if last.contains("embed") || last.contains("relative_attention_bias") {
        return Some("embedding");
    }
    if last.contains("conv") {
        return Some("convolution");
    }
    if matches!(last, "gate" | "shared_expert_gate") || module.split('.').any(|part| part == "router") {
        return Some(ROUTER);
    }
    if is_built_float(module) {
        return Some("clients build it without quantization");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_follow_from_the_names_of_known_models() {
        for (name, role) in [
            ("model.embed_tokens.weight", Role::Embedding),
            ("transformer.wte.weight", Role::Embedding),
            ("embeddings.word_embeddings.weight", Role::Embedding),
            ("model.shared.weight", Role::Embedding),
            ("audio_tower.layers.0.fc1.weight", Role::Tower),
            ("model.layers.12.self_attn.q_proj.weight", Role::Layer(12)),
            ("encoder.layer.3.attention.self.query.weight", Role::Layer(3)),
            ("model.norm.weight", Role::Final),
            ("lm_head.weight", Role::Head),
            ("model.mm_projector.0.weight", Role::Projector),
            ("model.vlm_uni_query_projector.1.weight", Role::Uni),
            ("model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", Role::Tower),
            ("model.vision_tower_aux.vision_stages.2.blocks.1.gamma", Role::Tower),
            ("model.visual.blocks.0.attn.qkv.weight", Role::Tower),
            ("model.decoder_layers.3.q_proj.weight", Role::Layer(3)),
            ("text.transformer.resblocks.2.attn.in_proj_weight", Role::Layer(2)),
            ("encoder.1.attn.q_proj.weight", Role::Layer(1)),
            ("encoder.norm.weight", Role::Final),
        ] {
            assert_eq!(role_of(name), role, "{name}");
        }
    }

    #[test]
    fn a_module_has_the_role_of_its_weight() {
        for (module, role) in [
            ("model.embed_tokens", Role::Embedding),
            ("embeddings", Role::Embedding),
            ("model.layers.12", Role::Layer(12)),
            ("model.norm", Role::Final),
            ("model.rotary_emb", Role::Final),
            ("lm_head", Role::Head),
            ("model.mm_projector", Role::Projector),
            ("model.vlm_uni_val_projector", Role::Uni),
            ("model.vision_tower_aux", Role::Tower),
            ("model.visual", Role::Tower),
            ("", Role::Final),
        ] {
            assert_eq!(role_of_module(module), role, "{module}");
            assert_eq!(role_of(&format!("{module}.weight")), role, "{module}");
        }
    }

    #[test]
    fn tensors_fall_under_the_keys_that_loaders_have() {
        for (name, unit) in [
            ("model.layers.11.mlp.up_proj.weight", "model.layers.11"),
            ("transformer.h.3.attn.c_attn.weight", "transformer.h.3"),
            ("model.embed_tokens.weight", "model.embed_tokens"),
            ("model.norm.weight", "model.norm"),
            ("lm_head.weight", "lm_head"),
            ("model.mm_projector.2.bias", "model.mm_projector"),
            ("model.vlm_uni_aux_projector.0.weight", "model.vlm_uni_aux_projector"),
            ("model.vision_tower.vision_tower.vision_model.post_layernorm.bias", "model.vision_tower"),
            ("model.vision_tower_aux.vision_stem.0.weight", "model.vision_tower_aux"),
            ("model.visual.blocks.3.mlp.fc1.weight", "model.visual"),
            ("model.layers.11", "model.layers.11"),
            ("weight", "weight"),
        ] {
            assert_eq!(unit_of(name), unit, "{name}");
        }
    }

    #[test]
    fn a_number_has_digits_only() {
        assert_eq!(role_of("model.layers.+1.mlp.up_proj.weight"), Role::Final);
        assert_eq!(role_of("model.layers.01.mlp.up_proj.weight"), Role::Layer(1));
        assert_eq!(role_of("model.layers.4294967296.mlp.up_proj.weight"), Role::Final);
        assert_eq!(Role::of_stage("layer.+1"), None);
        // A sign makes a word, and words come after numbers.
        assert_eq!(natural("a.+1.w", "a.2.w"), Ordering::Greater);
    }

    #[test]
    fn layers_and_experts_are_ordered_by_number() {
        let mut names = vec![
            "lm_head.weight",
            "model.layers.10.mlp.up_proj.weight",
            "model.layers.2.mlp.experts.10.w1.weight",
            "model.layers.2.mlp.experts.9.w1.weight",
            "model.norm.weight",
            "model.embed_tokens.weight",
        ];
        names.sort_by(|a, b| layer_order(a, b));
        assert_eq!(
            names,
            [
                "model.embed_tokens.weight",
                "model.layers.2.mlp.experts.9.w1.weight",
                "model.layers.2.mlp.experts.10.w1.weight",
                "model.layers.10.mlp.up_proj.weight",
                "model.norm.weight",
                "lm_head.weight",
            ]
        );
    }

    #[test]
    fn the_order_of_names_is_total() {
        let names = [
            "9",
            "10",
            "1x",
            "x",
            "01",
            "1",
            "",
            "9.a",
            "10.a",
            "1x.a",
            "99999999999999999999",
            "a.01",
            "a.1",
        ];
        for a in names {
            for b in names {
                assert_eq!(natural(a, b), natural(b, a).reverse(), "{a} {b}");
                for c in names {
                    let in_order = natural(a, b).is_le() && natural(b, c).is_le();
                    assert!(!in_order || natural(a, c).is_le(), "{a} {b} {c}");
                }
            }
        }
    }

    #[test]
    fn routers_norms_and_embeddings_are_not_linears() {
        let square = [8, 8];
        assert_eq!(not_a_linear("model.layers.0.mlp.gate_proj.weight", &square), None);
        assert_eq!(not_a_linear("model.layers.0.block_sparse_moe.experts.1.w2.weight", &square), None);
        assert_eq!(not_a_linear("model.layers.0.block_sparse_moe.gate.weight", &square), Some("router"));
        let router = "model.layers.0.block_sparse_moe.router.layer.weight";
        assert_eq!(not_a_linear(router, &square), Some("router"));
        assert_eq!(not_a_linear("model.layers.0.self_attn.q_norm.weight", &square), Some("norm"));
        assert_eq!(not_a_linear("model.layers.0.self_attn.q_proj.bias", &[8]), Some("not a weight"));
        assert_eq!(
            not_a_linear("model.layers.0.mlp.experts.gate_up_proj", &[4, 8, 8]),
            Some("fused experts (3-D) are not one linear")
        );
        assert_eq!(not_a_linear("lm_head.weight", &square), Some("head"));
    }

    #[test]
    fn what_clients_build_without_quantization_is_no_linear_to_quantize() {
        let reason = |module: &str| not_a_linear(&format!("model.layers.3.{module}.weight"), &[8, 8]);
        for float in [
            "self_attn.indexer.weights_proj",
            "eh_proj",
            "shared_head.head",
            "linear_attn.in_proj_a",
            "linear_attn.in_proj_b",
        ] {
            assert_eq!(reason(float), Some("clients build it without quantization"), "{float}");
        }
        for linear in
            ["self_attn.indexer.wq_b", "linear_attn.in_proj_qkv", "mamba.in_proj_b", "mlp.other_eh_proj"]
        {
            assert_eq!(reason(linear), None, "{linear}");
        }
    }

    #[test]
    fn routing_states_and_sinks_are_precise() {
        for name in [
            "model.layers.0.mlp.gate.e_score_correction_bias",
            "model.layers.0.feed_forward.expert_bias",
            "model.layers.0.linear_attn.A_log",
            "backbone.layers.0.mixer.D",
            "layers.0.attn.attn_sink",
            "layers.0.ffn.gate.bias",
        ] {
            assert!(is_precise(name), "{name}");
        }
        for name in
            ["model.layers.0.mlp.gate.weight", "model.layers.0.mlp.gate_proj.bias", "a.my_A_log.weight"]
        {
            assert!(!is_precise(name), "{name}");
        }
    }
}
