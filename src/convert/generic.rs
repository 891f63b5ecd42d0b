//! The section "Load" in the card of a generic bundle: which class loads it, and lines of Python that do.
//!
//! The class is chosen by `subject`, the lines are made by `snippet`. Owns what is said of both: what the class is
//! taken from, what is missing, what the bundle's own quantization needs.

use std::fmt::Write as _;

use serde_json::Value;

use super::prepare::{module_folders, side_json};
use super::snippet::{self, Snippet};
use super::{Conversion, FileFate};
use crate::plan;
use crate::program::shell_word;
use crate::scheme::{Layout, Scheme};
use crate::subject::{self, Class, Loader, NoClass};

/// Files that say what prepares a model's input.
const READERS: [&str; 3] = ["tokenizer_config.json", "processor_config.json", "preprocessor_config.json"];

/// How a generic bundle in `folder` is loaded: by the class that its config.json names, as far as it is known.
pub(super) fn load_section(conversion: &Conversion, folder: &str) -> String {
    let mut text = String::new();
    if let Some(notice) = plan::client_notice(&conversion.plan, &conversion.subject) {
        let _ = writeln!(text, "Note: {notice}.\n");
    }
    let has = |path: &str| {
        conversion
            .files
            .iter()
            .any(|file| file.tower.is_none() && file.fate.target().is_some_and(|target| *target == path))
    };
    let scheme = conversion.plan.scheme;
    let literal = of_python(folder);
    let mut loader = subject::loader_of(conversion.subject.config(), has);
    if loader == Loader::SentenceTransformer
        && let Some(why) = no_sentence_transformer(conversion)
    {
        let _ = writeln!(text, "Note: {why}. What is loaded here is the transformer alone.\n");
        loader = subject::class_of(conversion.subject.config(), has)
            .map_or_else(|why| Loader::Tensors { why }, Loader::Transformers);
    }
    let mut note = "";
    if let Loader::Transformers(class) = &mut loader
        && class.reader.is_some()
        && READERS.iter().any(|path| side_json(&conversion.checkpoint, path).get("auto_map").is_some())
    {
        class.reader = None;
        note = " What prepares its input is code that comes with the checkpoint (`auto_map`); mgpack has not run it.";
    }
    let snippet = match &loader {
        Loader::SentenceTransformer => snippet::sentence_transformer(&literal),
        Loader::Tensors { .. } => snippet::tensors(&literal),
        Loader::Transformers(class) => {
            snippet::transformers(class, &literal, has_chat_template(conversion, has))
        }
    };
    let pins: Vec<String> = snippet.packages.iter().map(|package| subject::pinned(package)).collect();
    let packages: String = pins.iter().map(|pin| format!(" {pin}")).collect();
    let _ = write!(
        text,
        "From the directory that holds `{folder}`:\n\n\
         ```sh\npip install -r {}{packages}\n```\n\n\
         ```python\n{}```\n\n{}",
        shell_word(&format!("{folder}/requirements.txt")),
        snippet.code,
        explanation(&loader, &snippet, note),
    );
    if let Some(needs) = quantization(scheme, &loader) {
        text.push_str(&needs);
        text.push('\n');
    }
    text
}

/// Why sentence-transformers cannot encode with the bundle of a checkpoint that it encodes with.
fn no_sentence_transformer(conversion: &Conversion) -> Option<String> {
    if conversion.plan.scheme.layout() == Some(Layout::CompressedTensors) {
        // Its call goes past the hook by which compressed-tensors decodes.
        return Some(
            "sentence-transformers 6 cannot encode with this layout; it does with bitsandbytes' and with 16 bits".to_owned(),
        );
    }
    let is_weights = |path: &str| [".bin", ".safetensors"].iter().any(|ending| path.ends_with(ending));
    let lost = module_folders(&conversion.checkpoint).into_iter().find(|folder| {
        let mut weights = conversion
            .files
            .iter()
            .filter(|file| file.path.starts_with(folder) && is_weights(&file.path))
            .peekable();
        weights.peek().is_some() && weights.all(|file| file.fate == FileFate::LeftOut)
    })?;
    Some(format!(
        "modules.json names `{lost}`, whose weights are a torch file that is not in the bundle: sentence-transformers \
         cannot load it"
    ))
}

