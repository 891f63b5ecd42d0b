//! From a plan to what the device map planner places: modules in layer order with their true sizes.
//!
//! Owns the step from tensors of a bundle to modules, and the default workload. Leaves the placing to
//! `device_map`. Carries out formats/bundle.md, "Device map".

use indexmap::IndexMap;
use serde_json::{Value, json};

use crate::device_map::{
    self, Alternatives, Attention, Device, DeviceMap, IMAGE_TOKENS, IMAGE_TOKENS_HD, MemoryTable, Module,
    Request, Reserves, Workload,
};
use crate::error::{DeviceMapError, Result};
use crate::family::{Match, Variant};
use crate::plan::Plan;
use crate::structure::{Role, role_of};

/// What the user asks of a device map.
#[derive(Clone, Debug)]
pub struct MapRequest {
    /// `--gpus`; `None` places everything on one device and says how much it needs.
    pub memory: Option<MemoryTable>,
    /// `--context`: tokens of prompt and answer, images apart.
    pub context: u64,
    /// `--batch`: sequences at a time.
    pub batch: u64,
    /// `--reserve`: bytes kept free on every device.
    pub reserve: u64,
    /// `--allow-cpu`: bytes of host memory that decoder layers and norm may take; `None` allows none.
    pub allow_cpu: Option<u64>,
}

impl Default for MapRequest {
    fn default() -> Self {
        Self { memory: None, context: 2048, batch: 1, reserve: 512 << 20, allow_cpu: None }
    }
}

/// Plans the map of a bundle, and describes what it was planned for. `towers`: module and bytes of each tower.
///
/// # Errors
/// [`DeviceMapError`] where the model does not fit, with the shortfall.
pub fn device_map(
    plan: &Plan,
    family: Option<&Match>,
    towers: &[(String, u64)],
    config: &Value,
    request: &MapRequest,
) -> Result<(DeviceMap, Value)> {
    let modules = of_plan(plan, towers, config);
    let workload = workload(family, config, request);
    let tied_head = is_tied(config);
    let reserves = match (&request.memory, &workload) {
        (None, _) => Reserves::default(),
        (Some(_), Some(workload)) => {
            workload.reserves(request.reserve, encoder_activations(family, request.batch))
        }
        (Some(_), None) => Reserves { per_device: request.reserve, ..Reserves::default() },
    };
    // Without a memory table the map is for one device of whatever size, and records what that takes.
    let total = modules.iter().map(|module| module.bytes).fold(0, u64::saturating_add);
    let single = || MemoryTable::new([(Device::Gpu(0), total)]);
    let memory = request.memory.clone().or_else(single).ok_or(DeviceMapError::NoAccelerator)?;
    let alternatives = Alternatives { int8: None, workload };
    let map = device_map::plan_mgm(&Request {
        modules: &modules,
        memory: &memory,
        tied_head,
        reserves,
        allow_cpu: request.allow_cpu,
        alternatives,
    })?;
    let asked = request.memory.is_some();
    let described = json!({
        "table": memory,
        "given": asked,
        "context": asked.then_some(request.context),
        "batch": asked.then_some(request.batch),
        "reserve": asked.then_some(request.reserve),
    });
    Ok((map, described))
}

/// The modules of a bundle in layer order. `towers`: modules that the loader reads from elsewhere, in bytes.
fn of_plan(plan: &Plan, towers: &[(String, u64)], config: &Value) -> Vec<Module> {
    let mut sizes: IndexMap<String, (Role, u64)> = IndexMap::new();
    for tensor in &plan.tensors {
        let name = tensor.name.as_str();
        let role = role_of(name);
        let bytes: u64 = tensor.outputs.iter().map(|output| output.byte_len).sum();
        let entry = sizes.entry(unit_of(name, role)).or_insert((role, 0));
        entry.1 = entry.1.saturating_add(bytes);
    }
    for (module, bytes) in towers {
        let entry = sizes.entry(module.clone()).or_insert((Role::Tower, 0));
        entry.1 = entry.1.max(*bytes);
    }
    if is_tied(config) && !sizes.keys().any(|name| role_of(&format!("{name}.weight")) == Role::Head) {
        sizes.insert("lm_head".to_owned(), (Role::Head, 0));
    }
    sizes.sort_by(|a, b, c, d| b.0.cmp(&d.0).then_with(|| crate::structure::natural(a, c)));
    sizes
        .into_iter()
        .map(|(name, (role, bytes))| Module { role: map_role(&name, role), name, bytes })
        .collect()
}

