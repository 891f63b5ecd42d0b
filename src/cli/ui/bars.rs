//! Bars: of memory, and of progress on stderr.

use std::io::{self, IsTerminal as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use mgpack::progress::{Progress, Stage};
use mgpack::size::shown as bytes;
use mgpack::threads;

use super::stream::say;
use crate::cli::args::ProgressMode;

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

    /// Prints a line, above the bar where there is one.
    fn beside(&self, line: &str) {
        let current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match current.as_ref() {
            Some((bar, ..)) => bar.suspend(|| say(line)),
            None => say(line),
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
        // The bar ticks on a thread of its own, and indicatif panics where there can be none.
        if self.mode == ProgressMode::Fancy && threads::can_start() {
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
        self.beside(&format!("note: {text}"));
    }

    fn announce(&self, text: &str) {
        if self.mode != ProgressMode::None {
            self.beside(text);
        }
    }
}

/// Progress of short work: no bars, only what the user should know.
pub(crate) struct Notes;

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
        // After an error or an interrupt the bar must not be left half-drawn above the message.
        self.end();
    }
}
