//! `mgpack release`.

use mgpack::Result;
use mgpack::verbs::release::{self, ReleaseCall};

use super::args::ReleaseArgs;
use super::{Verdict, ui, work};

pub(super) fn run(args: &ReleaseArgs) -> Result<Verdict> {
    let call = ReleaseCall {
        bundle: args.bundle.clone(),
        output: args.output.clone(),
        part_size: args.part_size.map(|size| size.0),
    };
    let bars = ui::Bars::new(args.talk.progress);
    let released = release::release(&call, work(&bars))?;
    if args.talk.json {
        super::print_json(&released)?;
    } else {
        let rows =
            released.files.iter().map(|file| vec![file.path.as_str().into(), ui::Cell::Size(file.size)]);
        let mut screen = ui::Screen::new();
        screen.table(&ui::Table::new(&["file", "size"]).with_rows(rows));
        screen.whole(&format!("id sha256:{}", released.id));
        screen.print();
    }
    Ok(Verdict::Good)
}
