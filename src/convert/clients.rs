//! What a generic bundle has to tell the programs that load it, and the user about them.
//!
//! Owns the list of modules that stay float, the notices and the one refusal that follow from what a client can do.
//! What that is stands in `transformers`. Carries out formats/schemes.md, "quantization_config".

use serde_json::Value;

use crate::checkpoint::{Checkpoint, SourceTensor};
use crate::error::{PlanError, Result};
use crate::modules::key_of;
use crate::plan::{Plan, Precision, Skip};
use crate::scheme::{Layout, Scheme};
use crate::structure::{ROUTER, Role, role_of};
use crate::transformers;

/// The file in which sentence-transformers keeps the parts of a model.
const SENTENCE_MODULES: &str = "modules.json";

/// Patterns of the modules of a generic bundle that stay float, as its quantization_config lists them: by their names
/// in the checkpoint, then by those in the class that loads it where these are others.
pub(super) fn skip_modules(plan: &Plan, config: &Value) -> Vec<String> {
    let model_type = config.get("model_type").and_then(Value::as_str);
    let is_bnb = plan.scheme.layout() == Some(Layout::Bnb);
    let of_checkpoint: Vec<String> = plan.float_modules().into_iter().map(str::to_owned).collect();
    let mut of_class: Vec<String> = Vec::new();
    for module in &of_checkpoint {
        let weight = format!("{module}.weight");
        let renamed = transformers::name_in_class(module, model_type);
        let of_key = || {
            let key = key_of(&weight, model_type);
            if is_bnb { key } else { format!(r"re:{}(\.|$)", regex::escape(&key)) }
        };
        let pattern = match role_of(&weight) {
            // All of it is float, and inside it the class may have other names.
            Role::Tower | Role::Projector | Role::Uni => of_key(),
            _ if renamed == *module => continue,
            Role::Layer(_) | Role::Embedding | Role::Head => renamed.into_owned(),
            Role::Final => of_key(),
        };
        if !of_checkpoint.contains(&pattern) && !of_class.contains(&pattern) {
            of_class.push(pattern);
        }
    }
    let expression = |text: &str| if is_bnb { text.to_owned() } else { format!("re:{text}") };
    if plan.tensors.iter().any(|it| it.skip == Some(Skip::Rule(ROUTER))) {
        of_class.push(expression(transformers::ROUTERS));
    }
    if !plan.has_head() {
        of_class.push(expression(transformers::TIED_HEADS));
    }
    let has_fused = plan.tensors.iter().any(|it| transformers::is_fused_experts(it.name.as_str(), &it.shape));
    if has_fused && !is_bnb {
        // Clients that hold them one by one ask for names such as `experts.0.up_proj`.
        of_class.push(r"re:.*\.experts\.".to_owned());
    }
    of_checkpoint.into_iter().chain(of_class).collect()
}

/// Refuses what no client could load.
///
/// # Errors
/// [`PlanError::NoClient`].
pub(super) fn check(tensors: &[SourceTensor], scheme: Scheme, config: &Value) -> Result<()> {
    if scheme.layout() != Some(Layout::Bnb) {
        return Ok(());
    }
    let has_fused = tensors.iter().any(|it| transformers::is_fused_experts(it.name.as_str(), &it.shape));
    if has_fused && transformers::loses_fused_experts(config) {
        return Err(PlanError::NoClient {
            what: "fused experts (3-D tensors) of Llama 4",
            scheme: scheme.name(),
            why: "transformers 5 puts linears in their place when a quantized model is loaded, and does not fill these",
        }
        .into());
    }
    if transformers::is_lost_on_bitsandbytes(config) {
        return Err(PlanError::NoClient {
            what: "this architecture",
            scheme: scheme.name(),
            why: "its class multiplies with the weights itself, and bitsandbytes' codes are not numbers to it",
        }
        .into());
    }
    Ok(())
}

