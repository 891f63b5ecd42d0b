//! Which rules of MGM a map breaks, whoever made it.
//!
//! Owns the check; the planner `mgm` never fails it. The numbers are those of the planner's own description.
//! What each break leads to was observed by running MGM with transformers 4.36.2 and accelerate 0.25.0.

use indexmap::IndexMap;
use serde::Serialize;

use crate::device::Device;

/// A rule that a map breaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BrokenRule {
    /// `R1` to `R6`.
    pub rule: &'static str,
    /// The module in the wrong place.
    pub module: String,
    /// Where it is; `None` if the map gives it no place.
    pub device: Option<Device>,
    /// What goes wrong.
    pub consequence: &'static str,
}

/// The modules that must be together, with the rule that says so.
const TOGETHER: [(&str, &str); 7] = [
    ("model.embed_tokens", "R3"),
    ("model.mm_projector", "R1"),
    ("model.vision_tower", "R2"),
    ("model.vision_tower_aux", "R2"),
    ("model.vlm_uni_query_projector", "R2"),
    ("model.vlm_uni_aux_projector", "R2"),
    ("model.vlm_uni_val_projector", "R2"),
];

/// Every rule that `map` breaks for an MGM model; empty if none.
///
/// `map` may name modules, parts of them, or what contains them, as accelerate's maps do.
pub fn broken_rules(map: &IndexMap<String, Device>, tied_head: bool) -> Vec<BrokenRule> {
    let mut found = Vec::new();
    let home = places(map, "model.embed_tokens").first().copied();
    let mut report = |rule, module: &str, device, consequence| {
        found.push(BrokenRule { rule, module: module.to_owned(), device, consequence });
    };
    for (module, rule) in TOGETHER {
        let devices = places(map, module);
        if devices.is_empty() {
            report(
                "R4",
                module,
                None,
                "a checkpoint key without a device is a KeyError while loading, once anything is on disk",
            );
        }
        for device in devices {
            if !is_accelerator(device) {
                let consequence = match rule {
                    "R1" => {
                        "its weights become meta; generate dies with `Cannot copy out of meta tensor; no data!`"
                    }
                    "R3" => "inputs and images are sent to meta; `Cannot copy out of meta tensor; no data!`",
                    _ => "its data is sent to meta and lost while loading",
                };
                report(rule, module, Some(device), consequence);
            } else if home.is_some_and(|home| is_accelerator(home) && home != device) {
                report(
                    rule,
                    module,
                    Some(device),
                    "embedding, projector, towers and vlm_uni meet on two devices",
                );
            }
        }
    }
    for device in places(map, "lm_head") {
        if tied_head && home.is_some_and(|home| home != device) {
            report("R5", "lm_head", Some(device), "it shares its weight with an embedding on another device");
        } else if !is_accelerator(device) {
            report(
                "R5",
                "lm_head",
                Some(device),
                "resizing the vocabulary replaces it by one without a hook",
            );
        }
    }
    for (module, &device) in map {
        let is_judged_above =
            TOGETHER.iter().any(|(known, _)| is_inside(module, known)) || is_inside(module, "lm_head");
        let may_be_offloaded = is_inside(module, "model.layers") || is_inside(module, "model.norm");
        let is_all = module.is_empty() || module == "model";
        if !is_judged_above && !may_be_offloaded && !is_all && !is_accelerator(device) {
            report("R6", module, Some(device), "only decoder layers and the norm work from host memory");
        }
    }
    found
}

fn is_accelerator(device: Device) -> bool {
    matches!(device, Device::Gpu(_) | Device::Mps)
}

/// Whether `name` is `module` or lies below it.
fn is_inside(name: &str, module: &str) -> bool {
    module.is_empty()
        || name.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The devices on which `module` or parts of it are, in the order of the map.
fn places(map: &IndexMap<String, Device>, module: &str) -> Vec<Device> {
    let mut devices: Vec<Device> = Vec::new();
    for (key, &device) in map {
        if (is_inside(key, module) || is_inside(module, key)) && !devices.contains(&device) {
            devices.push(device);
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(json: &str) -> IndexMap<String, Device> {
        serde_json::from_str(json).unwrap()
    }

    fn rules(json: &str, tied: bool) -> Vec<(&'static str, String)> {
        broken_rules(&map(json), tied).into_iter().map(|broken| (broken.rule, broken.module)).collect()
    }

    #[test]
    fn a_whole_model_on_one_device_breaks_none() {
        assert_eq!(rules(r#"{"": 0}"#, true), []);
        assert_eq!(rules(r#"{"model": 0, "lm_head": 1}"#, false), []);
    }

    #[test]
    fn names_what_accelerate_offloads_wrongly() {
        let json = r#"{"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": "disk", "model.norm": "disk",
            "model.vision_tower": "disk", "model.mm_projector.0": 0, "model.mm_projector.2": "disk",
            "model.vision_tower_aux": "disk", "lm_head": "disk", "model.vlm_uni_query_projector": 1,
            "model.vlm_uni_aux_projector": 0, "extra": "cpu"}"#;
        let expected = [
            ("R1", "model.mm_projector"),
            ("R2", "model.vision_tower"),
            ("R2", "model.vision_tower_aux"),
            ("R2", "model.vlm_uni_query_projector"),
            ("R4", "model.vlm_uni_val_projector"),
            ("R5", "lm_head"),
            ("R6", "extra"),
        ];
        let found = rules(json, false);
        let found: Vec<_> = found.iter().map(|(rule, module)| (*rule, module.as_str())).collect();
        assert_eq!(found, expected);
    }
}
