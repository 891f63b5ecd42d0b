//! `mgpack report`.

use std::path::PathBuf;

use mgpack::Result;
use mgpack::verbs::report::{self, Pages, ReportCall};

use super::args::ReportArgs;
use super::{Verdict, ui, work};

pub(super) fn run(args: &ReportArgs) -> Result<Verdict> {
    let call = ReportCall {
        bundle: args.bundle.clone(),
        against: args.against.clone(),
        revision: args.revision.clone(),
        threads: args.threads.map(usize::from),
    };
    let bars = ui::Bars::new(args.talk.progress);
    let compared = report::report(&call, work(&bars))?;
    drop(bars);
    let page = match &args.output {
        None if args.talk.json || args.svg.is_some() => None,
        None => Some(PathBuf::from(format!("{}-report.html", compared.report.bundle))),
        given => given.clone(),
    };
    let pages = Pages { page, svg: args.svg.clone(), force: args.force };
    compared.write(&pages, work(&ui::Notes))?;
    if args.talk.json {
        super::print_json(&compared.report)?;
    } else {
        let mut screen = ui::Screen::new();
        for file in pages.page.iter().chain(&pages.svg) {
            screen.whole(&file.display().to_string());
        }
        screen.print();
    }
    Ok(Verdict::Good)
}
