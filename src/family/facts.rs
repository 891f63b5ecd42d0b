//! The facts of a family, as formats/families holds them.
//!
//! Owns the types of `formats/families/*.json`; a key too many or too few is refused. Leaves to the plan what follows
//! from the facts. Every fact is in the files, none in this code. Carries out formats/family.schema.json.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::text::{BundleStem, HubId, Source};
use crate::names::{FamilyName, Line, PackageName, Pin, Range};

/// One size of MiniGemini: its checkpoints, shapes, requirements and rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// The family's name, e.g. `mgm-7b`.
    pub name: FamilyName,
    /// Which class the checkpoint is of.
    pub model: ModelClass,
    /// Values of config.json by which the family is told apart.
    pub shapes: Shapes,
    /// Counts of the whole checkpoint.
    pub sizes: Sizes,
    /// The plain and the HD checkpoint.
    pub checkpoints: Vec<Published>,
    /// The Python environment that serves this family.
    pub requirements: Vec<Requirement>,
    /// What a device map must respect.
    pub placement: Placement,
    /// Which modules and tensors int8 leaves alone.
    pub quantization: QuantizationRules,
    /// The vision towers, which lie beside the weights.
    pub towers: Vec<Tower>,
    /// The prompt template.
    pub conversation: Conversation,
}

impl Family {
    /// The facts of one variant's checkpoint.
    pub fn checkpoint(&self, variant: Variant) -> Option<&Published> {
        self.checkpoints.iter().find(|published| published.variant == variant)
    }

    /// What this family asks of one Python package (`python` for the interpreter).
    pub fn requirement(&self, package: &str) -> Option<&Requirement> {
        self.requirements.iter().find(|requirement| requirement.package == package)
    }

    /// The tower of a role.
    pub fn tower(&self, role: TowerRole) -> Option<&Tower> {
        self.towers.iter().find(|tower| tower.role == role)
    }

    /// The rule that keeps a tensor from ever being quantized; `None` where it may be.
    pub fn keeps(&self, tensor: &str) -> Option<&KeepRule> {
        self.quantization.kept.iter().find(|rule| rule.matches(tensor))
    }
}

/// The plain checkpoint of a size, or the one trained on more and larger crops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// One image of 336 pixels for CLIP, 768 for the auxiliary tower.
    Plain,
    /// Four crops and the whole image for CLIP, 1536 pixels for the auxiliary tower.
    Hd,
}

/// `model_type` of config.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelType {
    /// On Llama: 7B, 8B, 13B and 34B.
    Mgm,
    /// On Gemma: 2B.
    MgmGemma,
    /// On Mixtral: 8x7B.
    MgmMixtral,
}

impl ModelType {
    /// The type that config.json's word means.
    pub fn from_word(word: &str) -> Option<Self> {
        [ModelType::Mgm, ModelType::MgmGemma, ModelType::MgmMixtral]
            .into_iter()
            .find(|it| it.as_str() == word)
    }

    /// The word in config.json.
    pub fn as_str(self) -> &'static str {
        match self {
            ModelType::Mgm => "mgm",
            ModelType::MgmGemma => "mgm_gemma",
            ModelType::MgmMixtral => "mgm_mixtral",
        }
    }
}

/// Which class a checkpoint is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelClass {
    /// `model_type` of config.json.
    pub model_type: ModelType,
    /// The class name in config.json's `architectures`.
    pub architecture: String,
    /// The language model it was trained from.
    pub base: HubId,
    /// Where these facts come from.
    pub source: Source,
}

/// Values of config.json by which a family is told apart; fields are named by config.json's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shapes {
    /// Width of the residual stream.
    pub hidden_size: NonZeroU64,
    /// Decoder layers.
    pub num_hidden_layers: NonZeroU64,
    /// Query heads.
    pub num_attention_heads: NonZeroU64,
    /// Key and value heads.
    pub num_key_value_heads: NonZeroU64,
    /// Width of one head.
    pub head_dim: NonZeroU64,
    /// Width of the feed-forward part.
    pub intermediate_size: NonZeroU64,
    /// Rows of the embedding.
    pub vocab_size: NonZeroU64,
    /// Positions; sizes the rotary caches.
    pub max_position_embeddings: NonZeroU64,
    /// Experts of a layer; `None` in a dense model.
    #[serde(deserialize_with = "required")]
    pub num_local_experts: Option<NonZeroU64>,
    /// Experts asked for each token; `None` in a dense model.
    #[serde(deserialize_with = "required")]
    pub num_experts_per_tok: Option<NonZeroU64>,
    /// True where lm_head shares the embedding's storage.
    pub tie_word_embeddings: bool,
    /// Width of the CLIP tower.
    pub mm_hidden_size: NonZeroU64,
    /// Sum of the auxiliary tower's stage widths.
    pub mm_hidden_size_aux: NonZeroU64,
    /// Form of `mm_projector`, by MGM's word for it.
    pub mm_projector_type: String,
    /// Where these facts come from.
    pub source: Source,
}

