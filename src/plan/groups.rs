//! Linears that clients hold as one, which therefore share a scheme.
//!
//! vLLM loads `q_proj`, `k_proj` and `v_proj` as one linear, and the two halves of a gated feed-forward too
//! (`packed_modules_mapping` of its models): one of them float beside another in codes cannot be loaded. Carries out
//! formats/schemes.md, "What is quantized".

use std::collections::BTreeMap;

use super::{Skip, TensorPlan};
use crate::error::{PlanError, Result};

/// Last parts of the names of linears that are held as one, of one module each.
const HELD_AS_ONE: [&[&str]; 4] =
    [&["q_proj", "k_proj", "v_proj"], &["gate_proj", "up_proj"], &["w1", "w3"], &["q", "k", "v"]];

/// Refuses a pattern that leaves some of a group float and not the rest.
///
/// # Errors
/// [`PlanError::SplitGroup`] names the rest.
pub(super) fn check<P>(tensors: &[TensorPlan<P>]) -> Result<()> {
    let mut groups: BTreeMap<(&str, usize), Vec<&TensorPlan<P>>> = BTreeMap::new();
    for tensor in tensors {
        let Some((parent, last)) = tensor.name.module().rsplit_once('.') else { continue };
        let is_weight = tensor.name.as_str().ends_with(".weight");
        if let Some(group) = HELD_AS_ONE.iter().position(|group| group.contains(&last)).filter(|_| is_weight)
        {
            groups.entry((parent, group)).or_default().push(tensor);
        }
    }
    for members in groups.values() {
        let pattern = members.iter().find_map(|tensor| match &tensor.skip {
            Some(Skip::Ignored(pattern)) => Some((tensor, pattern)),
            _ => None,
        });
        let rest: Vec<String> = members
            .iter()
            .filter(|tensor| tensor.fate.is_quantize())
            .map(|tensor| tensor.name.module().to_owned())
            .collect();
        if let Some((ignored, pattern)) = pattern.filter(|_| !rest.is_empty()) {
            let (ignored, pattern) = (ignored.name.module().to_owned(), pattern.clone());
            return Err(PlanError::SplitGroup { pattern, ignored, rest }.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Plan, Precision, Recipe, WeightOptions};
    use crate::checkpoint::{Reading, SourceTensor, Span};
    use crate::tensor::{Dtype, TensorName};

    fn planned(ignore: &str) -> Result<(), String> {
        let source = |name: &str| SourceTensor {
            name: TensorName::new(format!("model.layers.0.{name}.weight")).unwrap(),
            dtype: Dtype::BF16,
            shape: vec![128, 128],
            byte_len: 128 * 128 * 2,
            is_cache_scale: false,
            reading: Reading::Stored(Span { file: 0, offset: 0, view: None }),
        };
        let names = [
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
        ];
        let sources: Vec<_> = names.iter().map(|name| source(name)).collect();
        let options =
            WeightOptions { precision: Precision::Int8, layout: None, ignore: vec![ignore.to_owned()] };
        let recipe = Recipe::choose(&options, 1 << 40, None).unwrap();
        Plan::new(&sources, &recipe).map(|_| ()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pattern_that_splits_what_clients_hold_as_one_is_refused_with_the_rest() {
        for (ignore, named) in [
            (r"re:.*\.q_proj", vec!["self_attn.k_proj", "self_attn.v_proj"]),
            (r"re:.*\.gate_proj", vec!["mlp.up_proj"]),
            ("model.layers.0.mlp.up_proj", vec!["mlp.gate_proj"]),
        ] {
            let refusal = planned(ignore).unwrap_err();
            assert!(named.iter().all(|name| refusal.contains(name)), "{ignore}: {refusal}");
        }
        for whole in [r"re:.*\.[qkv]_proj", r"re:.*self_attn", r"re:.*\.o_proj", r"re:.*mlp"] {
            assert_eq!(planned(whole), Ok(()), "{whole}");
        }
    }
}
