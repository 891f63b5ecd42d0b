//! Families: what is known of each size of MiniGemini, as data.
//!
//! Owns the types of `formats/families/*.json` and the ways to one of them: by alias, by hub id, or from a
//! checkpoint's config.json. Leaves to the plan what follows from the facts. Every fact is in the files, none
//! in this code. Carries out formats/family.schema.json.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::FamilyError;

/// The embedded files, smallest model first.
const FILES: [&str; 6] = [
    include_str!("../formats/families/mgm-2b.json"),
    include_str!("../formats/families/mgm-7b.json"),
    include_str!("../formats/families/mgm-8b.json"),
    include_str!("../formats/families/mgm-13b.json"),
    include_str!("../formats/families/mgm-34b.json"),
    include_str!("../formats/families/mgm-8x7b.json"),
];

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
    /// All families, smallest model first.
    pub fn all() -> &'static [Family] {
        static ALL: LazyLock<Vec<Family>> = LazyLock::new(|| {
            let read = |text: &&str| match serde_json::from_str(text) {
                Ok(family) => family,
                // The files are part of the program, and tests read every one of them.
                Err(error) => unreachable!("an embedded family file is wrong: {error}"),
            };
            FILES.iter().map(read).collect()
        });
        &ALL
    }

    /// The family and variant that an alias such as `34b`, `8x7B-hd` or `mgm-7b` means, in any case.
    ///
    /// # Errors
    /// [`FamilyError::UnknownAlias`] names the nearest alias; [`FamilyError::NotPublished`] where the family
    /// is known and the variant has no checkpoint (`2b-hd`).
    pub fn by_alias(alias: &str) -> Result<(&'static Family, Variant), FamilyError> {
        let wanted = alias.to_ascii_lowercase();
        match every_checkpoint().find(|(_, published)| published.aliases.contains(&wanted)) {
            Some((family, published)) if published.hub_id.is_some() => Ok((family, published.variant)),
            Some((_, published)) => Err(FamilyError::NotPublished {
                alias: alias.to_owned(),
                source_of_fact: published.source.to_string(),
            }),
            None => Err(unknown_alias(alias, &wanted)),
        }
    }

    /// The family and variant published under a hub id (`YanweiLi/MGM-7B-HD`), in any case; `None` for
    /// every other id, which is then a generic checkpoint or one to be told by its config.json.
    pub fn by_hub_id(hub_id: &str) -> Option<(&'static Family, Variant)> {
        let same = |known: &HubId| known.as_str().eq_ignore_ascii_case(hub_id);
        every_checkpoint()
            .find(|(_, published)| published.hub_id.as_ref().is_some_and(same))
            .map(|(family, published)| (family, published.variant))
    }

    /// Tells the family from a checkpoint's config.json, never from a folder's name.
    ///
    /// `model_type` gives the class; the shapes, all of which must agree, give the family in it. Shapes of no
    /// family lead to the smallest family of the class, with the differences listed: the class decides the
    /// tensor names and the requirements. A key that config.json does not hold disagrees with nothing,
    /// except `hidden_size` and `num_hidden_layers`. An `image_grid` above 1 makes it HD.
    pub fn detect(config: &Value) -> Detected {
        let model_type = config.get("model_type").and_then(Value::as_str);
        let of_class =
            || Family::all().iter().filter(|family| Some(family.model.model_type.as_str()) == model_type);
        let Some(first) = of_class().next() else { return Detected::Generic };

        let family = of_class().find(|family| family.shapes.has_structure_of(config)).unwrap_or(first);
        let grid = config.get("image_grid").and_then(Value::as_u64).unwrap_or(1);
        let variant = if grid > 1 { Variant::Hd } else { Variant::Plain };
        Detected::Mgm(Match { family, variant, differences: family.shapes.differences(config) })
    }

    /// The facts of one variant's checkpoint.
    pub fn checkpoint(&self, variant: Variant) -> Option<&Published> {
        self.checkpoints.iter().find(|published| published.variant == variant)
    }

    /// The config.json of one variant, as far as the facts go: enough to build its tree and to detect it.
    pub fn config(&self, variant: Variant) -> Value {
        let mut config = serde_json::Map::new();
        config.insert("architectures".into(), vec![self.model.architecture.clone()].into());
        config.insert("model_type".into(), self.model.model_type.as_str().into());
        config.extend(self.shapes.entries().map(|(key, value)| (key.to_owned(), value)));
        if let Some(published) = self.checkpoint(variant) {
            config.insert("image_grid".into(), published.config.image_grid.get().into());
        }
        config.into()
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

/// The class that MGM's loader picks from a folder's *name*; `None` where it would not see an MGM model.
///
/// A bundle's folder must lead to its own class here. Source: MGM 769820c, mgm/model/builder.py.
pub fn class_by_folder_name(folder: &str) -> Option<ModelType> {
    let folder = folder.to_ascii_lowercase();
    if !folder.contains("mgm") {
        None
    } else if folder.contains("8x7b") {
        Some(ModelType::MgmMixtral)
    } else if folder.contains("2b") {
        Some(ModelType::MgmGemma)
    } else {
        Some(ModelType::Mgm)
    }
}

/// What a config.json was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detected {
    /// An MGM checkpoint.
    Mgm(Match),
    /// Any other checkpoint: no family facts apply.
    Generic,
}

