//! Model trees built from `config.json`, without Python.
//!
//! Owns names, classes, shapes and the order of registration of the language models mgpack knows, and of the buffers
//! that no checkpoint holds. `vision` adds MGM's vision half, `builder` collects. Leaves the reading of files to the
//! caller: a config comes in parsed. Source: transformers 4.36.2 (Llama, Mistral, Mixtral), 4.39.0 (Gemma, Qwen2),
//! 4.51.3 (Qwen3) and MGM at commit 769820c, each built on the meta device and compared.

mod builder;
mod vision;

use serde::Deserialize;
use serde_json::Value;

use self::builder::Builder;
use self::vision::vision_half;
use super::{ModelTree, Sizing, TensorKind, TreeTensor, torch_dtype};
use crate::error::DeviceMapError;
use crate::tensor::Dtype;

/// Most layers, projector stages and experts per layer accepted. Real models stay below 512; a config is
/// untrusted.
const MAX_PARTS: u64 = 1024;

/// Most experts in all layers together: bounds the tree of a hostile config to some hundred thousand modules.
const MAX_EXPERTS: u64 = 65_536;

/// Which language model a tree belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TreeKind {
    /// Llama 1–3, Vicuna, Yi.
    Llama,
    /// Mistral.
    Mistral,
    /// Mixtral: sparse experts.
    Mixtral,
    /// Gemma: scaled embeddings, tied head.
    Gemma,
    /// Qwen2 and 2.5: biases on queries, keys and values.
    Qwen2,
    /// Qwen3: norms on queries and keys, one rotary table for all layers.
    Qwen3,
}

impl TreeKind {
    /// Name of the class family: the `Llama` of `LlamaDecoderLayer`.
    fn class(self) -> &'static str {
        match self {
            TreeKind::Llama => "Llama",
            TreeKind::Mistral => "Mistral",
            TreeKind::Mixtral => "Mixtral",
            TreeKind::Gemma => "Gemma",
            TreeKind::Qwen2 => "Qwen2",
            TreeKind::Qwen3 => "Qwen3",
        }
    }

    /// The attention that the source's version chooses by default.
    fn attention_class(self) -> &'static str {
        match self {
            TreeKind::Llama => "LlamaSdpaAttention",
            TreeKind::Mistral => "MistralAttention",
            TreeKind::Mixtral => "MixtralAttention",
            TreeKind::Gemma => "GemmaSdpaAttention",
            TreeKind::Qwen2 => "Qwen2SdpaAttention",
            TreeKind::Qwen3 => "Qwen3Attention",
        }
    }

    /// The kind that the name of a model class, such as `MGMMixtralForCausalLM`, means.
    pub fn of_class(class: &str) -> Option<Self> {
        let model = class.strip_suffix("ForCausalLM")?;
        let model = model.strip_prefix("MGM").or_else(|| model.strip_prefix("MiniGemini")).unwrap_or(model);
        [Self::Llama, Self::Mistral, Self::Mixtral, Self::Gemma, Self::Qwen2, Self::Qwen3]
            .into_iter()
            .find(|known| known.class() == model)
    }
}

/// How much of MGM's vision half a tree has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vision {
    /// None: a plain language model.
    None,
    /// As transformers loads it: both towers empty, no `vlm_uni_*`.
    AsLoaded,
    /// After MGM has built its towers and `vlm_uni_*`.
    Full,
}

/// What a tree follows from; the fields of `config.json` under their own names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)] // They are transformers' names, with its meanings.
pub struct ModelConfig {
    pub vocab_size: u64,
    pub hidden_size: u64,
    pub intermediate_size: u64,
    pub num_hidden_layers: u64,
    pub num_attention_heads: u64,
    #[serde(default)]
    pub num_key_value_heads: Option<u64>,
    #[serde(default)]
    pub head_dim: Option<u64>,
    /// Sizes the rotary tables; 2048 if absent, as in transformers' Llama.
    #[serde(default)]
    pub max_position_embeddings: Option<u64>,
    #[serde(default)]
    pub tie_word_embeddings: Option<bool>,
    #[serde(default)]
    pub attention_bias: Option<bool>,
    #[serde(default)]
    pub hidden_act: Option<String>,
    #[serde(default)]
    pub hidden_activation: Option<String>,
    #[serde(default)]
    pub num_local_experts: Option<u64>,
    #[serde(default)]
    pub torch_dtype: Option<String>,
    /// The name of `torch_dtype` from transformers 5 on.
    #[serde(default)]
    pub dtype: Option<String>,
    #[serde(default)]
    pub mm_hidden_size: Option<u64>,
    #[serde(default)]
    pub mm_hidden_size_aux: Option<u64>,
    #[serde(default)]
    pub mm_projector_type: Option<String>,
}

