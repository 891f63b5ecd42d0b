//! `mgpack release`.

use std::process::ExitCode;

use mgpack::{Result, release};
use serde_json::json;

use super::args::ReleaseArgs;
use super::{STOP, ui};

pub(super) fn run(args: &ReleaseArgs) -> Result<ExitCode> {
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
        let rows = released
            .files
            .iter()
            .map(|(name, size, digest)| vec![name.clone(), ui::bytes(*size), digest.to_string()]);
        ui::print(&ui::table(&["file", "size", "sha256"], &[1], rows));
        ui::print(&format!("id sha256:{}\n", released.id));
    }
    Ok(ExitCode::SUCCESS)
}