/// What is said of the lines: which class that is and why, and what they leave out.
/// `note`: why no reader is named, where its files are there.
fn explanation(loader: &Loader, snippet: &Snippet, note: &str) -> String {
    let class = match loader {
        Loader::SentenceTransformer => {
            return "`modules.json` says what is done after the transformer: sentence-transformers reads it.\n".to_owned();
        }
        Loader::Tensors { why } => return format!("{}\n", no_class(why)),
        Loader::Transformers(class) => class,
    };
    let version = subject::transformers_version();
    let mut text = if class.import == class.architecture {
        format!("The class is `{}`, as config.json says.", class.architecture)
    } else {
        format!(
            "The class is `{}`, as config.json says: in transformers {version} `{}` gives it.",
            class.architecture, class.import
        )
    };
    if class.reader.is_none() {
        text.push_str(if note.is_empty() { missing_reader(class) } else { note });
    }
    if !snippet.has_example {
        text.push_str(" What it takes beyond that: `help(model.forward)`.");
    }
    text.push('\n');
    text
}

/// What is not in the bundle and has to prepare the input.
fn missing_reader(class: &Class) -> &'static str {
    match class.takes {
        [one] if one == "text" => " The checkpoint has no tokenizer.",
        [] => "",
        [one] if one == "video" => "",
        _ => " The checkpoint has no processor.",
    }
}

/// Why there is no class to load it with.
fn no_class(why: &NoClass) -> String {
    let version = subject::transformers_version();
    match why {
        NoClass::NoConfig => {
            "The checkpoint has no config.json: these are its tensors, as they are stored.".to_owned()
        }
        NoClass::NoArchitecture => {
            "config.json names no class (`architectures`): these are the tensors, as they are \
             stored."
                .to_owned()
        }
        NoClass::Unknown { architecture } => format!(
            "config.json names the class `{architecture}`, which transformers {version} does not have: these are the \
             tensors, as they are stored."
        ),
        NoClass::OwnCode { architecture } => format!(
            "config.json names the class `{architecture}`, which is code that comes with the checkpoint (`auto_map`), not \
             part of transformers {version}. mgpack has not run it. The lines above read the tensors, as they are stored, \
             without it; transformers runs it with `trust_remote_code=True`, once you have read and trust it."
        ),
    }
}

/// What the bundle's own quantization needs of who loads it.
fn quantization(scheme: Scheme, loader: &Loader) -> Option<String> {
    let codec = scheme.codec()?;
    if matches!(loader, Loader::Tensors { .. }) {
        let text = "\nWhich tensors are codes, and which are their scales, is in `mgpack.json` (`tensors`).";
        return Some(text.to_owned());
    }
    let word = codec.codes_word();
    Some(match codec.layout() {
        Layout::Bnb => format!(
            "\nThe weights are {word} already, which config.json says: give no `quantization_config` and no `load_in_8bit`. \
             bitsandbytes and accelerate, both in requirements.txt, read them.",
        ),
        Layout::CompressedTensors => format!(
            "\nThe weights are {word} already, which config.json says: give no `quantization_config`. compressed-tensors, in \
             requirements.txt, reads them.",
        ),
    })
}

/// True where a file of the bundle has a chat template.
fn has_chat_template(conversion: &Conversion, has: impl Fn(&str) -> bool) -> bool {
    let in_json =
        |path: &str| has(path) && side_json(&conversion.checkpoint, path).get("chat_template").is_some();
    has("chat_template.jinja")
        || has("chat_template.json")
        || in_json("processor_config.json")
        || in_json("tokenizer_config.json")
}

/// A text as Python writes it: JSON's strings are Python's too.
fn of_python(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_any_name_is_one_text_of_python() {
        assert_eq!(of_python(r#"a"b\c"#), r#""a\"b\\c""#);
    }
}