/// The key in a device map that a tensor falls under.
fn unit_of(name: &str, role: Role) -> String {
    let through = |stop: &dyn Fn(&str) -> bool, extra: usize| {
        let mut parts = Vec::new();
        let mut left = None;
        for part in name.split('.') {
            parts.push(part);
            left = match left {
                Some(1) => return parts.join("."),
                Some(more) => Some(more - 1),
                None if stop(part) && extra == 0 => return parts.join("."),
                None if stop(part) => Some(extra),
                None => None,
            };
        }
        name.rsplit_once('.').map_or(name, |(module, _)| module).to_owned()
    };
    match role {
        Role::Layer(_) => through(&|part| matches!(part, "layers" | "layer" | "h" | "blocks" | "block"), 1),
        Role::Uni => through(&|part| part.starts_with("vlm_uni") || part.starts_with("vision_fpn"), 0),
        Role::Projector => through(&|part| part.ends_with("projector"), 0),
        Role::Tower => through(&|part| part.starts_with("vis") || part.starts_with("image"), 0),
        Role::Embedding | Role::Final | Role::Head => {
            name.rsplit_once('.').map_or(name, |(module, _)| module).to_owned()
        }
    }
}

fn map_role(name: &str, role: Role) -> device_map::Role {
    match role {
        Role::Embedding => device_map::Role::Embedding,
        Role::Layer(index) => device_map::Role::DecoderLayer(index),
        Role::Final if name.contains("norm") || name.ends_with("ln_f") => device_map::Role::Norm,
        Role::Final => device_map::Role::Other,
        Role::Projector => device_map::Role::Projector,
        Role::Head => device_map::Role::Head,
        Role::Uni => device_map::Role::Uni,
        Role::Tower => device_map::Role::Tower,
    }
}

fn is_tied(config: &Value) -> bool {
    config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or_else(|| {
        // Gemma's configurations leave the key out, and its class ties.
        config
            .get("model_type")
            .and_then(Value::as_str)
            .is_some_and(|model_type| model_type.contains("gemma"))
    })
}

/// Working memory of MGM's encoders on the first device; none for language models.
fn encoder_activations(family: Option<&Match>, batch: u64) -> u64 {
    family.map_or(0, |found| Workload::encoder_activations(found.variant == Variant::Hd, batch))
}

/// Cache and logits of the context asked for; `None` where config.json does not tell the heads.
fn workload(family: Option<&Match>, config: &Value, request: &MapRequest) -> Option<Workload> {
    let number = |key: &str| config.get(key).and_then(Value::as_u64);
    let heads = number("num_attention_heads")?;
    let head_dim = number("head_dim").or_else(|| number("hidden_size")?.checked_div(heads))?;
    let attention = Attention {
        kv_heads: number("num_key_value_heads").unwrap_or(heads),
        head_dim,
        vocab: number("vocab_size")?,
    };
    let image_tokens = match family.map(|found| found.variant) {
        None => 0,
        Some(Variant::Plain) => IMAGE_TOKENS,
        Some(Variant::Hd) => IMAGE_TOKENS_HD,
    };
    Some(Workload { attention, context: request.context, image_tokens, batch: request.batch })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_fall_under_the_keys_that_loaders_know() {
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
            ("weight", "weight"),
        ] {
            assert_eq!(unit_of(name, role_of(name)), unit, "{name}");
        }
    }
}
