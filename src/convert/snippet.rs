//! The lines of Python in a generic bundle's card: a class, what reads its input, and one use of both.
//!
//! One form for each way in which classes are used. tests/python/test_cards_load_what_they_say.py runs every one of
//! them.

use crate::subject::Class;

/// Lines of Python, and what they need beside the bundle's own requirements.
pub(super) struct Snippet {
    pub(super) code: String,
    /// Names of packages.
    pub(super) packages: &'static [&'static str],
    /// True where the lines use the model, not only load it.
    pub(super) has_example: bool,
}

/// How a class is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Text in, text out.
    GenerateText,
    /// Speech in, text out.
    Transcribe,
    /// Speech in, a letter for each frame out.
    Spell,
    /// A picture and a question in, text out.
    AskOfPicture,
    /// A picture and several texts in, a likeness for each out.
    MatchTexts,
    /// Text with a gap in, a word out.
    FillGap,
    /// Something in, the name of a class out.
    Classify,
    /// Something in, tensors out.
    Forward,
}

/// Loads with sentence-transformers and compares two sentences.
pub(super) fn sentence_transformer(folder: &str) -> Snippet {
    let code = format!(
        "from sentence_transformers import SentenceTransformer\n\n\
         model = SentenceTransformer({folder})\n\
         embeddings = model.encode([\"The cat sleeps.\", \"A cat is asleep.\"])\n\
         print(model.similarity(embeddings, embeddings))\n"
    );
    Snippet { code, packages: &["sentence-transformers"], has_example: true }
}

/// Reads every tensor as it is stored.
pub(super) fn tensors(folder: &str) -> Snippet {
    let code = format!(
        "import json\n\
         from pathlib import Path\n\n\
         from safetensors.torch import load_file\n\n\
         folder = Path({folder})\n\
         index = json.loads((folder / \"model.safetensors.index.json\").read_text())\n\
         tensors = {{}}\n\
         for shard in sorted(set(index[\"weight_map\"].values())):\n    \
             tensors |= load_file(folder / shard)\n\
         for name, tensor in tensors.items():\n    \
             print(name, tensor.dtype, tuple(tensor.shape))\n"
    );
    Snippet { code, packages: &[], has_example: true }
}

/// Loads a class of transformers and uses it, as far as its reader is there.
///
/// `folder`: a literal of Python. `has_template`: the bundle has a chat template.
pub(super) fn transformers(class: &Class, folder: &str, has_template: bool) -> Snippet {
    let import = &class.import;
    let takes: Vec<&str> = class.takes.iter().map(String::as_str).collect();
    let (head, lines) = match (use_of(import, &takes), class.reader) {
        (Some(used), Some(reader)) => (Some(reader), example(used, class, &takes, has_template)),
        // Any numbers do for text.
        (Some(used), None) if takes == ["text"] => (None, of_numbers(used, class)),
        (None, Some(reader)) => (Some(reader), vec![]),
        (_, None) => (None, vec![]),
    };
    let reads = head.map(variable_of);
    let mut code = String::new();
    let has = |what: &str| lines.iter().any(|line| line.contains(what));
    for (package, alias) in [("numpy", "numpy."), ("torch", "torch.")] {
        if has(alias) {
            code.push_str(&format!("import {package}\n"));
        }
    }
    if has("Image.new") {
        code.push_str("from PIL import Image\n");
    }
    let mut names = vec![import.as_str()];
    names.extend(head);
    names.sort_unstable();
    code.push_str(&format!("from transformers import {}\n\nfolder = {folder}\n", names.join(", ")));
    if let (Some(reader), Some(variable)) = (head, reads) {
        code.push_str(&format!("{variable} = {reader}.from_pretrained(folder)\n"));
    }
    code.push_str(&format!("model = {import}.from_pretrained(folder)\n"));
    for line in &lines {
        code.push_str(line);
        code.push('\n');
    }
    // transformers' image processors are written over Pillow, whatever the example does.
    let reads_pictures = takes.contains(&"image") && head.is_some();
    Snippet { code, packages: if reads_pictures { &["pillow"] } else { &[] }, has_example: !lines.is_empty() }
}