impl ModelConfig {
    /// Key-value heads: as many as attention heads unless the config says otherwise.
    pub fn kv_heads(&self) -> u64 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Elements per attention head.
    pub fn head_dim(&self) -> u64 {
        self.head_dim.unwrap_or_else(|| self.hidden_size.checked_div(self.num_attention_heads).unwrap_or(0))
    }
}

/// Builds the tree of the model that a config.json describes, in 16-bit floats.
///
/// # Errors
/// [`DeviceMapError::NoTree`] for a class that no tree is known of, [`DeviceMapError::BadConfig`].
pub(crate) fn tree_of_config(config: &Value, vision: Vision) -> Result<ModelTree, DeviceMapError> {
    let class = config.pointer("/architectures/0").and_then(Value::as_str).unwrap_or_default();
    let unknown = || DeviceMapError::NoTree { class: class.chars().take(80).collect() };
    let kind = TreeKind::of_class(class).ok_or_else(unknown)?;
    let numbers = ModelConfig::deserialize(config)
        .map_err(|error| DeviceMapError::BadConfig { field: "config", value: error.to_string() })?;
    build_tree(kind, &numbers, vision, Some(Dtype::F16))
}

/// Builds the tree of a model.
///
/// `dtype`: the type the weights are loaded in; `None` takes the config's `torch_dtype`, else 16-bit floats.
///
/// # Errors
/// [`DeviceMapError::BadConfig`] where a number is beyond its limit or a name is not known.
pub fn build_tree(
    kind: TreeKind,
    config: &ModelConfig,
    vision: Vision,
    dtype: Option<Dtype>,
) -> Result<ModelTree, DeviceMapError> {
    let known = config
        .torch_dtype
        .as_deref()
        .or(config.dtype.as_deref())
        .map(|name| name.trim_start_matches("torch."));
    let dtype = match (dtype, known) {
        (Some(dtype), _) => dtype,
        (None, Some(name)) => torch_dtype(name).ok_or_else(|| bad("torch_dtype", name))?,
        (None, None) => Dtype::F16,
    };
    for (field, value) in [
        ("num_hidden_layers", config.num_hidden_layers),
        ("num_local_experts", config.num_local_experts.unwrap_or(0)),
    ] {
        if value > MAX_PARTS {
            return Err(bad(field, &value.to_string()));
        }
    }
    let experts = config.num_local_experts.unwrap_or(0);
    if kind == TreeKind::Mixtral && experts * config.num_hidden_layers > MAX_EXPERTS {
        return Err(bad("num_local_experts", &experts.to_string()));
    }
    let mut tree = Builder::new(dtype);
    let class = kind.class();
    let prefix = if vision == Vision::None { "" } else { "MGM" };
    tree.module("", &format!("{prefix}{class}ForCausalLM"));
    tree.module("model", &format!("{prefix}{class}Model"));
    tree.module("model.embed_tokens", "Embedding");
    tree.param("model.embed_tokens.weight", &[config.vocab_size, config.hidden_size]);
    tree.module("model.layers", "ModuleList");
    for layer in 0..config.num_hidden_layers {
        decoder_layer(&mut tree, kind, config, &format!("model.layers.{layer}"))?;
    }
    tree.norm("model.norm", &format!("{class}RMSNorm"), config.hidden_size);
    if kind == TreeKind::Qwen3 {
        tree.module("model.rotary_emb", "Qwen3RotaryEmbedding");
        tree.buffer("model.rotary_emb.inv_freq", &[config.head_dim().div_ceil(2)], Dtype::F32);
    }
    if vision != Vision::None {
        vision_half(&mut tree, config, vision)?;
    }
    tree.module("lm_head", "Linear");
    let is_tied = config.tie_word_embeddings.unwrap_or(kind == TreeKind::Gemma);
    if !is_tied {
        tree.linear_weight("lm_head", config.vocab_size, config.hidden_size);
    }
    let tied = is_tied.then(|| vec!["lm_head.weight".to_owned(), "model.embed_tokens.weight".to_owned()]);
    Ok(tree.finish(tied.into_iter().collect()))
}

/// Classes that transformers passes to accelerate as not to be split, sorted: those of the layers that the tree has.
pub fn no_split_classes(tree: &ModelTree) -> Vec<String> {
    let classes = tree.modules.iter().map(|module| module.class.as_str());
    let mut whole: Vec<String> = classes
        .filter(|class| class.ends_with("DecoderLayer") || *class == "CLIPEncoderLayer")
        .map(str::to_owned)
        .collect();
    whole.sort_unstable();
    whole.dedup();
    whole
}

