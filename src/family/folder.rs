//! What MGM's own programs read from the name of a model's folder: the class, and the template of its command line.
//!
//! Owns that rule, which is MGM's and not ours, and what comes of a folder whose name leads to another class. Leaves
//! links and working directories to the callers: everything here is pure.

use super::{Family, ModelType};

/// The name that MGM's programs take from the path of a model.
///
/// The last part of the path as it is given: `.` for the working directory. A `checkpoint-…` gets the name of the
/// folder above it in front; MGM raises an IndexError where there is none, and the name here is empty. Source: MGM
/// 769820c, mgm/mm_utils.py, `get_model_name_from_path`.
pub fn name_from_path(model_path: &str) -> String {
    let mut parts = model_path.trim_matches('/').rsplit('/');
    match (parts.next().unwrap_or_default(), parts.next()) {
        (last, Some(above)) if last.starts_with("checkpoint-") => format!("{above}_{last}"),
        (last, None) if last.starts_with("checkpoint-") => String::new(),
        (last, _) => last.to_owned(),
    }
}

/// The class that MGM's loader picks for a model of this name; `None` where it would not see an MGM model.
///
/// Source: MGM 769820c, mgm/model/builder.py, `load_pretrained_model`.
pub fn class_by_name(model_name: &str) -> Option<ModelType> {
    let name = model_name.to_lowercase();
    if !name.contains("mgm") {
        None
    } else if name.contains("8x7b") {
        Some(ModelType::MgmMixtral)
    } else if name.contains("2b") {
        Some(ModelType::MgmGemma)
    } else {
        Some(ModelType::Mgm)
    }
}

/// The prompt template that MGM's command line infers from this name, where `--conv-mode` is not given.
///
/// Source: MGM 769820c, mgm/serve/cli.py.
pub fn template_by_name(model_name: &str) -> &'static str {
    let name = model_name.to_lowercase();
    if name.contains("8x7b") {
        "mistral_instruct"
    } else if name.contains("34b") {
        "chatml_direct"
    } else if name.contains("2b") {
        "gemma"
    } else {
        "vicuna_v1"
    }
}

/// A folder from whose name MGM's loader takes another class than its model has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misnamed {
    /// The folder's name, as MGM reads it.
    pub name: String,
    /// The class that MGM takes from it.
    pub picked: Option<ModelType>,
    /// The model's class.
    pub class: ModelType,
    /// A name that leads to the model's class: the bundle's own.
    pub good: String,
}

impl Misnamed {
    /// What MGM makes of a model of `class` whose path is `model_path`; `None` where it picks the right class.
    /// `good`: the bundle's name.
    pub fn at(model_path: &str, class: ModelType, good: &str) -> Option<Self> {
        let name = name_from_path(model_path);
        let picked = class_by_name(&name);
        (picked != Some(class)).then(|| Self { name, picked, class, good: good.to_owned() })
    }

    /// What is wrong, in one sentence.
    pub fn what(&self) -> String {
        let Self { name, picked, class, .. } = self;
        match picked {
            Some(picked) => format!(
                "MGM's loader chooses the class by the folder's name, and `{name}` leads it to `{}`: this model is `{}`",
                picked.as_str(),
                class.as_str()
            ),
            None => format!(
                "MGM's loader chooses the class by the folder's name, and `{name}` does not name an MGM model: it has no `mgm` in it"
            ),
        }
    }

    /// What comes of it.
    pub fn consequence(&self) -> &'static str {
        match self.picked {
            Some(_) => {
                "the model may load without an error, with random weights where the two classes differ, and answer nonsense"
            }
            None => "the model loads without its second tower, and fails in its first forward pass",
        }
    }

    /// What is wrong and what comes of it, for where nothing else is wrong.
    pub fn note(&self) -> String {
        format!("{}; {}", self.what(), self.consequence())
    }

    /// What mends it, for a folder at `path`.
    pub fn mend(&self, path: &str) -> String {
        let Self { good, .. } = self;
        let path = crate::program::shell_word(path);
        format!(
            "rename the folder, or link it with `ln -s {path} {good}` and give MGM the link; in Python call load_pretrained_model with model_name=\"{good}\""
        )
    }
}

impl Family {
    /// The template to give MGM's command line with `--conv-mode`, where it infers another one from this name.
    pub fn template_to_give(&self, model_name: &str) -> Option<&str> {
        let template = self.conversation.template.as_str();
        (template != template_by_name(model_name)).then_some(template)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_from_a_path_as_mgm_reads_it() {
        // What get_model_name_from_path of MGM 769820c returned for each.
        for (path, name) in [
            ("MGM-7B-int8", "MGM-7B-int8"),
            ("/models/MGM-7B-int8/", "MGM-7B-int8"),
            ("../MGM-2B//", "MGM-2B"),
            (".", "."),
            ("./", "."),
            ("..", ".."),
            ("/models/MGM-7B/.", "."),
            ("/", ""),
            ("", ""),
            ("runs/MGM-7B/checkpoint-500", "MGM-7B_checkpoint-500"),
            ("/checkpoint-500", ""),
        ] {
            assert_eq!(name_from_path(path), name, "{path:?}");
        }
    }

    #[test]
    fn every_bundle_stem_leads_mgm_to_the_right_class_and_template() {
        let mut seen = 0;
        for family in Family::all() {
            for published in &family.checkpoints {
                for suffix in ["", "-int8", "-fp16", "-bf16"] {
                    let name = format!("{}{suffix}", published.bundle_stem);
                    assert_eq!(class_by_name(&name), Some(family.model.model_type), "{name}");
                    assert_eq!(template_by_name(&name), family.conversation.cli_infers, "{name}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 6 * 2 * 4);
        // Seen: a hash that holds "2b" sent a 7B to Gemma.
        assert_eq!(class_by_name("MGM-7B-a92b1f"), Some(ModelType::MgmGemma));
        assert_eq!(class_by_name("MiniGemini-7B"), None);
        assert_eq!(class_by_name("mgm-8X7b"), Some(ModelType::MgmMixtral));
    }

    #[test]
    fn names_of_other_classes_are_told_with_what_comes_of_them() {
        let at = |path: &str, class| Misnamed::at(path, class, "MGM-2B-int8");
        assert_eq!(at("/models/MGM-2B-int8", ModelType::MgmGemma), None);
        assert_eq!(at("mgm-prod", ModelType::Mgm), None);
        // Seen in MGM: 2B and 8x7B in a folder `MGM-prod` loaded with exit code 0 and answered nonsense.
        let other = at("/models/MGM-prod", ModelType::MgmGemma).unwrap();
        assert_eq!((other.name.as_str(), other.picked), ("MGM-prod", Some(ModelType::Mgm)));
        assert!(other.consequence().contains("answer nonsense"));
        let none = at(".", ModelType::Mgm).unwrap();
        assert_eq!(none.picked, None);
        assert!(none.what().contains("`.` does not name an MGM model"));
        assert!(none.mend("/my models/prod").contains("`ln -s '/my models/prod' MGM-2B-int8`"));
    }

    #[test]
    fn the_8b_always_needs_its_template_given() {
        let of = |alias: &str| Family::by_alias(alias).unwrap().0;
        assert_eq!(of("8b").template_to_give("MGM-8B-int8"), Some("llama_3"));
        assert_eq!(of("34b").template_to_give("MGM-34B-int8"), None);
        assert_eq!(of("34b").template_to_give("mgm-prod"), Some("chatml_direct"));
        assert_eq!(of("7b").template_to_give("mgm-prod"), None);
    }
}