/// What the user should know of a generic bundle's clients.
pub(super) fn notice(plan: &Plan, config: &Value) -> Option<&'static str> {
    let codec = plan.scheme.codec()?;
    let is_fused = |name: &str, shape: &[u64]| transformers::is_fused_experts(name, shape);
    if transformers::loses_fused_experts(config)
        && plan.tensors.iter().any(|it| is_fused(it.name.as_str(), &it.shape))
    {
        return Some(
            "transformers 5 cannot load Llama 4's fused experts in a quantized model: this bundle is for vLLM; \
             a bf16 bundle is for both",
        );
    }
    if codec.is_packed() && transformers::reads_weights_itself(config) {
        return Some(
            "transformers 5 cannot load this architecture with packed weights, which its class reads itself: this bundle \
             is for vLLM on a GPU (not run here); W8A8 is for both",
        );
    }
    let mut experts = plan
        .tensors
        .iter()
        .filter(|it| transformers::is_single_expert(it.name.as_str()) && it.shape.len() == 2);
    let first = experts.next()?;
    let are_quantized = first.fate.is_quantize() && experts.all(|it| it.fate.is_quantize());
    match codec.layout() {
        Layout::Bnb => Some(
            "experts stay float: transformers 5 fuses them, and bitsandbytes quantizes linears only; \
             W8A16 quantizes them",
        ),
        Layout::CompressedTensors if codec.is_packed() && are_quantized => None,
        Layout::CompressedTensors => Some(
            "transformers 5 fuses experts when it loads a model, and of quantized models only packed ones: \
             this bundle is for vLLM on a GPU; W8A16 with all experts quantized loads in transformers",
        ),
    }
}

/// A use of a model that calls parts of it past the hook by which compressed-tensors decompresses codes when the whole is
/// called first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bypass {
    /// sentence-transformers 6 calls embeddings and layers.
    Encode,
    /// transformers 5 calls the encoder when a model with a decoder beside it generates.
    Generate,
}

impl Bypass {
    /// That of a generic checkpoint.
    pub(super) fn of(checkpoint: &Checkpoint, config: &Value) -> Option<Self> {
        if checkpoint.side_files().iter().any(|file| file.path == SENTENCE_MODULES) {
            return Some(Self::Encode);
        }
        config.get("is_encoder_decoder").and_then(Value::as_bool).unwrap_or(false).then_some(Self::Generate)
    }

    /// The layout of int8 that serves, where the user asked for none.
    pub(super) fn layout(self, precision: Precision, config: &Value) -> Option<Layout> {
        let is_free = matches!(precision, Precision::Int8) && !transformers::is_lost_on_bitsandbytes(config);
        is_free.then_some(Layout::Bnb)
    }

    /// What the user should know. `chosen`: the layout was chosen for them.
    pub(super) fn notice(self, scheme: Scheme, chosen: bool) -> Option<String> {
        match (self, scheme.layout()?) {
            (_, Layout::Bnb) if !chosen => None,
            (Self::Encode, Layout::Bnb) => Some(
                "a model of sentence-transformers, so int8 is stored as bitsandbytes has it: W8A8, the scheme of other \
                 models, does not encode in sentence-transformers 6"
                    .to_owned(),
            ),
            (Self::Encode, Layout::CompressedTensors) => Some(format!(
                "sentence-transformers 6 does not encode with {}: the bundle is for transformers and vLLM; int8 as \
                 bitsandbytes has it, fp16 and bf16 encode",
                scheme.name()
            )),
            (Self::Generate, Layout::Bnb) => Some(
                "a model with an encoder and a decoder, so int8 is stored as bitsandbytes has it: in W8A8, the scheme of \
                 other models, it does not generate in transformers 5"
                    .to_owned(),
            ),
            (Self::Generate, Layout::CompressedTensors) => Some(format!(
                "a model with an encoder and a decoder does not generate in transformers 5 in {}, only its forward pass \
                 serves; int8 as bitsandbytes has it, fp16 and bf16 generate",
                scheme.name()
            )),
        }
    }
}
