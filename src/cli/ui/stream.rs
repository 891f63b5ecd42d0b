//! Writing to stdout and stderr.
//!
//! A command's exit status is its verdict, whoever reads the output. So nothing here ends the process: the first
//! write to stdout that fails is remembered, and `cli::run` asks for it when the verdict is there.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::{Mutex, PoisonError};

use mgpack::error::{Explain as _, Explanation};
use mgpack::legible::is_hidden;
use serde::Serialize;

use super::color::Tone;
use super::screen::Screen;
use crate::cli::mention;

/// The first failure of stdout; after it nothing more is written.
static FAILURE: Mutex<Option<io::Error>> = Mutex::new(None);

/// Prints text to stdout as it is.
pub(crate) fn print(text: &str) {
    let mut failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
    if failure.is_none() {
        *failure = write(text).err();
    }
}

fn write(text: &str) -> io::Result<()> {
    // Not through `Stdout`, which takes a descriptor that cannot be written (EBADF) for one that drops everything.
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    out.write_all(text.as_bytes())
}

/// Prints a value as JSON to stdout: exact, with what is not ink in JSON's own escapes. It goes out while it is made, so
/// that a long list is never held whole.
pub(crate) fn print_json(value: &impl Serialize) -> serde_json::Result<()> {
    let mut out = Ink { held: Vec::new() };
    serde_json::to_writer_pretty(&mut out, value)?;
    out.held.push(b'\n');
    out.print_held();
    Ok(())
}

/// Bytes of JSON that is held before it is printed.
const HELD_LEN: usize = 64 << 10;

/// Prints JSON with hidden characters escaped.
struct Ink {
    held: Vec<u8>,
}

impl Ink {
    /// Prints what is held; the start of a character that is not whole stays.
    fn print_held(&mut self) {
        let whole = match std::str::from_utf8(&self.held) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let rest = self.held.split_off(whole);
        let text = String::from_utf8(std::mem::replace(&mut self.held, rest)).unwrap_or_default();
        let mut shown = String::with_capacity(text.len());
        for character in text.chars() {
            // Lines are broken between the tokens; in strings serde_json has escaped what is below a space.
            if is_hidden(character) && character != '\n' {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    shown.push_str(&format!("\\u{unit:04x}"));
                }
            } else {
                shown.push(character);
            }
        }
        print(&shown);
    }
}

impl Write for Ink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        if self.held.len() >= HELD_LEN {
            self.print_held();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why stdout could not be written, if it could not. A reader that has gone away is no failure: there is nobody left
/// to tell.
pub(crate) fn failure() -> Option<io::Error> {
    let failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner).take();
    failure.filter(|cause| cause.kind() != io::ErrorKind::BrokenPipe)
}

/// Prints a line to stderr. A first word with a colon (`note:`, `warning:`) has its colour.
pub(crate) fn say(text: &str) {
    let mut screen = Screen::for_talk();
    match text.split_once(": ") {
        Some((label @ ("note" | "warning"), rest)) => screen.labelled(Tone::Doubtful, label, rest),
        Some((label @ "error", rest)) => screen.labelled(Tone::Bad, label, rest),
        _ => screen.line(text),
    }
    tell(&screen.into_text());
}

/// Prints a line with a meaning to stderr.
pub(crate) fn say_toned(tone: Tone, text: &str) {
    let mut screen = Screen::for_talk();
    screen.toned(tone, text);
    tell(&screen.into_text());
}

/// Prints an error with where, why and what to do.
pub(crate) fn complain(error: &mgpack::Error) {
    let mut screen = Screen::for_talk();
    let Explanation { what, place, why, help, .. } = error.explain();
    screen.labelled(Tone::Bad, "error", &what);
    for (label, line) in [("where", place), ("  why", why), (" help", help)] {
        if let Some(line) = line {
            screen.labelled(Tone::Label, label, &mention::spoken(&line));
        }
    }
    tell(&screen.into_text());
}

fn tell(text: &str) {
    // Talk that nobody can hear is dropped.
    let _ = io::stderr().write_all(text.as_bytes());
}
