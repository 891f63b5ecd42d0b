//! Colours: whether a stream has them, and what each tone means.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::sync::OnceLock;

use crate::cli::args::ColorMode;

/// What a text means. Verdicts, errors and severities have colours; nothing is said by a colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Sound, but worth a look.
    Doubtful,
    /// Wrong.
    Bad,
    /// A title or a total.
    Strong,
    /// The name of what follows: headers of tables, `where:`, `help:`.
    Label,
}

impl Tone {
    /// The text in this tone, with the codes that make a terminal show it.
    pub(super) fn paint(self, text: &str) -> String {
        let code = match self {
            Tone::Good => "32",
            Tone::Doubtful => "33",
            Tone::Bad => "1;31",
            Tone::Strong => "1",
            Tone::Label => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Whether stdout and stderr have colours.
static COLORS: OnceLock<(bool, bool)> = OnceLock::new();

/// Decides for the whole process, by `--color`, the environment and what the streams are.
pub(crate) fn choose(mode: ColorMode) {
    let var = |name: &str| std::env::var_os(name);
    let out = wanted(mode, var, std::io::stdout().is_terminal());
    let err = wanted(mode, var, std::io::stderr().is_terminal());
    // Chosen once; a second choice, as in a test, changes nothing.
    let _ = COLORS.set((out, err));
}

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// stdout.
    Out,
    /// stderr.
    Err,
}

/// Whether the stream has colours. None before the choice.
pub(crate) fn has_colors(stream: Stream) -> bool {
    COLORS.get().is_some_and(|&(out, err)| if stream == Stream::Out { out } else { err })
}

/// `--color`, then NO_COLOR (no-color.org), CLICOLOR_FORCE and CLICOLOR (bixense.com/clicolors), then the terminal.
fn wanted(mode: ColorMode, var: impl Fn(&str) -> Option<OsString>, is_terminal: bool) -> bool {
    let value = |name: &str| var(name).filter(|value| !value.is_empty());
    match mode {
        ColorMode::Always => true,
        ColorMode::Never => false,
        ColorMode::Auto if value("NO_COLOR").is_some() => false,
        ColorMode::Auto if value("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
        ColorMode::Auto => {
            let is_off = value("CLICOLOR").is_some_and(|value| value == "0");
            is_terminal && !is_off && value("TERM").is_none_or(|value| value != "dumb")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_comes_before_the_environment_and_that_before_the_terminal() {
        let case = |mode, set: &[(&str, &str)], terminal| {
            let var = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            wanted(mode, var, terminal)
        };
        use ColorMode::{Always, Auto, Never};
        assert!(case(Auto, &[], true) && !case(Auto, &[], false));
        assert!(case(Always, &[("NO_COLOR", "1")], false) && !case(Never, &[("CLICOLOR_FORCE", "1")], true));
        assert!(!case(Auto, &[("NO_COLOR", "1")], true) && case(Auto, &[("NO_COLOR", "")], true));
        assert!(!case(Auto, &[("NO_COLOR", "0"), ("CLICOLOR_FORCE", "1")], true));
        assert!(
            case(Auto, &[("CLICOLOR_FORCE", "1")], false) && !case(Auto, &[("CLICOLOR_FORCE", "0")], false)
        );
        assert!(!case(Auto, &[("CLICOLOR", "0")], true) && case(Auto, &[("CLICOLOR", "1")], true));
        assert!(!case(Auto, &[("TERM", "dumb")], true) && case(Auto, &[("TERM", "xterm")], true));
    }
}
