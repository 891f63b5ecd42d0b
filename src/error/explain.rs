//! What a person needs to know of an error, and untrusted text in the form that a message may have.

use std::fmt::Display;
use std::io;
use std::path::Path;

use super::io::help_for;
use crate::legible::legible;
use crate::size::counted;

/// An error that explains itself.
pub trait Explain: std::error::Error {
    /// What happened, where, why, and what to do.
    ///
    /// Each area has one `match` with one arm for each variant. A wildcard arm is an error of clippy here, so that a
    /// new variant does not compile until it is explained.
    fn explain(&self) -> Explanation;
}

/// An error in the words that a person reads: `error`, `where`, `why` and `help` of the command line.
///
/// Options and calls are written in the notation of `mention`: ‹force=true›, never `--force`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// What happened: one sentence in lower case without a full stop. The error displays as this.
    pub what: String,
    /// The file, tensor or option concerned.
    pub place: Option<String>,
    /// What was found and why it cannot be accepted.
    pub why: Option<String>,
    /// What the reader can do next, with the command where there is one.
    pub help: Option<String>,
    /// mgpack could have gone on and declined: what was asked for is unsafe.
    pub refusal: bool,
}

/// An explanation of what happened; the methods add the rest.
pub(super) fn what(what: impl Display) -> Explanation {
    Explanation { what: what.to_string(), place: None, why: None, help: None, refusal: false }
}

/// An explanation of what happened at a path. An empty one is none.
pub(super) fn at(path: impl AsRef<Path>, happened: impl Display) -> Explanation {
    let path = path.as_ref().to_string_lossy();
    if path.is_empty() { what(happened) } else { what(happened).place(legible(&path)) }
}

/// What is wrong in a file that nothing but another copy can mend.
pub(super) fn damaged(happened: impl Display) -> Explanation {
    what(happened).help("download that file again; if the error stays, the program that wrote it is at fault")
}

impl Explanation {
    pub(super) fn place(self, place: impl Display) -> Self {
        Self { place: Some(place.to_string()), ..self }
    }

    pub(super) fn why(self, why: impl Display) -> Self {
        Self { why: Some(why.to_string()), ..self }
    }

    pub(super) fn help(self, help: impl Display) -> Self {
        Self { help: Some(help.to_string()), ..self }
    }

    /// What the system answered, and what can be done about it.
    pub(super) fn caused_by(self, cause: &io::Error) -> Self {
        Self { help: help_for(cause), ..self.why(cause) }
    }

    pub(super) fn refused(self) -> Self {
        Self { refusal: true, ..self }
    }
}

/// A path for people: what is not ink escaped, so that a file name cannot steer a terminal.
pub(super) fn shown_path(path: &Path) -> String {
    shown_bare(&path.to_string_lossy())
}

/// Untrusted text in quotes, escaped, at most 200 characters of it.
pub(super) fn shown(text: &str) -> String {
    format!("`{}`", shown_bare(text))
}

/// The same without quotes.
pub(super) fn shown_bare(text: &str) -> String {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST) {
        Some((len, _)) => format!("{}…", legible(text.get(..len).unwrap_or_default())),
        None => legible(text).into_owned(),
    }
}

/// The first of some files, and how many more.
pub(super) fn listed(files: &[String]) -> String {
    match files {
        [] => "nothing".to_owned(),
        [only] => shown(only),
        [first, rest @ ..] => format!("{} and {} more", shown(first), rest.len()),
    }
}

/// The rule for names of tensors.
pub(super) fn name_rule(limit: usize) -> String {
    format!("a name must be 1 to {} without control characters", counted(limit, "byte"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_shortens_untrusted_text() {
        assert_eq!(shown("a\u{1b}[31m\n"), "`a\\u{1b}[31m\\n`");
        assert_eq!(shown(&"é".repeat(5000)).chars().count(), 203);
        assert_eq!(at("a\u{1b}", "").place.unwrap(), "a\\u{1b}");
        assert_eq!(at("", "").place, None);
    }
}
