//! The pages, drawings and lists that commands write: over a file that mgpack made, and over another with `--force`.

use std::path::Path;

use mgpack::Result;
use mgpack::output::{self, Replace, Target};

use super::{STOP, ui};

/// How a page or drawing begins.
const MARKUP: &str = "<!-- made by mgpack -->\n";
/// How a list begins.
const LIST: &str = "# made by mgpack\n";

/// What a command reads, which it does not write over, and whether it was told `--force`.
pub(super) struct Writer<'a> {
    pub(super) inputs: &'a [&'a Path],
    pub(super) force: bool,
}

impl Writer<'_> {
    /// Writes HTML or SVG.
    pub(super) fn markup(&self, file: &Path, text: &str) -> Result<()> {
        self.write(file, MARKUP, text)
    }

    /// Writes a text whose comments begin with `#`.
    pub(super) fn list(&self, file: &Path, text: &str) -> Result<()> {
        self.write(file, LIST, text)
    }

    fn write(&self, path: &Path, mark: &str, text: &str) -> Result<()> {
        let is_ours = |path: &Path| output::file_that_begins_with(path, mark);
        let replace = if self.force { Replace::If(&output::regular_file) } else { Replace::If(&is_ours) };
        let _attended = STOP.attend();
        let target = Target { path, inputs: self.inputs, replace, len: 0 };
        let placed = output::write_file(target, format!("{mark}{text}").as_bytes(), &ui::Notes)?;
        if let Some(notice) = placed.notice() {
            ui::say(&format!("note: {notice}"));
        }
        Ok(())
    }
}
