//! The library's mentions of options and calls as Python writes them: arguments and functions.

use mgpack::internals::mention::{Mention, Setting, reword};
use serde_json::Value;

/// Verbs that are functions of the package.
const FUNCTIONS: [&str; 10] =
    ["convert", "doctor", "inspect", "load", "map", "plan", "pull", "release", "report", "verify"];

/// The line with `force=True` for ‹force=true›, and with `mgpack.verify("bundle")` for ‹verify("bundle")›.
pub(crate) fn spoken(line: Option<String>) -> Option<String> {
    line.map(|line| reword(&line, word))
}

fn word(mention: &Mention) -> String {
    let (verb, arguments, settings) = match mention {
        Mention::Option(setting) => return argument(setting),
        Mention::Call { verb, arguments, settings } => (verb.as_str(), arguments, settings),
    };
    let named = || settings.iter().map(argument).collect::<Vec<_>>();
    let inside = || arguments.iter().map(literal).chain(named()).collect::<Vec<_>>().join(", ");
    match verb {
        // Without arguments it is what the function does that is meant.
        _ if FUNCTIONS.contains(&verb) && arguments.is_empty() && settings.is_empty() => {
            format!("`mgpack.{verb}`")
        }
        _ if FUNCTIONS.contains(&verb) => format!("`mgpack.{verb}({})`", inside()),
        // A command, which the package installs too.
        _ => {
            let given =
                arguments.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            let words: Vec<_> = std::iter::once(verb.to_owned()).chain(given).collect();
            let with =
                if settings.is_empty() { String::new() } else { format!(" with {}", named().join(" and ")) };
            format!("`mgpack {}`{with}", words.join(" "))
        }
    }
}

fn argument(setting: &Setting) -> String {
    format!("{}={}", setting.name, setting.value.as_ref().map(literal).unwrap_or_default())
}

/// A value as Python writes it. JSON's strings are Python's too.
fn literal(value: &Value) -> String {
    match value {
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        value => value.to_string(),
    }
}
