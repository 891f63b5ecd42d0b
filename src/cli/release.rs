//! `mgpack release`.

use mgpack::{Result, release};
use serde_json::json;

use super::args::ReleaseArgs;
use super::{STOP, Verdict, ui};

pub(super) fn run(args: &ReleaseArgs) -> Result<Verdict> {
    let bars = ui::Bars::new(args.talk.progress);
    let part_len = args.part_size.map(|size| size.0);
    let released = super::pool(None)?
        .install(|| release::release(&args.bundle, &args.output, part_len, &bars, &STOP))?;
    if args.talk.json {
        let files: Vec<_> = released
            .files
            .iter()
            .map(|(name, size, sha256)| json!({ "path": name, "size": size, "sha256": sha256 }))
            .collect();
        super::print_json(&json!({ "id": released.id, "files": files }))?;
    } else {
        let rows =
            released.files.iter().map(|(name, size, _)| vec![name.as_str().into(), ui::Cell::Size(*size)]);
        let mut screen = ui::Screen::new();
        screen.table(&ui::Table::new(&["file", "size"]).with_rows(rows));
        screen.whole(&format!("id sha256:{}", released.id));
        screen.print();
    }
    Ok(Verdict::Good)
}
