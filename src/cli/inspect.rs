//! `mgpack inspect`.

use std::path::Path;
use std::process::ExitCode;

use mgpack::checkpoint::Checkpoint;
use mgpack::locate::{self, Places};
use mgpack::manifest::{MANIFEST_NAME, Manifest};
use mgpack::size::counted;
use mgpack::{Result, bundle};
use serde_json::json;

use super::args::InspectArgs;
use super::ui;

pub(super) fn run(args: &InspectArgs) -> Result<ExitCode> {
    let path = Path::new(&args.path);
    if path.join(MANIFEST_NAME).exists() {
        let (manifest, id) = bundle::read_manifest(path)?;
        if args.json {
            super::print_json(&manifest)?;
        } else {
            ui::print(&bundle_text(&manifest, &id.to_string()));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let checkpoint = if path.is_file() {
        Checkpoint::open_file(path)?
    } else {
        let mut places = Places::from_env(|name| std::env::var_os(name));
        places.revision.clone_from(&args.revision);
        Checkpoint::open(&locate::checkpoint(&args.path, &places)?.dir)?
    };
    if args.json {
        let tensors: Vec<_> = checkpoint
            .tensors()
            .iter()
            .map(|tensor| {
                json!({
                    "name": tensor.name, "dtype": tensor.dtype, "shape": tensor.shape, "bytes": tensor.byte_len,
                    "file": checkpoint.files()[tensor.file].path, "offset": tensor.offset,
                })
            })
            .collect();
        let files: Vec<_> = checkpoint
            .files()
            .iter()
            .map(|file| json!({ "path": file.path, "bytes": file.len, "sha256": file.sha256, "metadata": file.metadata }))
            .collect();
        super::print_json(&json!({ "files": files, "tensors": tensors }))?;
    } else {
        ui::print(&checkpoint_text(&checkpoint));
    }
    for notice in checkpoint.notices() {
        ui::say(&format!("note: {notice}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn checkpoint_text(checkpoint: &Checkpoint) -> String {
    let rows = checkpoint.tensors().iter().map(|tensor| {
        vec![
            tensor.name.to_string(),
            format!("{:?}", tensor.dtype),
            format!("{:?}", tensor.shape),
            ui::bytes(tensor.byte_len),
            checkpoint.files()[tensor.file].path.clone(),
        ]
    });
    let mut text = ui::table(&["tensor", "dtype", "shape", "size", "file"], &[3], rows);
    let total: u64 = checkpoint.tensors().iter().map(|tensor| tensor.byte_len).sum();
    text.push_str(&format!(
        "\n{}, {}, in {}\n",
        counted(checkpoint.tensors().len(), "tensor"),
        ui::bytes(total),
        counted(checkpoint.files().len(), "file"),
    ));
    text
}

fn bundle_text(manifest: &Manifest, id: &str) -> String {
    let source = match (&manifest.source.name, &manifest.source.revision) {
        (Some(name), Some(revision)) => format!("{name}@{revision}"),
        _ => "a local checkpoint".to_owned(),
    };
    let mut text = format!(
        "{}  ({}, {}) from {source}, by {} {}\nid sha256:{id}\n\n",
        manifest.model.name,
        manifest.model.family,
        manifest.scheme.name.name(),
        manifest.producer.name,
        manifest.producer.version,
    );
    let rows = manifest
        .files
        .iter()
        .map(|file| vec![file.path.clone(), ui::bytes(file.size), file.sha256.to_string()]);
    text.push_str(&ui::table(&["file", "size", "sha256"], &[1], rows));
    text.push('\n');
    let rows = manifest.tensors.iter().map(|tensor| {
        // Nothing stands where nothing was measured: at copies, scales, and without figures.
        let sqnr = tensor.error.as_ref().and_then(|error| match error.sqnr_db {
            Some(sqnr) => Some(format!("{sqnr:.2}")),
            None => error.is_exact().then(|| "exact".to_owned()),
        });
        vec![
            tensor.name.to_string(),
            format!("{:?}", tensor.dtype),
            format!("{:?}", tensor.shape),
            ui::bytes(tensor.range[1] - tensor.range[0]),
            tensor.arithmetic.clone(),
            sqnr.unwrap_or_default(),
        ]
    });
    text.push_str(&ui::table(&["tensor", "dtype", "shape", "size", "arithmetic", "SQNR dB"], &[3, 5], rows));
    let totals = &manifest.totals;
    text.push_str(&format!(
        "\n{}, {} (from {}), {} as codes; {} in {}\n",
        counted(totals.tensors, "tensor"),
        ui::bytes(totals.tensor_bytes),
        ui::bytes(totals.source_tensor_bytes),
        totals.quantized,
        ui::bytes(totals.file_bytes),
        counted(manifest.files.len(), "file"),
    ));
    text
}
