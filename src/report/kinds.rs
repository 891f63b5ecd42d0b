//! Kinds of modules: their names with the numbers of layer and expert left open.

use std::collections::BTreeSet;

use crate::structure::is_layer_list;

/// A module's name with `*` for the number of its layer and of an expert: `model.layers.*.mlp.experts.*.up_proj`.
///
/// Its last part alone would not keep kinds apart: BERT calls three linears of a layer `dense`, and T5 has a
/// `SelfAttention.q` in its encoder and in its decoder.
pub(super) fn kind_of(module: &str) -> String {
    let mut kind: Vec<&str> = Vec::new();
    let mut has_layer = false;
    for part in module.split('.') {
        let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let before = kind.last().copied().unwrap_or_default();
        let is_layer = is_number && !has_layer && is_layer_list(before);
        has_layer |= is_layer;
        kind.push(if is_layer || is_number && before == "experts" { "*" } else { part });
    }
    kind.join(".")
}

/// The kinds as labels beside a drawing: without what is before the layer's number, where that is the same in all.
pub(super) fn labels<'a>(kinds: impl Iterator<Item = &'a str> + Clone) -> impl Fn(&str) -> String {
    let stacks: BTreeSet<&str> = kinds.filter_map(|kind| Some(kind.split_once("*.")?.0)).collect();
    let only = stacks.first().filter(|_| stacks.len() == 1).map(|stack| format!("{stack}*."));
    move |kind| only.as_ref().and_then(|stack| kind.strip_prefix(stack)).unwrap_or(kind).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_layers_and_experts_are_open_and_all_else_tells_kinds_apart() {
        for (module, kind) in [
            ("model.layers.3.mlp.up_proj", "model.layers.*.mlp.up_proj"),
            ("encoder.layer.0.attention.output.dense", "encoder.layer.*.attention.output.dense"),
            ("encoder.layer.0.output.dense", "encoder.layer.*.output.dense"),
            ("decoder.block.1.layer.2.layer_norm", "decoder.block.*.layer.2.layer_norm"),
            ("model.layers.1.mlp.experts.17.w1", "model.layers.*.mlp.experts.*.w1"),
            ("model.mm_projector.2", "model.mm_projector.2"),
            ("7", "7"),
            ("", ""),
        ] {
            assert_eq!(kind_of(module), kind);
        }
    }

    #[test]
    fn what_all_have_in_common_is_left_out_beside_a_drawing() {
        let one = ["model.layers.*.mlp.up_proj", "model.layers.*.self_attn.q_proj", "lm_head"];
        let label = labels(one.into_iter());
        assert_eq!(one.map(label), ["mlp.up_proj", "self_attn.q_proj", "lm_head"]);
        let two = ["encoder.block.*.wi", "decoder.block.*.wi"];
        assert_eq!(two.map(labels(two.into_iter())), two);
    }
}
