//! Words and lines that are shown, compared and written, and never opened.

use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use super::checked_text;
use crate::legible::{is_hidden, legible};
use crate::tensor::TensorName;

/// Longest word, in bytes. The names of classes and programs have below 60.
const MAX_WORD_LEN: usize = 200;
/// Longest line, in bytes: a reason for people has some hundred, a user's pattern may have more.
const MAX_LINE_LEN: usize = 16 << 10;

checked_text!(
    /// A word of ASCII: letters, digits, `.`, `_`, `+` and `-`, as the name of a class or of a program.
    Word,
    "a word is at most 200 letters, digits, `.`, `_`, `+` and `-`",
    |word| (1..=MAX_WORD_LEN).contains(&word.len())
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte))
);

checked_text!(
    /// A text of one line: it ends no comment, steers no terminal and turns no text.
    Line,
    "a text is one line of at most 16 KiB, without control characters and those that turn the direction of text",
    is_line
);

checked_text!(
    /// A family's name: lower-case words and digits joined by hyphens.
    FamilyName,
    "a family name is lower-case letters, digits and single hyphens",
    |text| text.len() <= MAX_WORD_LEN
        && text.split('-').all(|word| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        })
);

checked_text!(
    /// A repository of the hub: `owner/name`, or the bare name that the oldest have.
    HubId,
    "a hub id is owner/name, of letters, digits, `.`, `_` and `-`",
    |id| {
        let is_good = |part: &str| {
            part.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        id.len() <= MAX_WORD_LEN && id.split('/').count() <= 2 && id.split('/').all(is_good)
    }
);

checked_text!(
    /// The commit of a repository: forty hexadecimal digits.
    Commit,
    "a commit is forty hexadecimal digits",
    |commit| commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit())
);

checked_text!(
    /// A module of a model by its dotted name; the empty name is the root's.
    ModuleName,
    "a module's name is at most 1024 bytes without control characters",
    is_module
);

impl Line {
    /// Any text as one line: what a line cannot hold is escaped, and what is beyond 16 KiB left out.
    pub fn escaped(text: &str) -> Self {
        let mut line = legible(text).into_owned();
        while line.len() > MAX_LINE_LEN {
            line.pop();
        }
        Self(line)
    }
}

fn is_line(text: &str) -> bool {
    text.len() <= MAX_LINE_LEN && !text.chars().any(is_hidden)
}

/// A module's name has the form of a tensor's, or is empty.
fn is_module(text: &str) -> bool {
    text.is_empty() || TensorName::new(text).is_some()
}

/// Reads a text that has the form of `T` and is kept as a text.
///
/// # Errors
/// The deserializer's, and for a text of another form.
pub(crate) fn text_of<'de, T: Deserialize<'de> + Into<String>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<String, D::Error> {
    T::deserialize(deserializer).map(Into::into)
}

/// Reads a map whose keys are [`ModuleName`]s.
///
/// # Errors
/// The deserializer's, and for a key that is none.
pub(crate) fn of_module<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
    deserializer: D,
) -> Result<IndexMap<String, V>, D::Error> {
    let map = IndexMap::<String, V>::deserialize(deserializer)?;
    match map.keys().all(|module| is_module(module)) {
        true => Ok(map),
        false => Err(de::Error::custom(ModuleName::REFUSAL)),
    }
}

/// Reads any JSON of which all texts and keys are [`Line`]s.
///
/// # Errors
/// The deserializer's, and for a text or a key that is none.
pub(crate) fn only_lines<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    fn is_plain(value: &Value) -> bool {
        match value {
            Value::String(text) => is_line(text),
            Value::Array(values) => values.iter().all(is_plain),
            Value::Object(map) => map.iter().all(|(key, value)| is_line(key) && is_plain(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => true,
        }
    }
    let value = Value::deserialize(deserializer)?;
    if is_plain(&value) { Ok(value) } else { Err(de::Error::custom(Line::REFUSAL)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lines_ids_and_commits_have_their_forms() {
        for good in ["LlamaForCausalLM", "xlm-roberta", "accelerate-0.25-sequential", "0.1.0+x"] {
            assert!(Word::new(good).is_some(), "{good}");
        }
        for bad in ["", "a b", "a/b", "x);import os", "é", "a\n"] {
            assert!(Word::new(bad).is_none(), "{bad:?}");
        }
        for bad in ["a\nb", "a\u{1b}]0;x\u{7}", "a\u{9b}2J", "a\u{202e}b", "a\u{2028}b", "a\u{e0041}"] {
            assert!(Line::new(bad).is_none(), "{bad:?}");
        }
        assert!(Line::new("größe 模型, \"quoted\" `so`").is_some() && Line::new("").is_some());
        for good in ["gpt2", "YanweiLi/MGM-34B", "a/b--c", "_x/y"] {
            assert!(HubId::new(good).is_some(), "{good}");
        }
        for bad in ["", "/", "a/", "/b", "a/b/c", "../b", "a/..", "a b", "-a/b", "a\n"] {
            assert!(HubId::new(bad).is_none(), "{bad:?}");
        }
        assert!(Commit::new("0aF".repeat(13) + "1").is_some());
        for bad in ["", "main", &"0".repeat(41), &"g".repeat(40)] {
            assert!(Commit::new(bad).is_none(), "{bad:?}");
        }
        for bad in ["mgm-", "MGM", "../../x", "a--b", "", "a\n"] {
            assert!(FamilyName::new(bad).is_none(), "{bad:?}");
        }
    }
}
