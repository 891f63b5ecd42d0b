//! The pages, drawings and lists that verbs write beside their result: over a file that mgpack made, and over another by
//! force.

use std::path::Path;

use super::Work;
use crate::error::Result;
use crate::output::{self, Replace, Target};

/// How a page or drawing begins.
const MARKUP: &str = "<!-- made by mgpack -->\n";
/// How a list begins.
const LIST: &str = "# made by mgpack\n";

/// What a verb reads, which it does not write over, and whether it may replace what mgpack did not make.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// What is read.
    pub inputs: &'a [&'a Path],
    /// Whether any file may be replaced.
    pub force: bool,
}

impl Writer<'_> {
    /// Writes HTML or SVG.
    ///
    /// # Errors
    /// [`crate::error::OutputError`].
    pub fn markup(&self, file: &Path, text: &str, work: Work<'_>) -> Result<()> {
        self.write(file, MARKUP, text, work)
    }

    /// Writes a text whose comments begin with `#`.
    ///
    /// # Errors
    /// [`crate::error::OutputError`].
    pub fn list(&self, file: &Path, text: &str, work: Work<'_>) -> Result<()> {
        self.write(file, LIST, text, work)
    }

    fn write(&self, path: &Path, mark: &str, text: &str, work: Work<'_>) -> Result<()> {
        let is_ours = |path: &Path| output::file_that_begins_with(path, mark);
        let replace = if self.force { Replace::If(&output::regular_file) } else { Replace::If(&is_ours) };
        let _attended = work.stop.attend();
        let target = Target { path, inputs: self.inputs, replace, len: 0 };
        let placed = output::write_file(target, format!("{mark}{text}").as_bytes(), work.progress)?;
        if let Some(notice) = placed.notice() {
            work.progress.note(&notice);
        }
        Ok(())
    }
}
