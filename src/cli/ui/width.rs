//! How wide a stream is.

use std::ffi::OsStr;
use std::io::{IsTerminal as _, stderr, stdout};
use std::os::fd::AsFd;

/// Columns where nobody says how many there are.
const DEFAULT: usize = 80;
/// Fewer count as so many: below, no table of ours can be read.
const LEAST: usize = 40;
/// More count as so many. `COLUMNS=999999999` is a mistake, not a screen.
const MOST: usize = 400;

/// Columns of stdout: `COLUMNS`, the terminal's, or 80.
pub(super) fn of_stdout() -> usize {
    chosen(stdout().is_terminal().then(stdout)).unwrap_or(DEFAULT)
}

/// Columns of stderr: `COLUMNS` or the terminal's; `None` where lines go to a file, which has no edge.
pub(super) fn of_stderr() -> Option<usize> {
    chosen(stderr().is_terminal().then(stderr))
}

fn chosen(terminal: Option<impl AsFd>) -> Option<usize> {
    let given = std::env::var_os("COLUMNS").as_deref().and_then(number);
    let asked = || rustix::termios::tcgetwinsize(terminal?).ok().map(|size| usize::from(size.ws_col));
    // A terminal that does not know its size says 0.
    given.or_else(|| asked().filter(|&columns| columns > 0)).map(|columns| columns.clamp(LEAST, MOST))
}

/// A number of columns; anything else counts for nothing, as in other programs.
fn number(text: &OsStr) -> Option<usize> {
    let text = text.to_str()?;
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(MOST)).filter(|&columns| columns > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_above_nothing_is_a_width() {
        let of = |text: &str| number(OsStr::new(text));
        assert_eq!((of("80"), of("1"), of("0120")), (Some(80), Some(1), Some(120)));
        assert_eq!(of("99999999999999999999999"), Some(MOST));
        for bad in ["", "0", "-5", "+5", "8e1", " 80", "80x"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
