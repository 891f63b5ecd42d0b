//! `report`: a bundle compared with its checkpoint, and a page about it.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Work, Writer, on_threads, words};
use crate::bundle::Bundle;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::locate;
use crate::program::shell_word;
use crate::report::{self, Report};

/// Tensors that get a histogram.
const HISTOGRAMS: usize = 6;

/// What `report` takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportCall {
    /// The bundle's folder.
    #[serde(deserialize_with = "words::path")]
    pub bundle: PathBuf,
    /// The checkpoint it was made from: a folder, an alias or a hub id.
    pub against: String,
    /// Branch, tag or commit in the hub's cache.
    #[serde(default)]
    pub revision: Option<String>,
    /// Threads; `None` is one for each core.
    #[serde(default)]
    pub threads: Option<usize>,
}

/// The files that are written about a comparison.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pages {
    /// The page.
    #[serde(deserialize_with = "words::path_if_given")]
    pub page: Option<PathBuf>,
    /// The main figure.
    #[serde(deserialize_with = "words::path_if_given")]
    pub svg: Option<PathBuf>,
    /// Whether files that mgpack did not make are replaced.
    pub force: bool,
}

/// A comparison, and what was read for it.
pub struct Compared {
    /// The figures. They serialize as what `--json` prints.
    pub report: Report,
    bundle: Bundle,
    checkpoint: Checkpoint,
}

impl Compared {
    /// Writes the page and the main figure, as far as they are wanted.
    ///
    /// # Errors
    /// [`crate::error::OutputError`].
    pub fn write(&self, pages: &Pages, work: Work<'_>) -> Result<()> {
        let inputs = [self.bundle.dir(), self.checkpoint.root()];
        let writer = Writer { inputs: &inputs, force: pages.force };
        if let Some(file) = &pages.svg {
            writer.markup(file, &report::figure(&self.report), work)?;
        }
        pages.page.as_ref().map_or(Ok(()), |file| writer.markup(file, &report::page(&self.report), work))
    }
}

/// Compares every tensor of the bundle with the checkpoint's.
///
/// # Errors
/// [`crate::error::BundleError::OtherCheckpoint`]; where there is no such bundle or checkpoint; reading errors.
pub fn report(call: &ReportCall, work: Work<'_>) -> Result<Compared> {
    let bundle = Bundle::open(&call.bundle)?;
    let places = work.places(call.revision.as_deref());
    let checkpoint = Checkpoint::open(&locate::checkpoint(&call.against, &places)?.dir)?;
    let compare = || Report::compare(&bundle, &checkpoint, HISTOGRAMS, work.progress, work.stop);
    let report = on_threads(call.threads, compare)?;
    Ok(Compared { report: Report { command: Some(command(call)), ..report }, bundle, checkpoint })
}

/// The command as a shell reads it, without what changes nothing on the page.
fn command(call: &ReportCall) -> String {
    let bundle = shell_word(&call.bundle.to_string_lossy());
    let mut command = format!("mgpack report {bundle} --against {}", shell_word(&call.against));
    if let Some(revision) = &call.revision {
        command.push_str(&format!(" --revision {}", shell_word(revision)));
    }
    command
}
