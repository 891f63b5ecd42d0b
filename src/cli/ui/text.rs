//! Text cut to a width, and lists made short.
//!
//! Prose breaks at spaces and keeps whole what is copied: words, and what is in backticks. What is in a cell
//! of a table has to fit, so it breaks after the separators of names too, and anywhere at last.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Columns that a text takes.
pub(super) fn width_of(text: &str) -> usize {
    text.width()
}

/// The lines of a prose of at most `width` columns; longer words are alone on a line.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    // Spaces that align something stay where nothing has to be broken.
    if !text.is_empty() && width_of(text) <= width {
        return vec![text.to_owned()];
    }
    let mut lines: Vec<String> = Vec::new();
    for word in words(text, width) {
        match lines.last_mut() {
            Some(line) if width_of(line) + 1 + width_of(&word) <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

/// The words of a prose, what is in backticks as one word if it fits a line.
fn words(text: &str, width: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut rest = text.split(' ').filter(|word| !word.is_empty()).peekable();
    while let Some(word) = rest.next() {
        let is_open = |text: &str| text.matches('`').count() % 2 == 1;
        let mut whole = word.to_owned();
        if is_open(word) {
            let mut ahead = rest.clone();
            while is_open(&whole) && width_of(&whole) <= width {
                let Some(next) = ahead.next() else { break };
                whole = format!("{whole} {next}");
            }
            if !is_open(&whole) && width_of(&whole) <= width {
                rest = ahead;
            } else {
                whole = word.to_owned();
            }
        }
        words.push(whole);
    }
    words
}

/// The lines of a cell, none of which is wider than `width` (at least 1).
pub(super) fn cell_lines(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    // Between the parts of a name first, inside them where a part alone is too long.
    let parts =
        pieces(text, &['/', '.', ',']).into_iter().flat_map(|part| match width_of(part.trim_end()) > width {
            true => pieces(part, &['_', '-']),
            false => vec![part],
        });
    for piece in parts {
        if width_of(&line) + width_of(piece.trim_end()) <= width {
            line.push_str(piece);
            continue;
        }
        if !line.is_empty() {
            lines.push(line.trim_end().to_owned());
            line.clear();
        }
        for character in piece.chars() {
            if width_of(&line) + character.width().unwrap_or(0) > width && !line.is_empty() {
                lines.push(line.trim_end().to_owned());
                line.clear();
            }
            line.push(character);
        }
    }
    lines.push(line.trim_end().to_owned());
    lines
}

/// The parts of a text between which it may break: after a space, and after one of these inside a name. A number stays
/// whole: `0.25.0` and `1e-5` do not break.
fn pieces<'a>(text: &'a str, separators: &[char]) -> Vec<&'a str> {
    let mut cuts = vec![0];
    let mut around = text.char_indices().peekable();
    let mut before = ' ';
    while let Some((_, character)) = around.next() {
        if let Some(&(at, next)) = around.peek() {
            let is_name = separators.contains(&character)
                && (next.is_alphanumeric() && !(before.is_ascii_digit() && next.is_ascii_digit()))
                && before != ' ';
            if is_name || (character == ' ' && next != ' ') {
                cuts.push(at);
            }
        }
        before = character;
    }
    cuts.push(text.len());
    cuts.windows(2).filter_map(|pair| text.get(pair[0]..pair[1])).collect()
}

/// The text with its SHA-256 digests cut to their first 16 digits; `--json` has them whole.
pub(crate) fn with_short_digests(text: &str) -> String {
    const LEN: usize = 64;
    const KEPT: usize = 16;
    let mut shown = String::with_capacity(text.len());
    let mut run = String::new();
    for character in text.chars().chain(['\0']) {
        if character.is_ascii_hexdigit() {
            run.push(character);
            continue;
        }
        if run.len() == LEN {
            run.truncate(KEPT);
            run.push('…');
        }
        shown.push_str(&std::mem::take(&mut run));
        shown.push(character);
    }
    shown.pop();
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_breaks_at_spaces_and_keeps_what_is_copied() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("", 10), Vec::<String>::new());
        assert_eq!(
            wrapped("a/very/long/path/of/someone is it", 10),
            ["a/very/long/path/of/someone", "is it"]
        );
        assert_eq!(wrapped("run `mgpack pull x` now", 16), ["run", "`mgpack pull x`", "now"]);
        assert_eq!(wrapped("a `b c", 4), ["a `b", "c"], "a backtick alone quotes nothing");
        assert_eq!(wrapped("`much too long for it`", 8), ["`much", "too long", "for it`"]);
    }

    #[test]
    fn a_cell_never_exceeds_its_width() {
        assert_eq!(cell_lines("model.layers.0.mlp", 9), ["model.", "layers.0.", "mlp"]);
        assert_eq!(cell_lines("from 0.25.0 on", 8), ["from", "0.25.0", "on"]);
        assert_eq!(cell_lines("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(cell_lines("模型模型", 5), ["模型", "模型"]);
        assert_eq!(cell_lines("", 5), [""]);
        let text = "a-b_c/d.e, f (g) `h i` 12.5 … 模型 x=1,y=2 --long-option=value";
        for width in 2..30 {
            let lines = cell_lines(text, width);
            assert!(lines.iter().all(|line| width_of(line) <= width), "{width}: {lines:?}");
            let plain = |text: &str| text.replace(' ', "");
            assert_eq!(plain(&lines.concat()), plain(text), "nothing is lost");
        }
    }

    #[test]
    fn digests_are_cut_and_nothing_else_is() {
        let digest = "0123456789abcdef".repeat(4);
        assert_eq!(with_short_digests(&format!("sha256 {digest}")), "sha256 0123456789abcdef…");
        assert_eq!(with_short_digests(&format!("{digest}, x")), "0123456789abcdef…, x");
        for plain in ["", "16 bytes", "abc", &format!("{digest}0")] {
            assert_eq!(with_short_digests(plain), plain);
        }
    }
}
