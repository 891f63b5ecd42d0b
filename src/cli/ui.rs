//! Everything that is printed: tables, errors, bars. Data goes to stdout, talk to stderr.

use std::io::{self, IsTerminal as _, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use mgpack::Explain;
use mgpack::progress::{Progress, Stage};
pub(crate) use mgpack::size::shown as bytes;

use super::args::ProgressMode;
use super::mention;

/// Prints text to stdout. A reader that has gone away is not an error: there is nobody left to tell.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Prints a value as JSON to stdout.
pub(crate) fn print_json(value: &impl Serialize) -> serde_json::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(&text);
    Ok(())
}

/// Prints a line to stderr.
pub(crate) fn say(text: &str) {
    // Talk that nobody can hear is dropped.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints an error with where, why and what to do.
pub(crate) fn complain(error: &mgpack::Error) {
    say(&describe(error));
}

/// The whole text of an error.
pub(crate) fn describe(error: &mgpack::Error) -> String {
    let mut text = format!("error: {error}");
    for (label, line) in [("where", error.place()), ("  why", error.why()), (" help", error.help())] {
        if let Some(line) = line {
            text.push_str(&format!("\n{label}: {}", mention::spoken(&line)));
        }
    }
    text
}

/// A table without lines: the first column to the left, those in `right` to the right.
pub(crate) fn table(header: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    format!("{}\n", lines.join("\n"))
}

/// A bar of `width` cells filled to `part` of `whole`.
pub(crate) fn bar(part: u64, whole: u64, width: usize) -> String {
    let filled = if whole == 0 {
        0
    } else {
        (u128::from(part.min(whole)) * width as u128 / u128::from(whole)) as usize
    };
    format!("{}{}", "█".repeat(filled), "░".repeat(width - filled))
}

/// Shows progress on stderr.
pub(crate) struct Bars {
    mode: ProgressMode,
    current: Mutex<Option<(ProgressBar, Stage, u64, Instant)>>,
}

impl Bars {
    /// `mode`: what the user asked for; by default a bar on a terminal and lines elsewhere.
    pub(crate) fn new(mode: Option<ProgressMode>) -> Self {
        let default = || if io::stderr().is_terminal() { ProgressMode::Fancy } else { ProgressMode::Plain };
        Self { mode: mode.unwrap_or_else(default), current: Mutex::new(None) }
    }

    /// Ends the stage without a line, for those who print their own.
    pub(crate) fn end(&self) {
        let mut current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((bar, ..)) = current.take() {
            bar.finish_and_clear();
        }
    }

    fn close(&self) {
        let mut current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((bar, stage, total, started)) = current.take() {
            bar.finish_and_clear();
            let seconds = started.elapsed().as_secs_f64();
            if self.mode != ProgressMode::None && total > 0 {
                let rate = bytes((total as f64 / seconds.max(1e-6)) as u64);
                say(&format!("{:>8}  {} in {seconds:.1} s, {rate}/s", stage.label(), bytes(total)));
            }
        }
    }
}

impl Progress for Bars {
    fn begin(&self, stage: Stage, total: u64) {
        self.close();
        let bar = match self.mode {
            ProgressMode::Fancy => ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()),
            ProgressMode::Plain | ProgressMode::None => ProgressBar::hidden(),
        };
        let template =
            "{prefix:>8}  {wide_bar} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏░"));
        }
        bar.set_prefix(stage.label());
        if self.mode == ProgressMode::Fancy {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        *self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some((bar, stage, total, Instant::now()));
    }

    fn advance(&self, bytes: u64) {
        let current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((bar, ..)) = current.as_ref() {
            bar.inc(bytes);
        }
    }

    fn finish(&self) {
        self.close();
    }

    fn note(&self, text: &str) {
        let current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let say_it = || say(&format!("note: {text}"));
        match current.as_ref() {
            Some((bar, ..)) => bar.suspend(say_it),
            None => say_it(),
        }
    }
}

/// Progress of short work: no bars, only what the user should know.
pub(super) struct Notes;

impl Progress for Notes {
    fn begin(&self, _: Stage, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
    fn note(&self, text: &str) {
        say(&format!("note: {text}"));
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // After an error or an interrupt the bar must not stand half-drawn above the message.
        self.end();
    }
}