impl Shapes {
    /// Key of config.json and value.
    pub(super) fn entries(&self) -> [(&'static str, Value); 14] {
        let optional = |number: Option<NonZeroU64>| number.map_or(Value::Null, |number| number.get().into());
        [
            ("hidden_size", self.hidden_size.get().into()),
            ("num_hidden_layers", self.num_hidden_layers.get().into()),
            ("num_attention_heads", self.num_attention_heads.get().into()),
            ("num_key_value_heads", self.num_key_value_heads.get().into()),
            ("head_dim", self.head_dim.get().into()),
            ("intermediate_size", self.intermediate_size.get().into()),
            ("vocab_size", self.vocab_size.get().into()),
            ("max_position_embeddings", self.max_position_embeddings.get().into()),
            ("num_local_experts", optional(self.num_local_experts)),
            ("num_experts_per_tok", optional(self.num_experts_per_tok)),
            ("tie_word_embeddings", self.tie_word_embeddings.into()),
            ("mm_hidden_size", self.mm_hidden_size.get().into()),
            ("mm_hidden_size_aux", self.mm_hidden_size_aux.get().into()),
            ("mm_projector_type", self.mm_projector_type.as_str().into()),
        ]
    }
}

/// Counts of the whole checkpoint, without towers and without tied copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Parameters of the language model alone.
    pub language_model_parameters: NonZeroU64,
    /// Parameters of `mm_projector`.
    pub mm_projector_parameters: NonZeroU64,
    /// Parameters of the three `vlm_uni` projectors.
    pub vlm_uni_parameters: NonZeroU64,
    /// Tensors, without int8 side tensors.
    pub tensors: NonZeroU64,
    /// Weights that int8 makes one byte each.
    pub int8_weights: NonZeroU64,
    /// Rows of those weights: one float32 scale each.
    pub int8_rows: NonZeroU64,
    /// Parameters that stay 16-bit.
    pub kept_parameters: NonZeroU64,
    /// Bytes of all weights at 16 bits.
    pub bytes_16_bit: NonZeroU64,
    /// Bytes with int8: codes, scales and what stays 16-bit.
    pub bytes_int8: NonZeroU64,
    /// Where these facts come from.
    pub source: Source,
}

/// One checkpoint of a family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Plain or HD.
    pub variant: Variant,
    /// Names the command line takes, lower case, the short one first.
    pub aliases: Vec<String>,
    /// Where it is published; `None` where it is not.
    #[serde(deserialize_with = "required")]
    pub hub_id: Option<HubId>,
    /// Folder name of a bundle before the scheme's suffix.
    pub bundle_stem: BundleStem,
    /// The values of config.json in which the variants differ.
    pub config: VariantConfig,
    /// Where these facts come from.
    pub source: Source,
}

/// The values of config.json in which the variants differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantConfig {
    /// Side of the image the auxiliary tower sees, in pixels.
    pub image_size_aux: NonZeroU64,
    /// Crops along one side; above 1 is HD.
    pub image_grid: NonZeroU64,
    /// True where the whole image is seen beside its crops.
    pub image_global: bool,
    /// Longest prompt in tokens.
    pub tokenizer_model_max_length: NonZeroU64,
}

/// What a family asks of one Python package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// Name on the package index; `python` is the interpreter.
    pub package: PackageName,
    /// The version a bundle asks for.
    pub pin: Pin,
    /// Versions known or reasoned to work, as a PEP 440 specifier.
    pub range: Range,
    /// Versions seen running with this class of model; empty where none was recorded.
    pub ran: Vec<Pin>,
    /// Why this version.
    pub reason: Line,
    /// Where these facts come from.
    pub source: Source,
    /// What other versions, or none, are known to end in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
}

