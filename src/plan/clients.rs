//! What a generic bundle says to the programs that load it, and to the user about them.
//!
//! Owns the list of modules that stay float, the notices and the one refusal that follow from what a client can do, which
//! `subject` has. Carries out formats/schemes.md, "quantization_config".

use super::{Plan, Precision, Skip};
use crate::checkpoint::SourceTensor;
use crate::error::{PlanError, Result};
use crate::scheme::{Layout, Scheme};
use crate::size::agreed;
use crate::structure::{ROUTER, Role, role_of};
use crate::subject::{self, Subject};

/// The file in which sentence-transformers keeps the parts of a model.
const SENTENCE_MODULES: &str = "modules.json";

/// Patterns of the modules of a generic bundle that stay float, as its quantization_config lists them: by their names
/// in the checkpoint, then by those in the class that loads it where these are others.
pub(crate) fn skip_modules(plan: &Plan, subject: &Subject) -> Vec<String> {
    let is_bnb = plan.scheme.layout() == Some(Layout::Bnb);
    let has_router = plan.tensors.iter().any(|it| it.skip == Some(Skip::Rule(ROUTER)));
    let of_checkpoint: Vec<String> = plan.float_modules().into_iter().map(str::to_owned).collect();
    let mut of_class: Vec<String> = Vec::new();
    for module in &of_checkpoint {
        let weight = format!("{module}.weight");
        let renamed = subject.name_in_class(&weight);
        let renamed = renamed.strip_suffix(".weight").unwrap_or(&renamed);
        let of_key = || {
            let key = subject.key_of(&weight);
            if is_bnb { key } else { format!(r"re:{}(\.|$)", regex::escape(&key)) }
        };
        let pattern = match role_of(&weight) {
            // All of it is float, and inside it the class may have other names.
            Role::Tower | Role::Projector | Role::Uni => of_key(),
            _ if renamed == *module => continue,
            // One pattern below names them all.
            Role::Layer(_) if has_router && is_router(renamed) => continue,
            Role::Layer(_) | Role::Embedding | Role::Head => renamed.to_owned(),
            Role::Final => of_key(),
        };
        if !of_checkpoint.contains(&pattern) && !of_class.contains(&pattern) {
            of_class.push(pattern);
        }
    }
    let expression = |text: &str| if is_bnb { text.to_owned() } else { format!("re:{text}") };
    if has_router {
        of_class.push(expression(subject::ROUTERS));
    }
    if !plan.has_head() {
        of_class.push(expression(subject::TIED_HEADS));
    }
    let has_fused = plan.tensors.iter().any(|it| subject::is_fused_experts(it.name.as_str(), &it.shape));
    if has_fused && !is_bnb {
        // Clients that hold them one by one ask for names such as `experts.0.up_proj`.
        of_class.push(r"re:.*\.experts\.".to_owned());
    }
    of_checkpoint.into_iter().chain(of_class).collect()
}

/// True for the last part of a name that [`subject::ROUTERS`] matches.
fn is_router(module: &str) -> bool {
    matches!(module.rsplit('.').next(), Some("gate" | "router"))
}

/// Refuses what no client could load.
///
/// # Errors
/// [`PlanError::NoClient`].
pub(super) fn check(tensors: &[SourceTensor], scheme: Scheme, subject: &Subject) -> Result<()> {
    if scheme.layout() != Some(Layout::Bnb) {
        return Ok(());
    }
    let has_fused = tensors.iter().any(|it| subject::is_fused_experts(it.name.as_str(), &it.shape));
    if has_fused && subject.loses_fused_experts() {
        return Err(PlanError::NoClient {
            what: "fused experts (3-D tensors) of Llama 4",
            scheme: scheme.name(),
            why: "transformers 5 puts linears in their place when a quantized model is loaded, and does not fill these",
        }
        .into());
    }
    if subject.is_lost_on_bitsandbytes() {
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
pub(crate) fn notice(plan: &Plan, subject: &Subject) -> Option<&'static str> {
    let codec = plan.scheme.codec()?;
    let is_fused = |name: &str, shape: &[u64]| subject::is_fused_experts(name, shape);
    if subject.loses_fused_experts() && plan.tensors.iter().any(|it| is_fused(it.name.as_str(), &it.shape)) {
        return Some(
            "transformers 5 cannot load Llama 4's fused experts in a quantized model: this bundle is for vLLM; \
             a bf16 bundle is for both",
        );
    }
    if codec.is_packed() && subject.reads_weights_itself() {
        return Some(
            "transformers 5 cannot load this architecture with packed weights, which its class reads itself: this bundle \
             is for vLLM on a GPU (not run here); W8A8 is for both",
        );
    }
    let mut experts =
        plan.tensors.iter().filter(|it| subject::is_single_expert(it.name.as_str()) && it.shape.len() == 2);
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

/// What becomes of the scales that were calibrated for a cache in FP8, where the checkpoint has any.
pub(super) fn cache_notice(tensors: &[SourceTensor], scheme: Scheme) -> Option<String> {
    let count = tensors.iter().filter(|tensor| tensor.is_cache_scale).count();
    let scales = agreed(count, "calibrated scale of the cache is", "calibrated scales of the cache are");
    (count > 0).then(|| match scheme.layout() {
        Some(Layout::CompressedTensors) => format!("{scales} kept: vLLM reads them for an FP8 cache"),
        Some(Layout::Bnb) | None => format!("{scales} left out: no loader of {} reads them", scheme.name()),
    })
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
    /// That of a generic checkpoint that has a file where `has_file` says so.
    pub(super) fn of(subject: &Subject, has_file: impl Fn(&str) -> bool) -> Option<Self> {
        if subject.mgm().is_some() {
            return None;
        }
        let generates = || subject.is_encoder_decoder().then_some(Self::Generate);
        if has_file(SENTENCE_MODULES) { Some(Self::Encode) } else { generates() }
    }

    /// The layout of int8 that serves, where the user asked for none.
    pub(super) fn layout(self, precision: Precision, subject: &Subject) -> Option<Layout> {
        let is_free = matches!(precision, Precision::Int8) && !subject.is_lost_on_bitsandbytes();
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
