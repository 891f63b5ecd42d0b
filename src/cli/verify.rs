//! `mgpack verify`.

use mgpack::Result;
use mgpack::bundle::{FindingKind, Verification};
use mgpack::size::counted;
use mgpack::verbs::verify::{self, Depth, VerifyCall};

use super::args::VerifyArgs;
use super::ui::Tone;
use super::{Verdict, ui, work};

pub(super) fn run(args: &VerifyArgs) -> Result<Verdict> {
    let call = VerifyCall {
        bundle: args.bundle.clone(),
        depth: if args.quick { Depth::Quick } else { Depth::Full },
        id: args.id,
        threads: args.threads.map(usize::from),
    };
    let bars = ui::Bars::new(args.talk.progress);
    let report = verify::verify(&call, work(&bars))?;
    if args.talk.json {
        super::print_json(&report)?;
    } else {
        let mut screen = ui::Screen::new();
        show(&report, args.quick, &mut screen);
        screen.print();
        if let count @ 1.. = report.findings.len() {
            let count = counted(count, "finding");
            ui::say_toned(Tone::Bad, &format!("{count}: the bundle is not what was sealed"));
        }
    }
    Ok(if report.findings.is_empty() { Verdict::Good } else { Verdict::Findings })
}

fn show(report: &Verification, quick: bool, screen: &mut ui::Screen) {
    if report.findings.is_empty() {
        let name = report.name.as_deref().unwrap_or("bundle");
        let what = if quick { "sizes and headers agree" } else { "every byte agrees" };
        screen.toned(Tone::Good, &format!("{name}: {}, {what} with the seal", counted(report.files, "file")));
        screen.whole(&format!("id sha256:{}", report.id.map(|id| id.to_string()).unwrap_or_default()));
    }
    for finding in &report.findings {
        // An id is compared by the reader, too: it is whole.
        let shown = |text: &str| match finding.kind {
            FindingKind::Id => text.to_owned(),
            _ => ui::with_short_digests(text),
        };
        screen.toned(Tone::Bad, &finding.path);
        screen.labelled(Tone::Label, "  expected", &shown(&finding.expected));
        screen.labelled(Tone::Label, "     found", &shown(&finding.found));
    }
    for note in &report.notes {
        screen.labelled(Tone::Doubtful, "note", note);
    }
}