/// Modules that transformers 4.36.2 keeps out of quantization: those of shared parameters, and the last.
pub(crate) fn not_converted(tree: &ModelTree) -> Vec<String> {
    let names = tree.tied.iter().flatten().map(String::as_str);
    let mut modules: Vec<String> = names
        .chain(params(tree).next_back().map(|tensor| tensor.name.as_str()))
        .map(|name| name.rsplit_once('.').map_or(name, |(module, _)| module).to_owned())
        .collect();
    modules.sort_unstable();
    modules.dedup();
    modules
}

impl Sizing {
    /// What transformers 4.36.2 passes to accelerate for int8: 1 byte, and 2 for parameters whose name contains one
    /// of [`not_converted`]. This counts embeddings and norms too small.
    pub fn int8_hf(tree: &ModelTree) -> Self {
        Self::at_most(8).with_special(not_converted_params(tree), 16)
    }

    /// What lies in memory with bitsandbytes: 1 byte for the weights of converted `Linear`s; 2 for all other
    /// parameters, `lm_head`, and what MGM builds afterwards (towers, `vlm_uni_*`). Scales are not counted.
    pub fn int8_bnb(tree: &ModelTree) -> Self {
        const KEPT: [&str; 3] = ["lm_head.", "model.vision_tower", "model.vlm_uni_"];
        let kept = params(tree).filter(|tensor| {
            tensor.kind == (TensorKind::Param { linear: false })
                || KEPT.iter().any(|prefix| tensor.name.starts_with(prefix))
        });
        Self::at_most(8).with_special(kept.map(|tensor| tensor.name.as_str()), 16)
    }
}

fn params(tree: &ModelTree) -> impl DoubleEndedIterator<Item = &TreeTensor> {
    tree.tensors.iter().filter(|tensor| matches!(tensor.kind, TensorKind::Param { .. }))
}

fn not_converted_params(tree: &ModelTree) -> Vec<&str> {
    let modules = not_converted(tree);
    let names = params(tree).map(|tensor| tensor.name.as_str());
    names.filter(|name| modules.iter().any(|module| name.contains(module.as_str()))).collect()
}

fn bad(field: &'static str, value: &str) -> DeviceMapError {
    DeviceMapError::BadConfig { field, value: value.chars().take(80).collect() }
}

