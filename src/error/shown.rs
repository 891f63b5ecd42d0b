//! Untrusted text as it may stand in a message.

use crate::size::counted;
use std::path::Path;

use crate::legible::is_hidden;

pub(super) fn name_rule(limit: usize) -> String {
    format!("a name must be 1 to {} without control characters", counted(limit, "byte"))
}

pub(super) fn shape_text(shape: &[u64]) -> String {
    format!("{shape:?}")
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
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == MOST {
            out.push('…');
            break;
        }
        if is_hidden(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The first of some files, and how many more.
pub(super) fn listed(files: &[String]) -> String {
    match files {
        [] => "nothing".to_owned(),
        [only] => format!("`{}`", shown_bare(only)),
        [first, rest @ ..] => format!("`{}` and {} more", shown_bare(first), rest.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_shortens_untrusted_text() {
        assert_eq!(shown("a\u{1b}[31m\n"), "`a\\u{1b}[31m\\n`");
        assert_eq!(shown(&"x".repeat(5000)).chars().count(), 203);
    }
}
