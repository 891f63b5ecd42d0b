//! Which characters a terminal or a page would obey or hide instead of showing, and the form in which they are shown.
//!
//! Names and texts come from files that anyone may have written. Exact text is for JSON alone.

use std::borrow::Cow;

/// True for what is no ink: control characters, those that turn the direction of text, separators of lines, and what
/// has no width and no use in a name.
///
/// Joiners (U+200C, U+200D) are not among them: several scripts cannot be written without.
pub(crate) fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// The text with hidden characters as Rust's escapes: `\n`, `\u{1b}`, `\u{202e}`.
pub(crate) fn legible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_hidden(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_or_turns_text_is_escaped_and_nothing_else() {
        assert_eq!(legible("a\u{1b}[31m\nb\u{9b}2J\u{7f}"), "a\\u{1b}[31m\\nb\\u{9b}2J\\u{7f}");
        assert_eq!(
            legible("gpj.\u{202e}exe \u{2066}x\u{2069}\u{feff}"),
            "gpj.\\u{202e}exe \\u{2066}x\\u{2069}\\u{feff}"
        );
        for plain in ["model.layers.0.weight", "größe 模型 ✓", "می\u{200c}خواهم", ""] {
            assert!(matches!(legible(plain), Cow::Borrowed(_)), "{plain}");
        }
    }
}
