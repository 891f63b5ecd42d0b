//! How the library's texts name options and calls, for each front end to put into its own words.
//!
//! Between ‹ and › is what the command line and Python write differently: an option, ‹output›; an option with a value,
//! ‹context=2048›, ‹force=true›, ‹scheme="W8A8"›; a call, ‹pull("org/model", revision="v1")›. Values are JSON. Only
//! the lines of an [`Explanation`](crate::error::Explanation) have such mentions. The command line turns them into flags and commands, the Python
//! package into arguments and functions.
//!
//! Owns the notation. Leaves the words to the front ends. A name from outside that looks like a mention, in a path for
//! example, is put into words too: that changes what is shown and nothing else.

use serde_json::Value;

/// What a text mentions.
#[derive(Clone, Debug, PartialEq)]
pub enum Mention {
    /// An option.
    Option(Setting),
    /// A verb of mgpack with what it is given.
    Call {
        /// `verify`, `pull`.
        verb: String,
        /// What comes without a name.
        arguments: Vec<Value>,
        /// Its options.
        settings: Vec<Setting>,
    },
}

/// An option, with its value where one is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// In lower case, words joined by `_`.
    pub name: String,
    /// `true` and `false` for what is only on or off.
    pub value: Option<Value>,
}

/// The text with every mention in the words that `speak` finds for it.
pub fn reword(text: &str, speak: impl Fn(&Mention) -> String) -> String {
    let mut reworded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('‹') {
        reworded.push_str(before);
        match after.split_once('›').and_then(|(inside, after)| Some((parse(inside)?, after))) {
            Some((mention, after)) => {
                reworded.push_str(&speak(&mention));
                rest = after;
            }
            // No mention: a name from outside.
            None => {
                reworded.push('‹');
                rest = after;
            }
        }
    }
    reworded.push_str(rest);
    reworded
}

/// The mentions of a text, in order.
#[cfg(test)]
pub(crate) fn mentions(text: &str) -> Vec<Mention> {
    let found = std::cell::RefCell::new(Vec::new());
    reword(text, |mention| {
        found.borrow_mut().push(mention.clone());
        String::new()
    });
    found.into_inner()
}

/// An option with a text as its value, in the notation.
pub(crate) fn option(name: &str, value: &str) -> String {
    format!("‹{name}={}›", quoted(value))
}

/// A call with one argument and options, in the notation.
pub(crate) fn call(verb: &str, argument: &str, settings: &[(&str, &str)]) -> String {
    let settings: String =
        settings.iter().map(|(name, value)| format!(", {name}={}", quoted(value))).collect();
    format!("‹{verb}({}{settings})›", quoted(argument))
}

/// A JSON string in which the notation's own brackets are escaped.
fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('‹', "\\u2039").replace('›', "\\u203a")
}

/// What is inside the brackets; `None` where it is no mention.
fn parse(inside: &str) -> Option<Mention> {
    let Some((verb, list)) = inside.strip_suffix(')').and_then(|call| call.split_once('(')) else {
        return setting(inside).map(Mention::Option);
    };
    let (mut arguments, mut settings) = (Vec::new(), Vec::new());
    for item in items(list) {
        match serde_json::from_str(item) {
            Ok(value) => arguments.push(value),
            Err(_) => settings.push(setting(item).filter(|it| it.value.is_some())?),
        }
    }
    is_name(verb).then(|| Mention::Call { verb: verb.to_owned(), arguments, settings })
}

fn setting(text: &str) -> Option<Setting> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(serde_json::from_str(value).ok()?)),
        None => (text, None),
    };
    is_name(name).then(|| Setting { name: name.to_owned(), value })
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The parts of a list, cut at the commas outside of strings.
fn items(list: &str) -> impl Iterator<Item = &str> {
    let (mut in_string, mut is_escaped) = (false, false);
    let is_comma = move |character: char| {
        let escapes = in_string && character == '\\' && !is_escaped;
        in_string ^= character == '"' && !is_escaped;
        is_escaped = escapes;
        character == ',' && !in_string
    };
    list.split(is_comma).map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(name: &str, value: impl Into<Option<Value>>) -> Setting {
        Setting { name: name.to_owned(), value: value.into() }
    }

    #[test]
    fn reads_options_with_and_without_a_value() {
        let text = "give ‹output›, ‹force=true› or ‹context=2048› with ‹scheme=\"W8A8\"›";
        let options = [
            of("output", None),
            of("force", json!(true)),
            of("context", json!(2048)),
            of("scheme", json!("W8A8")),
        ];
        assert_eq!(mentions(text), options.map(Mention::Option));
        let spoken = reword(text, |mention| match mention {
            Mention::Option(setting) => setting.name.to_uppercase(),
            Mention::Call { .. } => String::new(),
        });
        assert_eq!(spoken, "give OUTPUT, FORCE or CONTEXT with SCHEME");
    }

    #[test]
    fn whatever_a_value_holds_comes_back_as_it_was() {
        for name in ["plain", "a b", "quote\"", "back\\", "comma, x=1", "‹force=true›", "(a)", ""] {
            let text = format!("before {} after", call("pull", name, &[("revision", name)]));
            let call = Mention::Call {
                verb: "pull".to_owned(),
                arguments: vec![json!(name)],
                settings: vec![of("revision", json!(name))],
            };
            assert_eq!(mentions(&text), [call], "{text}");
            assert_eq!(mentions(&option("ignore", name)), [Mention::Option(of("ignore", json!(name)))]);
            assert_eq!(reword(&text, |_| "*".to_owned()), "before * after");
        }
    }

    #[test]
    fn what_is_no_mention_stays() {
        for text in ["‹", "›", "a ‹b", "‹no mention›", "‹Output›", "‹a=b›", "‹f(x)›", "‹›", "‹a(›"]
        {
            assert_eq!(reword(text, |_| panic!()), text);
        }
        assert_eq!(reword("‹ ‹force=true›", |_| "f".to_owned()), "‹ f");
    }
}
