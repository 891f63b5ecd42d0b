//! `inspect`: what a bundle, a checkpoint or one file holds.

use std::path::Path;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use super::Work;
use crate::bundle;
use crate::checkpoint::{Checkpoint, SourceTensor};
use crate::digest::Digest;
use crate::error::Result;
use crate::locate;
use crate::manifest::Manifest;

/// What `inspect` takes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InspectCall {
    /// A bundle's or a checkpoint's folder, an alias, a hub id or a .safetensors file.
    pub path: String,
    /// Branch, tag or commit in the hub's cache.
    pub revision: Option<String>,
}

/// What was found. Serializes as what `--json` prints.
pub enum Inspected {
    /// A bundle: its manifest, and its id.
    Bundle(Box<Manifest>, Digest),
    /// A checkpoint, or one file.
    Checkpoint(Box<Checkpoint>),
}

impl Serialize for Inspected {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Inspected::Bundle(manifest, _) => manifest.serialize(serializer),
            Inspected::Checkpoint(checkpoint) => serialize_checkpoint(checkpoint, serializer),
        }
    }
}

/// Reads the manifest of a bundle, or the headers of a checkpoint, whose notices are the caller's to show.
///
/// # Errors
/// Where there is none, or none that can be read.
pub fn inspect(call: &InspectCall, work: Work<'_>) -> Result<Inspected> {
    let path = Path::new(&call.path);
    if bundle::is_at(path)? {
        let (manifest, id) = bundle::read_manifest(path)?;
        return Ok(Inspected::Bundle(Box::new(manifest), id));
    }
    let checkpoint = if path.is_file() {
        Checkpoint::open_file(path)?
    } else {
        Checkpoint::open(&locate::checkpoint(&call.path, &work.places(call.revision.as_deref()))?.dir)?
    };
    Ok(Inspected::Checkpoint(Box::new(checkpoint)))
}

fn serialize_checkpoint<S: Serializer>(
    checkpoint: &Checkpoint,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    let files = checkpoint.files().iter().map(
        |file| json!({ "path": file.path, "bytes": file.len, "sha256": file.sha256, "metadata": file.metadata }),
    );
    let tensors = checkpoint.tensors().iter().map(|tensor| {
        let mut entry = json!({
            "name": tensor.name, "dtype": tensor.dtype, "shape": tensor.shape, "bytes": tensor.byte_len,
        });
        place(checkpoint, tensor, &mut entry);
        entry
    });
    CheckpointContents { files: Each(files), tensors: Each(tensors) }.serialize(serializer)
}

/// Adds where a tensor lies, or what it is decoded from, to what is said of it.
pub(super) fn place(checkpoint: &Checkpoint, tensor: &SourceTensor, entry: &mut Value) {
    let place = |tensor: &SourceTensor| {
        let span = tensor.span()?;
        Some((&checkpoint.files().get(span.file)?.path, span.offset))
    };
    let (file, offset) = place(tensor).unzip();
    (entry["file"], entry["offset"]) = (json!(file), json!(offset));
    entry["decoding"] = tensor.coded().map_or(Value::Null, |coded| {
        let parts = coded.parts.iter().filter_map(|part| {
            let (file, offset) = place(part)?;
            Some(json!({ "name": part.name, "file": file, "offset": offset, "bytes": part.byte_len }))
        });
        let arithmetic = coded.weight.coding.arithmetic();
        json!({ "arithmetic": arithmetic, "parts": parts.collect::<Vec<_>>() })
    });
}

/// A checkpoint's files and tensors.
#[derive(Serialize)]
#[serde(bound = "")]
struct CheckpointContents<F: Iterator<Item = Value> + Clone, T: Iterator<Item = Value> + Clone> {
    files: Each<F>,
    tensors: Each<T>,
}

/// A list whose items are made one by one while they are written.
struct Each<I>(I);

impl<I: Iterator<Item = Value> + Clone> Serialize for Each<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}
