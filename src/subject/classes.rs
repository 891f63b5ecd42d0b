//! Which class loads a generic checkpoint: what transformers makes of config.json's `architectures`.
//!
//! Owns formats/architectures/classes.json, which formats/architectures/make.py writes from transformers' own mappings,
//! and the choice by it. Code that a checkpoint brings along is named, and is no class. What a card says of
//! it is `convert`'s.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What loads a checkpoint, or a bundle of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "by")]
pub enum Loader {
    /// `sentence_transformers.SentenceTransformer`, which reads modules.json.
    SentenceTransformer,
    /// A class of transformers.
    Transformers(Class),
    /// No class: its tensors can be read one by one.
    Tensors {
        /// Why no class.
        why: NoClass,
    },
}

/// A class of transformers and how to get it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Class {
    /// Its name, as config.json has it.
    pub architecture: String,
    /// What to import: the Auto class that gives it for this model type, or the class itself.
    pub import: String,
    /// The Auto class that prepares its input; `None` where none is known or the files of it are not there.
    pub reader: Option<&'static str>,
    /// What its `forward` takes: `audio`, `image`, `text`, `video`, in this order.
    pub takes: &'static [String],
    /// True where it has a decoder beside an encoder.
    pub has_decoder: bool,
}

/// Why no class is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum NoClass {
    /// There is no config.json.
    NoConfig,
    /// config.json has no `architectures`.
    NoArchitecture,
    /// transformers has no class of that name.
    Unknown {
        /// The first of `architectures`.
        architecture: String,
    },
    /// The class is code that comes with the checkpoint.
    OwnCode {
        /// The first of `architectures`.
        architecture: String,
    },
}

/// Files of which one at least is there where a tokenizer is.
pub const TOKENIZER_FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
    "tekken.json",
];

/// Files of which one at least is there where images, sound or video are prepared.
pub const PROCESSOR_FILES: [&str; 3] =
    ["processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"];

/// One class in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    auto: Option<String>,
    reader: Option<String>,
    takes: Vec<String>,
    /// Those for which the Auto class gives it; without one, that of its own configuration.
    model_types: Vec<String>,
    #[serde(default)]
    decoder: bool,
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Classes {
    transformers: String,
    packages: BTreeMap<String, String>,
    classes: BTreeMap<String, Entry>,
}

/// What loads a checkpoint with that `config` and a file where `has` says so.
///
/// `config`: config.json, or null where there is none.
pub fn loader_of(config: &Value, has: impl Fn(&str) -> bool) -> Loader {
    if has("modules.json") && !config.is_null() {
        return Loader::SentenceTransformer;
    }
    class_of(config, has).map_or_else(|why| Loader::Tensors { why }, Loader::Transformers)
}

/// The class of transformers that loads it, modules.json or not.
///
/// # Errors
/// Why there is none.
pub fn class_of(config: &Value, has: impl Fn(&str) -> bool) -> Result<Class, NoClass> {
    if config.is_null() {
        return Err(NoClass::NoConfig);
    }
    let Some(architecture) = config.pointer("/architectures/0").and_then(Value::as_str) else {
        return Err(NoClass::NoArchitecture);
    };
    let architecture = architecture.to_owned();
    let has_own_code = config.get("auto_map").is_some_and(|map| !map.is_null());
    let Some(entry) = classes().classes.get(&architecture) else {
        return Err(if has_own_code {
            NoClass::OwnCode { architecture }
        } else {
            NoClass::Unknown { architecture }
        });
    };
    let model_type = config.get("model_type").and_then(Value::as_str);
    let is_of_class =
        model_type.is_some_and(|model_type| entry.model_types.iter().any(|one| one == model_type));
    if has_own_code && !is_of_class {
        // A class of its own under a known name.
        return Err(NoClass::OwnCode { architecture });
    }
    // For another model type, or none, the Auto class would give another class, or none.
    let auto = entry.auto.clone().filter(|_| is_of_class);
    let any = |files: &[&str]| files.iter().any(|file| has(file));
    let is_readable = |reader: &str| match reader {
        "AutoTokenizer" => any(&TOKENIZER_FILES),
        "AutoProcessor" => any(&PROCESSOR_FILES) && any(&TOKENIZER_FILES),
        _ => any(&PROCESSOR_FILES),
    };
    Ok(Class {
        import: auto.unwrap_or_else(|| architecture.clone()),
        architecture,
        reader: entry.reader.as_deref().filter(|reader| is_readable(reader)),
        takes: &entry.takes,
        has_decoder: entry.decoder,
    })
}