/// How what is imported is used; `None` where it is not known to take one text, picture or sound alone.
fn use_of(import: &str, takes: &[&str]) -> Option<Use> {
    let is_text = takes == ["text"];
    let is_image = takes == ["image"];
    let is_audio = takes == ["audio"];
    let is_one = is_text || is_image || is_audio;
    match import {
        "AutoModelForCausalLM" | "AutoModelForSeq2SeqLM" if is_text => Some(Use::GenerateText),
        "AutoModelForSpeechSeq2Seq" if is_audio => Some(Use::Transcribe),
        "AutoModelForCTC" if is_audio => Some(Use::Spell),
        "AutoModelForImageTextToText" if takes.contains(&"image") && takes.contains(&"text") => {
            Some(Use::AskOfPicture)
        }
        "AutoModelForZeroShotImageClassification" if takes == ["image", "text"] => Some(Use::MatchTexts),
        "AutoModelForMaskedLM" if is_text => Some(Use::FillGap),
        "AutoModelForSequenceClassification" if is_text => Some(Use::Classify),
        "AutoModelForImageClassification" if is_image => Some(Use::Classify),
        "AutoModelForAudioClassification" if is_audio => Some(Use::Classify),
        "AutoModel" | "AutoModelForPreTraining" if is_one => Some(Use::Forward),
        "AutoModelForTextEncoding" | "AutoModelForTokenClassification" | "AutoModelForQuestionAnswering"
            if is_text =>
        {
            Some(Use::Forward)
        }
        "AutoModelForObjectDetection"
        | "AutoModelForSemanticSegmentation"
        | "AutoModelForDepthEstimation"
            if is_image =>
        {
            Some(Use::Forward)
        }
        _ => None,
    }
}

/// What the lines call a reader.
fn variable_of(reader: &str) -> &'static str {
    match reader {
        "AutoTokenizer" => "tokenizer",
        "AutoFeatureExtractor" => "feature_extractor",
        "AutoImageProcessor" => "image_processor",
        _ => "processor",
    }
}

/// The lines after the model and the reader.
fn example(used: Use, class: &Class, takes: &[&str], has_template: bool) -> Vec<String> {
    let reader = class.reader.map_or("", variable_of);
    let mut lines = Vec::new();
    if takes.contains(&"image") {
        lines.push(
            "image = Image.new(\"RGB\", (224, 224), \"orange\")  # Image.open(\"picture.jpg\")".to_owned(),
        );
    }
    if takes == ["audio"] {
        let rate = match reader {
            "processor" => "processor.feature_extractor.sampling_rate",
            _ => "feature_extractor.sampling_rate",
        };
        lines.push(format!("rate = {rate}"));
        lines.push("sound = numpy.zeros(rate, dtype=\"float32\")  # a second of silence".to_owned());
    }
    let text = match used {
        Use::GenerateText => "\"The capital of France is\"",
        Use::FillGap => "f\"The capital of France is {tokenizer.mask_token}.\"",
        _ => "\"Paris is the capital of France.\"",
    };
    let inputs = match takes {
        _ if used == Use::MatchTexts => {
            lines.push("texts = [\"an orange square\", \"a cat\"]".to_owned());
            "processor(text=texts, images=image, padding=True, return_tensors=\"pt\")".to_owned()
        }
        _ if used == Use::AskOfPicture && has_template => {
            lines.push(
                "content = [{\"type\": \"image\"}, {\"type\": \"text\", \"text\": \"What is this?\"}]"
                    .to_owned(),
            );
            lines.push(
                "text = processor.apply_chat_template([{\"role\": \"user\", \"content\": content}], add_generation_prompt=True)"
                    .to_owned(),
            );
            "processor(images=image, text=text, return_tensors=\"pt\")".to_owned()
        }
        _ if used == Use::AskOfPicture => {
            lines.push("# The place of the picture; leave it out where the processor puts it in.".to_owned());
            lines.push(
                "text = str(getattr(processor, \"image_token\", \"\")) + \" What is this?\"".to_owned(),
            );
            "processor(images=image, text=text, return_tensors=\"pt\")".to_owned()
        }
        ["image"] => format!("{reader}(images=image, return_tensors=\"pt\")"),
        // Not the first argument of every processor.
        ["audio"] if reader == "processor" => {
            "processor(audio=sound, sampling_rate=rate, return_tensors=\"pt\")".to_owned()
        }
        ["audio"] => format!("{reader}(sound, sampling_rate=rate, return_tensors=\"pt\")"),
        _ => format!("{reader}({text}, return_tensors=\"pt\")"),
    };
    // Floats go to the model's own type, which a tokenizer's result has none of.
    let to = if takes == ["text"] { "model.device" } else { "model.device, model.dtype" };
    lines.push(format!("inputs = {inputs}.to({to})"));
    lines.extend(call(used, class, takes));
    lines
}