/// The family a config.json belongs to, and where it departs from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The family.
    pub family: &'static Family,
    /// Plain, or HD where `image_grid` is above 1.
    pub variant: Variant,
    /// Shapes in which the checkpoint differs from the family; empty for the published checkpoints.
    pub differences: Vec<ShapeDifference>,
}

impl Match {
    /// One sentence for the user where shapes differ: which family was taken, and the shapes.
    pub fn notice(&self) -> Option<String> {
        if self.differences.is_empty() {
            return None;
        }
        let list: Vec<String> = self.differences.iter().map(ToString::to_string).collect();
        Some(format!("taken as {}, but its shapes differ: {}", self.family.name, list.join(", ")))
    }
}

/// One value of config.json that differs from the family's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeDifference {
    /// The key in config.json.
    pub key: &'static str,
    /// The family's value.
    pub expected: Value,
    /// The checkpoint's value; null where a needed key is missing.
    pub found: Value,
}

impl fmt::Display for ShapeDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (not {})", self.key, self.found, self.expected)
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
    /// True where everything that decides the layers' tensors agrees. Vocabulary, positions and tower widths
    /// may differ: a tokenizer with added words makes no other family.
    fn has_structure_of(&self, config: &Value) -> bool {
        const FREE: [&str; 6] = [
            "vocab_size",
            "max_position_embeddings",
            "mm_hidden_size",
            "mm_hidden_size_aux",
            "mm_projector_type",
            "tie_word_embeddings",
        ];
        self.differences(config).iter().all(|difference| FREE.contains(&difference.key))
    }

    /// Every key in which `config` says something else.
    fn differences(&self, config: &Value) -> Vec<ShapeDifference> {
        let heads = config.get("num_attention_heads");
        let mut found = Vec::new();
        for (key, expected) in self.entries() {
            let value = match key {
                // Absent or null means one key head for each query head, in every class that has the key.
                "num_key_value_heads" => config.get(key).filter(|value| !value.is_null()).or(heads),
                "hidden_size" | "num_hidden_layers" => Some(config.get(key).unwrap_or(&Value::Null)),
                _ => config.get(key),
            };
            if let Some(value) = value.filter(|value| **value != expected) {
                found.push(ShapeDifference { key, expected, found: value.clone() });
            }
        }
        found
    }

    fn entries(&self) -> [(&'static str, Value); 14] {
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
    pub package: String,
    /// The version a bundle asks for.
    pub pin: String,
    /// Versions known or reasoned to work, as a PEP 440 specifier.
    pub range: String,
    /// Versions seen running with this class of model; empty where none was recorded.
    pub ran: Vec<String>,
    /// Why this version.
    pub reason: String,
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

/// Declares a text that is checked where it is read.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $refusal:literal, $good:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = &'static str;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                let good: fn(&str) -> bool = $good;
                if good(&text) { Ok(Self(text)) } else { Err($refusal) }
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text!(
    /// A family's name: lower-case words and digits joined by hyphens.
    FamilyName,
    "a family name is lower-case letters, digits and single hyphens",
    |text| text.split('-').all(|word| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    })
);

checked_text!(
    /// Where a group of facts comes from: never empty.
    Source,
    "a source is empty",
    |text| !text.is_empty()
);

checked_text!(
    /// `owner/name` on the hub.
    HubId,
    "a hub id is not owner/name",
    |text| text.split_once('/').is_some_and(|(owner, name)| is_word(owner) && is_word(name))
);

checked_text!(
    /// The start of a bundle's folder name. MGM's loader dispatches on it.
    BundleStem,
    "a bundle stem must contain \"mgm\" in any case and be letters, digits, dots, hyphens and underscores",
    |text| is_word(text) && text.to_ascii_lowercase().contains("mgm")
);

/// Letters, digits, `.`, `_` and `-`, the first a letter or digit.
fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Reads an `Option` whose key must be there, null or not. (serde takes a missing key for `None`.)
fn required<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer)
}