/// The version of transformers that was asked.
pub fn transformers_version() -> &'static str {
    &classes().transformers
}

/// The line of pip for a package that the tests use with these classes: `pillow==13.0.0`.
pub fn pinned(package: &str) -> String {
    let pin = classes().packages.get(package);
    pin.map_or_else(|| package.to_owned(), |pin| format!("{package}=={pin}"))
}

fn classes() -> &'static Classes {
    static CLASSES: LazyLock<Classes> = LazyLock::new(|| {
        match serde_json::from_str(include_str!("../../formats/architectures/classes.json")) {
            Ok(classes) => classes,
            // The file is part of the program, and tests read it.
            Err(error) => unreachable!("the embedded classes.json is wrong: {error}"),
        }
    });
    &CLASSES
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn class(config: &Value) -> Class {
        class_of(config, |_| true).unwrap()
    }

    #[test]
    fn each_kind_of_model_has_its_auto_class_and_what_reads_its_input() {
        let cases = [
            ("LlamaForCausalLM", "llama", "AutoModelForCausalLM", Some("AutoTokenizer")),
            ("BertForMaskedLM", "bert", "AutoModelForMaskedLM", Some("AutoTokenizer")),
            ("BertModel", "bert", "AutoModel", Some("AutoTokenizer")),
            ("T5ForConditionalGeneration", "t5", "AutoModelForSeq2SeqLM", Some("AutoTokenizer")),
            ("CLIPModel", "clip", "AutoModelForZeroShotImageClassification", Some("AutoProcessor")),
            (
                "WhisperForConditionalGeneration",
                "whisper",
                "AutoModelForSpeechSeq2Seq",
                Some("AutoProcessor"),
            ),
            (
                "ViTForImageClassification",
                "vit",
                "AutoModelForImageClassification",
                Some("AutoImageProcessor"),
            ),
            // It is in the mapping of causal language models too.
            (
                "Gemma3ForConditionalGeneration",
                "gemma3",
                "AutoModelForImageTextToText",
                Some("AutoProcessor"),
            ),
            ("VideoMAEModel", "videomae", "AutoModel", None),
            // No Auto class gives it.
            (
                "CLIPTextModelWithProjection",
                "clip_text_model",
                "CLIPTextModelWithProjection",
                Some("AutoTokenizer"),
            ),
            // Its Auto class would give another one for this model type.
            ("LlamaForCausalLM", "mistral", "LlamaForCausalLM", Some("AutoTokenizer")),
        ];
        for (architecture, model_type, import, reader) in cases {
            let found = class(&json!({"architectures": [architecture], "model_type": model_type}));
            assert_eq!(
                (found.import.as_str(), found.reader),
                (import, reader),
                "{architecture} {model_type}"
            );
        }
    }

    #[test]
    fn a_reader_is_named_only_where_its_files_are() {
        let clip = json!({"architectures": ["CLIPModel"], "model_type": "clip"});
        let with =
            |files: &'static [&'static str]| class_of(&clip, |path| files.contains(&path)).unwrap().reader;
        assert_eq!(with(&[]), None);
        assert_eq!(with(&["tokenizer.json"]), None);
        assert_eq!(with(&["tokenizer.json", "preprocessor_config.json"]), Some("AutoProcessor"));
    }

    #[test]
    fn what_has_no_class_says_why() {
        let loader = |config: Value| loader_of(&config, |_| false);
        let none = |why| Loader::Tensors { why };
        assert_eq!(loader(Value::Null), none(NoClass::NoConfig));
        assert_eq!(loader(json!({"model_type": "bert"})), none(NoClass::NoArchitecture));
        assert_eq!(
            loader(json!({"architectures": ["MyModel"]})),
            none(NoClass::Unknown { architecture: "MyModel".into() })
        );
        // A name that transformers knows too, for a model type that it does not know.
        for architecture in ["MyModel", "LlamaForCausalLM"] {
            let own = json!({
                "architectures": [architecture], "model_type": "mine", "auto_map": {"AutoModel": "modeling_mine.MyModel"}
            });
            assert_eq!(loader(own), none(NoClass::OwnCode { architecture: architecture.into() }));
        }
        // Code beside a class that transformers has is not needed.
        let phi = json!({
            "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "auto_map": {"AutoModelForCausalLM": "x.Y"}
        });
        assert!(matches!(loader(phi), Loader::Transformers(_)));
    }

    #[test]
    fn modules_json_is_sentence_transformers() {
        let bert = json!({"architectures": ["BertModel"], "model_type": "bert"});
        assert_eq!(loader_of(&bert, |path| path == "modules.json"), Loader::SentenceTransformer);
    }
}