/// What is done with `inputs`.
fn call(used: Use, class: &Class, takes: &[&str]) -> Vec<String> {
    let lines: &[&str] = match used {
        Use::GenerateText => &[
            // Not all that a tokenizer gives is taken by every class: `token_type_ids`.
            "tokens = model.generate(inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=20)",
            "print(tokenizer.decode(tokens[0], skip_special_tokens=True))",
        ],
        Use::Transcribe => &[
            "tokens = model.generate(**inputs, max_new_tokens=20)",
            "print(processor.batch_decode(tokens, skip_special_tokens=True))",
        ],
        Use::AskOfPicture => &[
            "tokens = model.generate(**inputs, max_new_tokens=20)",
            "print(processor.batch_decode(tokens, skip_special_tokens=True)[0])",
        ],
        Use::Spell => {
            &["letters = model(**inputs).logits.argmax(-1)", "print(processor.batch_decode(letters))"]
        }
        Use::MatchTexts => &["print(dict(zip(texts, model(**inputs).logits_per_image[0].tolist())))"],
        Use::FillGap => &[
            "gap = (inputs.input_ids[0] == tokenizer.mask_token_id).nonzero()[0, 0]",
            "best = model(**inputs).logits[0, gap].topk(5).indices",
            "print(tokenizer.convert_ids_to_tokens(best.tolist()))",
        ],
        Use::Classify => {
            &["best = model(**inputs).logits[0].argmax().item()", "print(model.config.id2label[best])"]
        }
        Use::Forward => {
            let decoder = class.has_decoder && class.import == "AutoModel" && takes == ["text"];
            let call = if decoder {
                "outputs = model(**inputs, decoder_input_ids=inputs.input_ids)"
            } else {
                "outputs = model(**inputs)"
            };
            return vec![call.to_owned(), SHAPES.to_owned()];
        }
    };
    lines.iter().map(|line| (*line).to_owned()).collect()
}

/// Prints what a `forward` returned.
const SHAPES: &str =
    "print({name: tuple(value.shape) for name, value in outputs.items() if hasattr(value, \"shape\")})";