/// What a version out of range, or a package that is not installed, ends in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The versions, as a PEP 440 specifier; `None` where the package is not installed.
    #[serde(deserialize_with = "required")]
    pub versions: Option<String>,
    /// The exception that is raised: its type and text.
    pub raises: String,
    /// The call that raises it.
    pub call: String,
    /// Where this is known from.
    pub source: Source,
}

/// What a device map must respect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Module classes that stay on one device.
    pub no_split_classes: Vec<String>,
    /// Groups of tensor names that share one storage.
    pub tied: Vec<Vec<String>>,
    /// Where these facts come from.
    pub source: Source,
}

/// Which modules and tensors int8 leaves alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizationRules {
    /// `llm_int8_skip_modules` of the bundle's config.json; matched by substring of the dotted name.
    pub skip_modules: Vec<String>,
    /// Tensors that are never quantized: the first rule that matches gives the reason.
    pub kept: Vec<KeepRule>,
    /// Where these facts come from.
    pub source: Source,
}

/// A rule that keeps tensors from being quantized.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepRule {
    /// Which end of the name is compared.
    #[serde(rename = "match")]
    pub end: NameEnd,
    /// What the name starts or ends with.
    pub text: String,
    /// Why such tensors are kept.
    pub reason: String,
}

impl KeepRule {
    /// True where the rule speaks of this tensor.
    pub fn matches(&self, tensor: &str) -> bool {
        match self.end {
            NameEnd::StartsWith => tensor.starts_with(&self.text),
            NameEnd::EndsWith => tensor.ends_with(&self.text),
        }
    }
}

/// Which end of a tensor's name a rule compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NameEnd {
    /// The name starts with the text.
    StartsWith,
    /// The name ends with the text.
    EndsWith,
}

/// A vision tower: where it lies, and what of it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tower {
    /// Which of the two it is.
    pub role: TowerRole,
    /// The key of config.json that holds its path.
    pub config_key: String,
    /// Its module in the model.
    pub module: String,
    /// Where it lies in a bundle, relative to the bundle.
    pub path: String,
    /// Where it is published.
    pub hub_id: HubId,
    /// Files that must be there at load, weights apart.
    pub files: Vec<String>,
    /// File names of its weights: one of them must be there.
    pub weights_one_of: Vec<String>,
    /// Substrings of the path by which MGM picks the class.
    pub path_contains: Vec<String>,
    /// Prefixes of the tensor names that are used; all others are ignored.
    pub state_prefixes: Vec<String>,
    /// Parameters of what is used.
    pub parameters: NonZeroU64,
    /// Where these facts come from.
    pub source: Source,
}

impl Tower {
    /// Bytes of what is used of it, in 16 bits.
    pub fn bytes(&self) -> u64 {
        self.parameters.get().saturating_mul(2)
    }
}

/// Which of MGM's two towers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TowerRole {
    /// CLIP, which sees the small image.
    Clip,
    /// ConvNeXt, which sees the large one.
    Aux,
}

/// The prompt template, by MGM's name for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conversation {
    /// The template the model was trained and evaluated with.
    pub template: String,
    /// What MGM's command line infers from the folder's name; where it differs, `--conv-mode` must be given.
    pub cli_infers: String,
    /// Where these facts come from.
    pub source: Source,
}

/// Reads an `Option` whose key must be there, null or not. (serde takes a missing key for `None`.)
fn required<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer)
}

#[cfg(test)]
mod tests {
    use crate::family::Family;

    #[test]
    fn norms_biases_and_towers_are_kept_and_layer_weights_are_not() {
        let family = Family::by_alias("8x7b").unwrap().0;
        assert!(family.keeps("model.layers.3.block_sparse_moe.gate.weight").is_some());
        assert!(family.keeps("model.layers.3.block_sparse_moe.experts.7.w2.weight").is_none());
        assert!(family.keeps("model.layers.3.post_attention_layernorm.weight").is_some());
        assert!(
            family
                .keeps("model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight")
                .is_some()
        );
        let family = Family::by_alias("7b").unwrap().0;
        assert!(family.keeps("model.layers.3.mlp.gate_proj.weight").is_none());
    }
}