fn every_checkpoint() -> impl Iterator<Item = (&'static Family, &'static Published)> {
    Family::all()
        .iter()
        .flat_map(|family| family.checkpoints.iter().map(move |published| (family, published)))
}

fn unknown_alias(alias: &str, lower_case: &str) -> FamilyError {
    // Below this, what the two words share is chance. `70b` and `7b` give 0.9, `mgm-7` and `mgm-7b` 0.97.
    const RESEMBLES: f64 = 0.8;
    let published = || every_checkpoint().filter(|(_, published)| published.hub_id.is_some());
    let aliases = published().flat_map(|(_, published)| &published.aliases);
    let nearest = aliases
        .map(|known| (strsim::jaro_winkler(lower_case, known), known))
        .filter(|(likeness, _)| *likeness >= RESEMBLES)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known.clone());
    let known = published().filter_map(|(_, published)| published.aliases.first().cloned()).collect();
    FamilyError::UnknownAlias { alias: alias.to_owned(), nearest, known }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Explain;
    use serde_json::json;

    fn detect(config: Value) -> Match {
        match Family::detect(&config) {
            Detected::Mgm(found) => found,
            Detected::Generic => panic!("generic: {config}"),
        }
    }

    #[test]
    fn every_alias_leads_to_its_family_in_any_case() {
        let mut seen = 0;
        for (family, published) in every_checkpoint().filter(|(_, published)| published.hub_id.is_some()) {
            for alias in &published.aliases {
                let found = Family::by_alias(&alias.to_ascii_uppercase()).unwrap();
                assert_eq!((&found.0.name, found.1), (&family.name, published.variant), "{alias}");
                seen += 1;
            }
        }
        assert_eq!(seen, 22, "6 plain and 5 HD checkpoints with two aliases each");
    }

    #[test]
    fn no_alias_and_no_hub_id_means_two_checkpoints() {
        let mut names: Vec<String> = every_checkpoint()
            .flat_map(|(_, published)| {
                published.aliases.iter().cloned().chain(published.hub_id.clone().map(String::from))
            })
            .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn an_unknown_alias_names_the_nearest_one() {
        let error = Family::by_alias("34-b").unwrap_err();
        assert_eq!(error.to_string(), "no model has the alias `34-b`");
        let known = "2b, 7b, 7b-hd, 8b, 8b-hd, 13b, 13b-hd, 34b, 34b-hd, 8x7b, 8x7b-hd";
        assert_eq!(error.why().unwrap(), format!("the aliases are {known}"));
        assert_eq!(error.help().unwrap(), "did you mean `34b`?");
    }

    #[test]
    fn an_alias_like_no_other_gets_no_guess() {
        let help = Family::by_alias("qwen").unwrap_err().help().unwrap();
        assert_eq!(help, "give an alias, a hub id such as YanweiLi/MGM-7B, or a folder");
    }

    #[test]
    fn the_2b_hd_is_not_published_but_is_detected() {
        let error = Family::by_alias("2b-HD").unwrap_err();
        assert_eq!(error.to_string(), "`2b-HD` is not published");
        assert!(error.why().unwrap().contains("README.md lists no 2B-HD checkpoint"));
        let found = detect(Family::by_alias("2b").unwrap().0.config(Variant::Hd));
        assert_eq!((found.family.name.as_str(), found.variant), ("mgm-2b", Variant::Hd));
    }

    #[test]
    fn hub_ids_lead_to_their_checkpoint_and_others_to_none() {
        let (family, variant) = Family::by_hub_id("yanweili/mgm-34b-hd").unwrap();
        assert_eq!((family.name.as_str(), variant), ("mgm-34b", Variant::Hd));
        assert!(Family::by_hub_id("meta-llama/Meta-Llama-3-8B-Instruct").is_none());
    }

    #[test]
    fn each_familys_own_config_is_detected_as_it_without_differences() {
        for family in Family::all() {
            for variant in [Variant::Plain, Variant::Hd] {
                let found = detect(family.config(variant));
                assert_eq!((&found.family.name, found.variant), (&family.name, variant));
                assert_eq!(found.notice(), None);
            }
        }
    }

    #[test]
    fn shapes_of_no_family_go_to_the_first_of_the_class_with_a_notice() {
        let found = detect(json!({ "model_type": "mgm", "hidden_size": 256, "num_hidden_layers": 4,
            "num_attention_heads": 32, "intermediate_size": 11008, "vocab_size": 32000 }));
        assert_eq!(found.family.name.as_str(), "mgm-7b");
        let notice = "taken as mgm-7b, but its shapes differ: hidden_size 256 (not 4096), num_hidden_layers 4 (not 32)";
        assert_eq!(found.notice().unwrap(), notice);
    }

    #[test]
    fn a_larger_vocabulary_stays_in_the_family_with_a_notice() {
        let mut config = Family::by_alias("13b").unwrap().0.config(Variant::Plain);
        config["vocab_size"] = 32003.into();
        let found = detect(config);
        assert_eq!(found.family.name.as_str(), "mgm-13b");
        assert_eq!(
            found.notice().unwrap(),
            "taken as mgm-13b, but its shapes differ: vocab_size 32003 (not 32000)"
        );
    }

    #[test]
    fn a_missing_kv_head_count_means_one_for_each_head() {
        let mut config = Family::by_alias("7b").unwrap().0.config(Variant::Plain);
        config.as_object_mut().unwrap().remove("num_key_value_heads");
        assert_eq!(detect(config).notice(), None);
        let mut config = Family::by_alias("34b").unwrap().0.config(Variant::Plain);
        config["num_key_value_heads"] = Value::Null;
        assert_eq!(detect(config).family.name.as_str(), "mgm-7b", "34B has 8, not 56");
    }

    #[test]
    fn a_config_without_shapes_says_which_are_missing() {
        let found = detect(json!({ "model_type": "mgm_gemma" }));
        assert_eq!(found.family.name.as_str(), "mgm-2b");
        let keys: Vec<_> = found.differences.iter().map(|difference| difference.key).collect();
        assert_eq!(keys, ["hidden_size", "num_hidden_layers"]);
    }

    #[test]
    fn anything_else_is_generic() {
        for config in
            [json!({ "model_type": "llama" }), json!({ "model_type": "mgm_mistral" }), json!({}), json!([1])]
        {
            assert_eq!(Family::detect(&config), Detected::Generic, "{config}");
        }
    }

    #[test]
    fn every_bundle_stem_leads_mgm_to_the_right_class() {
        for (family, published) in every_checkpoint() {
            for suffix in ["", "-int8", "-fp16", "-bf16"] {
                let folder = format!("{}{suffix}", published.bundle_stem);
                assert_eq!(class_by_folder_name(&folder), Some(family.model.model_type), "{folder}");
            }
        }
        // Seen: a hash that holds "2b" sent a 7B to Gemma.
        assert_eq!(class_by_folder_name("MGM-7B-a92b1f"), Some(ModelType::MgmGemma));
        assert_eq!(class_by_folder_name("MiniGemini-7B"), None);
    }

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