/// The use of a class that takes text, with numbers of tokens where there is no tokenizer.
fn of_numbers(used: Use, class: &Class) -> Vec<String> {
    let mut lines =
        vec!["tokens = torch.tensor([[1, 2, 3]], device=model.device)  # your tokenizer's".to_owned()];
    match used {
        Use::GenerateText => lines.push("print(model.generate(tokens, max_new_tokens=20))".to_owned()),
        _ => {
            let decoder = class.has_decoder && class.import == "AutoModel";
            let more = if decoder { ", decoder_input_ids=tokens" } else { "" };
            lines.push(format!("outputs = model(tokens{more})"));
            lines.push(SHAPES.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines after the model, of a class that takes `takes` and is read by `reader`.
    fn lines(import: &str, reader: Option<&'static str>, takes: &[&str], has_decoder: bool) -> Vec<String> {
        let takes: Vec<String> = takes.iter().map(|take| (*take).to_owned()).collect();
        let class = Class {
            architecture: "Some".to_owned(),
            import: import.to_owned(),
            reader,
            takes: takes.leak(),
            has_decoder,
        };
        let snippet = transformers(&class, "\"x\"", false);
        assert!(snippet.code.contains(&format!("{import}.from_pretrained(folder)\n")), "{}", snippet.code);
        let (_, after) = snippet.code.split_once("\nmodel = ").unwrap();
        let lines: Vec<String> = after.lines().skip(1).map(str::to_owned).collect();
        assert_eq!(snippet.has_example, !lines.is_empty());
        lines
    }

    const TOKENIZER: Option<&str> = Some("AutoTokenizer");
    const IMAGES: Option<&str> = Some("AutoImageProcessor");
    const PROCESSOR: Option<&str> = Some("AutoProcessor");

    #[test]
    fn each_class_is_used_by_what_it_takes() {
        for (import, reader, takes, used) in [
            ("AutoModelForCausalLM", TOKENIZER, &["text"][..], "model.generate(inputs.input_ids"),
            ("AutoModelForSeq2SeqLM", TOKENIZER, &["text"], "model.generate(inputs.input_ids"),
            ("AutoModelForSpeechSeq2Seq", PROCESSOR, &["audio"], "model.generate(**inputs"),
            ("AutoModelForCTC", PROCESSOR, &["audio"], "logits.argmax(-1)"),
            ("AutoModelForImageTextToText", PROCESSOR, &["image", "text"], "What is this?"),
            ("AutoModelForZeroShotImageClassification", PROCESSOR, &["image", "text"], "logits_per_image"),
            ("AutoModelForMaskedLM", TOKENIZER, &["text"], "tokenizer.mask_token_id"),
            ("AutoModelForSequenceClassification", TOKENIZER, &["text"], "model.config.id2label"),
            ("AutoModelForImageClassification", IMAGES, &["image"], "model.config.id2label"),
            (
                "AutoModelForAudioClassification",
                Some("AutoFeatureExtractor"),
                &["audio"],
                "model.config.id2label",
            ),
            ("AutoModel", TOKENIZER, &["text"], "outputs = model(**inputs)"),
            ("AutoModel", IMAGES, &["image"], "outputs = model(**inputs)"),
            ("AutoModelForPreTraining", TOKENIZER, &["text"], "outputs = model(**inputs)"),
            ("AutoModelForTextEncoding", TOKENIZER, &["text"], "outputs = model(**inputs)"),
            ("AutoModelForDepthEstimation", IMAGES, &["image"], "outputs = model(**inputs)"),
        ] {
            let shown = lines(import, reader, takes, false).join("\n");
            assert!(shown.contains(used), "{import}: {shown}");
            let picture = takes.contains(&"image");
            assert_eq!(shown.contains("images=image"), picture, "{import}: {shown}");
            assert_eq!(shown.contains("sampling_rate=rate"), takes == ["audio"], "{import}: {shown}");
        }
    }

    #[test]
    fn what_a_class_is_not_known_to_take_alone_has_no_example() {
        for (import, takes) in [
            ("AutoModelForCausalLM", &["image", "text"][..]),
            ("AutoModelForMaskedLM", &["image"]),
            ("AutoModelForImageClassification", &["text"]),
            ("AutoModelForCTC", &["text"]),
            ("AutoModel", &["image", "text"]),
            ("AutoModel", &["video"]),
            ("AutoModelForImageTextToText", &["text"]),
            ("SomethingElse", &["text"]),
        ] {
            assert_eq!(lines(import, PROCESSOR, takes, false), Vec::<String>::new(), "{import} {takes:?}");
        }
    }

    #[test]
    fn without_a_tokenizer_any_numbers_do_for_text_and_for_nothing_else() {
        let generate = lines("AutoModelForCausalLM", None, &["text"], false);
        assert_eq!(generate.last().unwrap(), "print(model.generate(tokens, max_new_tokens=20))");
        assert!(lines("AutoModel", None, &["text"], false).contains(&"outputs = model(tokens)".to_owned()));
        let decoder = "outputs = model(tokens, decoder_input_ids=tokens)".to_owned();
        assert!(lines("AutoModel", None, &["text"], true).contains(&decoder));
        // Of these the class itself makes what the decoder reads.
        let encoding = lines("AutoModelForTextEncoding", None, &["text"], true);
        assert!(encoding.contains(&"outputs = model(tokens)".to_owned()), "{encoding:?}");
        assert_eq!(lines("AutoModel", None, &["image"], false), Vec::<String>::new());
    }
}
