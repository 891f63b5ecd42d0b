//! Where a config.json says what: the part for text, the type of the model, whether the head is tied.
//!
//! Words only: what a key means to a model is `subject`'s, what a checkpoint does with it `checkpoint`'s.

use serde_json::Value;

/// Places of the configuration of the text, in models that have one beside those of images or sound.
const TEXT_PARTS: [&[&str]; 4] =
    [&["text_config"], &["thinker_config", "text_config"], &["llm_config"], &["language_config"]];

/// `model_type`.
pub(crate) fn model_type(config: &Value) -> Option<&str> {
    config.get("model_type").and_then(Value::as_str)
}

/// The part at a path of keys, if it is an object.
pub(crate) fn part<'a, K: AsRef<str>>(config: &'a Value, path: &[K]) -> Option<&'a Value> {
    let found = path.iter().try_fold(config, |part, key| part.get(key.as_ref()));
    found.filter(|part| part.is_object())
}

/// The part that describes the text, or all of it where there is none.
pub(crate) fn text(config: &Value) -> &Value {
    TEXT_PARTS.iter().find_map(|path| part(config, path)).unwrap_or(config)
}

/// Whether the head shares the weight of the embedding, where config.json says so: `tie_word_embeddings` of the model
/// counts before that of its text. Where it says nothing, the class decides.
pub(crate) fn ties_head(config: &Value) -> Option<bool> {
    [config, text(config)].iter().find_map(|part| part.get("tie_word_embeddings")?.as_bool())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_text_is_found_wherever_models_put_it() {
        let of_text = json!({"hidden_size": 64});
        for config in [
            of_text.clone(),
            json!({"text_config": of_text}),
            json!({"llm_config": of_text}),
            json!({"language_config": of_text}),
            json!({"thinker_config": {"text_config": of_text}}),
            json!({"text_config": null, "language_config": of_text}),
        ] {
            assert_eq!(text(&config)["hidden_size"], 64, "{config}");
        }
    }

    #[test]
    fn a_tie_is_what_the_model_says_and_else_its_text() {
        assert_eq!(ties_head(&json!({})), None);
        assert_eq!(ties_head(&json!({"text_config": {"tie_word_embeddings": true}})), Some(true));
        let both = json!({"tie_word_embeddings": false, "text_config": {"tie_word_embeddings": true}});
        assert_eq!(ties_head(&both), Some(false));
    }
}
