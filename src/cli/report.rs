//! `mgpack report`.

use std::path::PathBuf;

use mgpack::checkpoint::Checkpoint;
use mgpack::locate::{self, Places};
use mgpack::report::{self, Report};
use mgpack::{Bundle, Result};

use super::args::ReportArgs;
use super::write::Writer;
use super::{STOP, Verdict, ui};
use crate::program::shell_word;

/// Tensors that get a histogram.
const HISTOGRAMS: usize = 6;

pub(super) fn run(args: &ReportArgs) -> Result<Verdict> {
    let bundle = Bundle::open(&args.bundle)?;
    let mut places = Places::from_env(|name| std::env::var_os(name));
    places.revision.clone_from(&args.revision);
    let checkpoint = Checkpoint::open(&locate::checkpoint(&args.against, &places)?.dir)?;
    let bars = ui::Bars::new(args.talk.progress);
    let compare = || Report::compare(&bundle, &checkpoint, HISTOGRAMS, &bars, &STOP);
    let report = super::pool(args.threads)?.install(compare)?;
    let report = Report { command: Some(command(args)), ..report };
    drop(bars);
    let inputs = [bundle.dir(), checkpoint.root()];
    let writer = Writer { inputs: &inputs, force: args.force };
    if let Some(file) = &args.svg {
        writer.markup(file, &report::figure(&report))?;
    }
    let page = match &args.output {
        None if args.talk.json || args.svg.is_some() => None,
        None => Some(PathBuf::from(format!("{}-report.html", report.bundle))),
        given => given.clone(),
    };
    if let Some(file) = &page {
        writer.markup(file, &report::page(&report))?;
    }
    if args.talk.json {
        super::print_json(&report)?;
    } else {
        let mut screen = ui::Screen::new();
        for file in page.iter().chain(&args.svg) {
            screen.whole(&file.display().to_string());
        }
        screen.print();
    }
    Ok(Verdict::Good)
}

/// The command as a shell reads it, without what changes nothing on the page.
fn command(args: &ReportArgs) -> String {
    let bundle = shell_word(&args.bundle.to_string_lossy());
    let mut command = format!("mgpack report {bundle} --against {}", shell_word(&args.against));
    if let Some(revision) = &args.revision {
        command.push_str(&format!(" --revision {}", shell_word(revision)));
    }
    command
}