/// Class of the activation that transformers registers for a name in a config.
fn activation_class(field: &'static str, name: &str) -> Result<&'static str, DeviceMapError> {
    Ok(match name {
        "silu" | "swish" => "SiLU",
        "gelu" => "GELUActivation",
        "gelu_new" => "NewGELUActivation",
        "gelu_pytorch_tanh" => "PytorchGELUTanh",
        "quick_gelu" => "QuickGELUActivation",
        "relu" => "ReLU",
        other => return Err(bad(field, other)),
    })
}

fn decoder_layer(
    tree: &mut Builder,
    kind: TreeKind,
    config: &ModelConfig,
    layer: &str,
) -> Result<(), DeviceMapError> {
    let class = kind.class();
    let norm_class = format!("{class}RMSNorm");
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let head_dim = config.head_dim();
    let q_dim = product("num_attention_heads", config.num_attention_heads, head_dim)?;
    let kv_dim = product("num_key_value_heads", config.kv_heads(), head_dim)?;
    let bias = match kind {
        TreeKind::Llama | TreeKind::Gemma | TreeKind::Qwen3 => config.attention_bias.unwrap_or(false),
        TreeKind::Mistral | TreeKind::Mixtral | TreeKind::Qwen2 => false,
    };
    let qkv_bias = bias || kind == TreeKind::Qwen2;

    tree.module(layer, &format!("{class}DecoderLayer"));
    let attention = format!("{layer}.self_attn");
    tree.module(&attention, kind.attention_class());
    tree.linear(&format!("{attention}.q_proj"), q_dim, hidden, qkv_bias);
    tree.linear(&format!("{attention}.k_proj"), kv_dim, hidden, qkv_bias);
    tree.linear(&format!("{attention}.v_proj"), kv_dim, hidden, qkv_bias);
    tree.linear(&format!("{attention}.o_proj"), hidden, q_dim, bias);
    if kind == TreeKind::Qwen3 {
        tree.norm(&format!("{attention}.q_norm"), &norm_class, head_dim);
        tree.norm(&format!("{attention}.k_norm"), &norm_class, head_dim);
    } else {
        let rotary = format!("{attention}.rotary_emb");
        tree.module(&rotary, &format!("{class}RotaryEmbedding"));
        if kind != TreeKind::Gemma {
            let positions = config.max_position_embeddings.unwrap_or(2048);
            let dtype = tree.dtype();
            tree.buffer(&format!("{rotary}.inv_freq"), &[head_dim.div_ceil(2)], Dtype::F32);
            tree.buffer(&format!("{rotary}.cos_cached"), &[positions, head_dim], dtype);
            tree.buffer(&format!("{rotary}.sin_cached"), &[positions, head_dim], dtype);
        }
    }

    // Gemma's `hidden_act` is ignored: the first checkpoints had it wrong.
    let activation = match kind {
        TreeKind::Gemma => config.hidden_activation.as_deref().unwrap_or("gelu_pytorch_tanh"),
        _ => config.hidden_act.as_deref().unwrap_or("silu"),
    };
    let activation = activation_class("hidden_act", activation)?;
    if kind == TreeKind::Mixtral {
        let experts = config.num_local_experts.unwrap_or(8);
        let moe = format!("{layer}.block_sparse_moe");
        tree.module(&moe, "MixtralSparseMoeBlock");
        tree.linear(&format!("{moe}.gate"), experts, hidden, false);
        tree.module(&format!("{moe}.experts"), "ModuleList");
        for expert in 0..experts {
            let expert = format!("{moe}.experts.{expert}");
            tree.module(&expert, "MixtralBLockSparseTop2MLP");
            tree.linear(&format!("{expert}.w1"), inner, hidden, false);
            tree.linear(&format!("{expert}.w2"), hidden, inner, false);
            tree.linear(&format!("{expert}.w3"), inner, hidden, false);
            tree.module(&format!("{expert}.act_fn"), activation);
        }
    } else {
        let mlp = format!("{layer}.mlp");
        tree.module(&mlp, &format!("{class}MLP"));
        tree.linear(&format!("{mlp}.gate_proj"), inner, hidden, false);
        tree.linear(&format!("{mlp}.up_proj"), inner, hidden, false);
        tree.linear(&format!("{mlp}.down_proj"), hidden, inner, false);
        tree.module(&format!("{mlp}.act_fn"), activation);
    }
    tree.norm(&format!("{layer}.input_layernorm"), &norm_class, hidden);
    tree.norm(&format!("{layer}.post_attention_layernorm"), &norm_class, hidden);
    Ok(())
}

fn product(field: &'static str, a: u64, b: u64) -> Result<u64, DeviceMapError> {
    a.checked_mul(b).ok_or_else(|| bad(field, &a.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(changes: &str) -> ModelConfig {
        let mut config: serde_json::Value = serde_json::from_str(
            r#"{"vocab_size": 8, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 2,
                "num_attention_heads": 2, "mm_projector_type": "mlp2x_gelu"}"#,
        )
        .unwrap();
        let changes: serde_json::Value = serde_json::from_str(changes).unwrap();
        for (field, value) in changes.as_object().unwrap() {
            config[field] = value.clone();
        }
        serde_json::from_value(config).unwrap()
    }

    #[test]
    fn refuses_configs_beyond_any_model() {
        for (changes, expected) in [
            (r#"{"num_hidden_layers": 1025}"#, "num_hidden_layers"),
            (r#"{"num_hidden_layers": 1000, "num_local_experts": 1000}"#, "num_local_experts"),
            (r#"{"num_key_value_heads": 18446744073709551615, "head_dim": 2}"#, "num_key_value_heads"),
            (r#"{"hidden_act": "tanh"}"#, "hidden_act"),
            (r#"{"mm_projector_type": "mlp0x_gelu"}"#, "mm_projector_type"),
            (r#"{"torch_dtype": "float7"}"#, "torch_dtype"),
        ] {
            let error = build_tree(TreeKind::Mixtral, &config(changes), Vision::AsLoaded, None).unwrap_err();
            let DeviceMapError::BadConfig { field, .. } = &error else { panic!("{error}") };
            assert_eq!(*field, expected);
        }
    }

    #[test]
    fn survives_heads_and_dimensions_of_zero() {
        let zero = config(r#"{"num_attention_heads": 0, "hidden_size": 0, "dtype": "bfloat16"}"#);
        let tree = build_tree(TreeKind::Llama, &zero, Vision::Full, None).unwrap();
        assert!(tree.sizes(&Sizing::default()).bits("") > 0);
        assert!(tree.tensors.iter().any(|tensor| tensor.dtype == Dtype::BF16));
    }

    #[test]
    fn class_names_tell_the_architecture() {
        assert_eq!(TreeKind::of_class("MGMMixtralForCausalLM"), Some(TreeKind::Mixtral));
        assert_eq!(TreeKind::of_class("MiniGeminiLlamaForCausalLM"), Some(TreeKind::Llama));
        assert_eq!(TreeKind::of_class("Qwen3ForCausalLM"), Some(TreeKind::Qwen3));
        assert_eq!(TreeKind::of_class("Qwen3MoeForCausalLM"), None);
    }
}
