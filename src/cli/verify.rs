//! `mgpack verify`.

use std::process::ExitCode;

use mgpack::Result;
use mgpack::bundle::{self, Finding, FindingKind};
use mgpack::manifest::MANIFEST_NAME;
use mgpack::size::counted;

use super::args::VerifyArgs;
use super::{STOP, ui};

pub(super) fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let bars = ui::Bars::new(args.talk.progress);
    let mut report =
        super::pool(args.threads)?.install(|| bundle::verify(&args.bundle, args.quick, &bars, &STOP))?;
    if let (Some(wanted), Some(found)) = (args.id, report.id)
        && wanted != found
    {
        report.findings.push(Finding {
            path: MANIFEST_NAME.to_owned(),
            kind: FindingKind::Id,
            expected: format!("id sha256:{wanted}"),
            found: format!("id sha256:{found}"),
        });
    }
    if args.talk.json {
        super::print_json(&report)?;
    } else if report.findings.is_empty() {
        let name = report.name.as_deref().unwrap_or("bundle");
        let what = if args.quick { "sizes and headers agree" } else { "every byte agrees" };
        let id = report.id.map(|id| id.to_string()).unwrap_or_default();
        ui::print(&format!(
            "{name}: {}, {what} with the seal\nid sha256:{id}\n",
            counted(report.files, "file")
        ));
    } else {
        for finding in &report.findings {
            ui::print(&format!(
                "{}\n  expected {}\n     found {}\n",
                finding.path, finding.expected, finding.found
            ));
        }
        let count = counted(report.findings.len(), "finding");
        ui::say(&format!("{count}: the bundle is not what was sealed"));
    }
    if !args.talk.json {
        report.notes.iter().for_each(|note| ui::print(&format!("note: {note}\n")));
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
