//! What transformers 5 does with quantized weights of generic checkpoints, beyond what its data says.
//!
//! Facts only, read in transformers 5.23.0 (`quantizers/base.py`, the classes) and seen by
//! tests/python/test_other_architectures.py. Carries out formats/schemes.md, "What is quantized" and
//! "quantization_config".

use super::Subject;
use crate::structure::number;

/// Matches what chooses experts, by the names it has in classes. Nothing of that name is ever quantized.
pub(crate) const ROUTERS: &str = r".*\.(?:gate|router)$";

/// Matches the output heads that classes tie to the embedding: a checkpoint has no tensor of them, and a client would
/// take them for linears that it lacks. Nothing inside a layer is one. In Python's syntax.
pub(crate) const TIED_HEADS: &str = concat!(
    r"(?:[a-z_]+\.)*(?:lm_head(?:\.decoder|\.out_proj)?|[a-z_]*predictions\.decoder|proj_out|generator_lm_head",
    r"|output_projection|embed_out|pred_layer\.proj|lm_loss|vocab_projector)$|decoder$",
);

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

impl Subject {
    /// True where fused experts are replaced by linears, without their weights, when a quantized model is loaded.
    pub(crate) fn loses_fused_experts(&self) -> bool {
        self.is_one_of(&["llama4", "llama4_text"])
    }

    /// True where the class reads the weights of linears itself, which packed ones have not.
    pub(crate) fn reads_weights_itself(&self) -> bool {
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
        self.is_one_of(&TYPES)
    }

    /// True where bitsandbytes leaves the linears alone, or the class fails on what it makes of them.
    pub(crate) fn is_lost_on_bitsandbytes(&self) -> bool {
        self.is_one_of(&["falcon", "mamba"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_are_known_by_their_numbers() {
        assert!(is_single_expert("model.layers.1.mlp.experts.12.down_proj.weight"));
        assert!(!is_single_expert("model.layers.1.mlp.experts.gate_up_proj"));
        assert!(!is_single_expert("model.layers.1.mlp.shared_experts.down_proj.weight"));
    }
}
