//! `mgpack inspect`.

use mgpack::Result;
use mgpack::bundle;
use mgpack::checkpoint::Checkpoint;
use mgpack::manifest::Manifest;
use mgpack::scheme::PartKind;
use mgpack::size::counted;
use mgpack::verbs::inspect::{self, InspectCall, Inspected};

use super::args::InspectArgs;
use super::ui::{Cell, Table, Tone};
use super::{Verdict, ui, work};

pub(super) fn run(args: &InspectArgs) -> Result<Verdict> {
    let call = InspectCall { path: args.path.clone(), revision: args.revision.clone() };
    let found = inspect::inspect(&call, work(&ui::Notes))?;
    if args.json {
        super::print_json(&found)?;
    }
    match &found {
        Inspected::Bundle(manifest, id) if !args.json => show_bundle(manifest, &id.to_string()),
        Inspected::Checkpoint(checkpoint) if !args.json => show_checkpoint(checkpoint),
        Inspected::Bundle(..) | Inspected::Checkpoint(_) => {}
    }
    if let Inspected::Checkpoint(checkpoint) = &found {
        for notice in checkpoint.notices() {
            ui::say(&format!("note: {notice}"));
        }
    }
    Ok(Verdict::Good)
}

fn show_checkpoint(checkpoint: &Checkpoint) {
    let (tensors, files) = (checkpoint.tensors(), checkpoint.files());
    let mut screen = ui::Screen::new();
    // The name of a file is written once; the tensors have its number.
    let is_one = files.len() == 1;
    let mut counts = vec![0_usize; files.len()];
    let stored = tensors.iter().flat_map(|tensor| tensor.spans());
    stored.for_each(|span| counts[span.file] += 1);
    let rows = files.iter().enumerate().map(|(at, file)| {
        let number = Cell::Number((at + 1).to_string());
        vec![number, file.path.as_str().into(), Cell::Size(file.len), Cell::Number(counts[at].to_string())]
    });
    screen.table(&Table::new(&["#", "file", "size", "tensors"]).with_rows(rows));
    screen.gap();
    let header = ["tensor", "dtype", "shape", "size", "#"];
    let rows = tensors.iter().map(|tensor| {
        let mut row = vec![
            tensor.name.as_str().into(),
            format!("{:?}", tensor.dtype).into(),
            shape(&tensor.shape).into(),
            Cell::Size(tensor.stored_len()),
        ];
        if !is_one {
            let file = tensor.spans().next().map_or(0, |span| span.file + 1);
            row.push(Cell::Number(file.to_string()));
        }
        row
    });
    screen.table(&Table::new(&header[..header.len() - usize::from(is_one)]).with_rows(rows));
    screen.gap();
    let total: u64 = tensors.iter().map(|tensor| tensor.stored_len()).sum();
    let (count, files) = (counted(tensors.len(), "tensor"), counted(files.len(), "file"));
    screen.toned(Tone::Strong, &format!("{count}, {}, in {files}", ui::bytes(total)));
    screen.print();
}

/// `4096×11008`; of a scalar nothing.
pub(super) fn shape(shape: &[u64]) -> String {
    shape.iter().map(u64::to_string).collect::<Vec<_>>().join("×")
}

fn show_bundle(manifest: &Manifest, id: &str) {
    let source = match (&manifest.source.name, &manifest.source.revision) {
        (Some(name), Some(revision)) => format!("{name}@{revision}"),
        _ => "a local checkpoint".to_owned(),
    };
    let mut screen = ui::Screen::new();
    let (model, scheme) = (&manifest.model, manifest.scheme.name.name());
    screen.toned(Tone::Strong, &format!("{}  ({}, {scheme})", model.name, model.family));
    screen.line(&format!("from {source}, by {} {}", manifest.producer.name, manifest.producer.version));
    screen.whole(&format!("id sha256:{id}"));
    screen.gap();
    let rows = manifest.files.iter().map(|file| vec![file.path.as_str().into(), Cell::Size(file.size)]);
    screen.table(&Table::new(&["file", "size"]).with_rows(rows));
    screen.gap();
    // A quantized weight is one row: its codes, with the scales beside them counted in its size.
    let weights = bundle::weights(manifest).filter_map(|weight| {
        let parts = weight.parts;
        let main = weight.part(PartKind::Codes).or(parts.first())?;
        // Nothing is written where nothing was measured: at copies, and without figures.
        let error = parts.iter().find_map(|part| part.error.as_ref());
        let sqnr = error.and_then(|error| match error.sqnr_db {
            Some(sqnr) => Some(format!("{sqnr:.2}")),
            None => error.is_exact().then(|| "exact".to_owned()),
        });
        Some(vec![
            weight.name.as_str().into(),
            format!("{:?}", main.dtype).into(),
            shape(&weight.shape()).into(),
            Cell::Size(weight.byte_len()),
            sqnr.map_or(Cell::None, Cell::Number),
        ])
    });
    screen.table(&Table::new(&["tensor", "as", "shape", "size", "SQNR dB"]).with_rows(weights));
    screen.gap();
    let totals = &manifest.totals;
    screen.toned(
        Tone::Strong,
        &format!(
            "{}, {} (from {}), {} as codes; {} in {}",
            counted(totals.tensors, "tensor"),
            ui::bytes(totals.tensor_bytes),
            ui::bytes(totals.source_tensor_bytes),
            totals.quantized,
            ui::bytes(totals.file_bytes),
            counted(manifest.files.len(), "file"),
        ),
    );
    screen.print();
}
