//! What a command shows: lines of prose, lines that are kept whole, and tables, all cut to one width.
//!
//! Every text passes through here, and everything in it that a terminal would obey is escaped on the way.

use mgpack::legible::legible;

use super::color::{self, Stream, Tone};
use super::table::{Table, painted};
use super::text::{width_of, wrapped};
use super::{stream, width};

/// Bytes of a long table that are held before they are printed.
const HELD_LEN: usize = 64 << 10;

/// A text in the making, for one stream.
#[derive(Debug)]
pub(crate) struct Screen {
    text: String,
    /// `None`: lines have no end.
    width: Option<usize>,
    is_colored: bool,
    /// Goes out piece by piece where a table is long; else at once.
    flows: bool,
}

impl Screen {
    /// For stdout.
    pub(crate) fn new() -> Self {
        Self {
            text: String::new(),
            width: Some(width::of_stdout()),
            is_colored: color::has_colors(Stream::Out),
            flows: true,
        }
    }

    /// For stderr.
    pub(super) fn for_talk() -> Self {
        let is_colored = color::has_colors(Stream::Err);
        Self { text: String::new(), width: width::of_stderr(), is_colored, flows: false }
    }

    /// Columns of the stream.
    pub(crate) fn width(&self) -> usize {
        self.width.unwrap_or(usize::MAX)
    }

    /// An empty line.
    pub(crate) fn gap(&mut self) {
        self.text.push('\n');
    }

    /// A line of prose.
    pub(crate) fn line(&mut self, text: &str) {
        self.prose(None, None, text);
    }

    /// A line of prose with a meaning.
    pub(crate) fn toned(&mut self, tone: Tone, text: &str) {
        self.prose(Some(tone), None, text);
    }

    /// `label: text`, with the lines below the first under it. The label alone has the tone.
    pub(crate) fn labelled(&mut self, tone: Tone, label: &str, text: &str) {
        self.prose(None, Some((tone, label)), text);
    }

    /// `label: command`, in the form of a shell where it takes more than a line.
    pub(crate) fn command(&mut self, label: Option<&str>, command: &str) {
        let command = legible(command);
        let start = label.map_or(2, |label| width_of(label) + 2);
        // Two more for the backslash that makes the lines one command.
        let lines = wrapped(&command, self.width().saturating_sub(start + 2).max(1));
        for (at, line) in lines.iter().enumerate() {
            match label.filter(|_| at == 0) {
                Some(label) => {
                    self.text.push_str(&painted(Some(Tone::Label), &format!("{label}:"), self.is_colored));
                    self.text.push(' ');
                }
                None => self.text.push_str(&" ".repeat(start)),
            }
            self.text.push_str(line);
            self.text.push_str(if at + 1 < lines.len() { " \\\n" } else { "\n" });
        }
    }

    /// A line that is never broken: what is copied, such as ids and paths.
    pub(crate) fn whole(&mut self, text: &str) {
        self.text.push_str(&legible(text));
        self.text.push('\n');
    }

    /// A table.
    pub(crate) fn table(&mut self, table: &Table<'_>) {
        let (width, is_colored, flows) = (self.width(), self.is_colored, self.flows);
        table.lines(width, is_colored, &mut |line| {
            self.text.push_str(&line);
            self.text.push('\n');
            if flows && self.text.len() >= HELD_LEN {
                stream::print(&self.text);
                self.text.clear();
            }
        });
    }

    /// Prints it all to stdout.
    pub(crate) fn print(self) {
        stream::print(&self.text);
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn prose(&mut self, tone: Option<Tone>, label: Option<(Tone, &str)>, text: &str) {
        let text = legible(text);
        let indent = text.len() - text.trim_start_matches(' ').len();
        let start = label.map_or(indent, |(_, label)| width_of(label) + 2);
        let lines = match self.width {
            Some(width) => wrapped(&text, width.saturating_sub(start).max(1)),
            None => vec![text.trim_start_matches(' ').to_owned()],
        };
        for at in 0..lines.len().max(1) {
            let line = lines.get(at).map_or("", String::as_str);
            match label.filter(|_| at == 0) {
                Some((tone, label)) => {
                    self.text.push_str(&painted(Some(tone), &format!("{label}:"), self.is_colored));
                    self.text.push(' ');
                }
                None => self.text.push_str(&" ".repeat(start)),
            }
            self.text.push_str(&painted(tone, line, self.is_colored));
            self.text.push('\n');
        }
    }
}
