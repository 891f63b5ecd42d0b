//! What a finished conversion says of itself: the manifest's records.
//!
//! Pure: takes what was planned and what the pipeline found. Carries out formats/bundle.md, "Manifest".

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::pipeline::{self, Written};
use super::{Conversion, checked, io_error};
use crate::checkpoint::{Coded, SourceTensor};
use crate::digest::Digest;
use crate::error::Result;
use crate::manifest::{
    self, Decoding, ErrorFigures, FileRecord, MANIFEST_NAME, Manifest, Producer, SchemeRecord, Source,
    SourceFate, SourceFileRecord, TensorRecord,
};
use crate::names::{BundlePath, Commit, HubId, Line, Word};
use crate::plan::Fate;
use crate::scheme::PartKind;

impl Conversion {
    /// The manifest, not yet sealed by its own field. `copied`: records of the copied files; `digests`: of files of weights,
    /// by their paths; `files`: of all.
    pub(super) fn manifest(
        &self,
        written: &Written,
        (copied, digests): (&[FileRecord], &BTreeMap<String, Digest>),
        files: Vec<FileRecord>,
    ) -> Result<Manifest> {
        let totals = self.plan.totals();
        // A class or type that is no word is none that a program has.
        let word = |at: &str| self.subject.config().pointer(at).and_then(Value::as_str).and_then(Word::new);
        let digest_of = |target: &BundlePath| {
            copied.iter().find(|record| record.path == *target).map(|record| record.sha256)
        };
        let mut sources: Vec<SourceFileRecord> = Vec::new();
        for file in self.checkpoint.files() {
            sources.push(SourceFileRecord {
                path: checked(&file.path)?,
                size: file.len,
                sha256: digests.get(&file.path).copied(),
                fate: SourceFate::Converted,
                note: None,
            });
        }
        for file in &self.files {
            let prefix =
                file.tower.map_or(String::new(), |tower| format!("tower:{}/", self.towers[tower].facts.path));
            let path = format!("{prefix}{}", file.path);
            let hashed = digests.get(&path).copied();
            sources.push(SourceFileRecord {
                path: checked(path)?,
                size: file.len,
                sha256: file.fate.target().and_then(digest_of).or(hashed),
                fate: file.fate.record(),
                note: file.note.as_deref().map(Line::escaped),
            });
        }
        sources.sort_by(|a, b| a.path.cmp(&b.path));
        let facts = self.subject.family().map_or(Ok(Value::Null), serde_json::to_value);
        let json = |error: serde_json::Error| {
            io_error("writing the manifest", Path::new(MANIFEST_NAME), error.into())
        };
        Ok(Manifest {
            format_version: manifest::FORMAT_VERSION,
            producer: Producer { name: checked("mgpack")?, version: checked(env!("CARGO_PKG_VERSION"))? },
            model: manifest::Model {
                name: self.name.clone(),
                family: checked(self.family_name())?,
                variant: self.subject.mgm().map(|found| found.variant),
                architecture: word("/architectures/0"),
                model_type: word("/model_type"),
                facts: facts.map_err(json)?,
            },
            source: Source {
                // A folder of the cache may have any name: one that is no repository's says nothing.
                name: self.located.hub_id.as_deref().and_then(HubId::new),
                revision: self.located.revision.as_deref().and_then(Commit::new),
                files: sources,
            },
            scheme: SchemeRecord {
                name: self.plan.scheme,
                layout: self.plan.scheme.layout(),
                on_overflow: self.options.on_overflow,
                ignore: self.options.weights.ignore.iter().map(checked).collect::<Result<_>>()?,
            },
            requirements: self.requirements(),
            totals: manifest::Totals {
                file_bytes: files.iter().map(|file| file.size).sum(),
                tensor_bytes: totals.bytes,
                source_tensor_bytes: totals.source_bytes,
                tensors: totals.tensors,
                quantized: totals.quantized,
            },
            files,
            tensors: self.tensor_records(written)?,
            modules: Some(self.modules.records()),
            device_maps: self.profiles.clone(),
            seal: Digest::ZERO,
        })
    }

    fn tensor_records(&self, written: &Written) -> Result<Vec<TensorRecord>> {
        let json = |error: serde_json::Error| {
            io_error("writing the manifest", Path::new(MANIFEST_NAME), error.into())
        };
        let mut heads = Vec::with_capacity(self.plan.shards.len());
        for index in 0..self.plan.shards.len() {
            heads.push(pipeline::shard_header(&self.plan, index).map_err(json)?.len() as u64);
        }
        let mut records = Vec::new();
        for (tensor, figures) in self.plan.tensors.iter().zip(&written.figures) {
            let coded = self.checkpoint.tensors().get(tensor.source).and_then(SourceTensor::coded);
            let decoding = |coded: &Coded| -> Result<Decoding> {
                let arithmetic = checked(coded.weight.coding.arithmetic())?;
                Ok(Decoding { arithmetic, parts: coded.parts.iter().map(|part| part.name.clone()).collect() })
            };
            let decoding = coded.map(decoding).transpose()?;
            for output in &tensor.outputs {
                let start = heads[output.place.shard] + output.place.offset;
                let measured = self.options.stats
                    && !matches!(tensor.fate, Fate::Copy)
                    && matches!(output.kind, PartKind::Codes | PartKind::Values);
                records.push(TensorRecord {
                    name: output.name.clone(),
                    kind: output.kind,
                    dtype: output.dtype,
                    shape: output.shape.clone(),
                    shard: checked(&self.plan.shards[output.place.shard].name)?,
                    range: [start, start + output.byte_len],
                    source: tensor.name.clone(),
                    source_dtype: tensor.dtype,
                    decoding: decoding.clone(),
                    arithmetic: checked(tensor.fate.arithmetic())?,
                    error: measured.then(|| ErrorFigures {
                        sqnr_db: figures.moments.sqnr_db(),
                        max_abs_error: figures.moments.max_error,
                        cosine: figures.moments.cosine(),
                        clipped: figures.clipped,
                        overflowed: figures.overflowed,
                        flushed: figures.flushed,
                        non_finite: figures.non_finite,
                    }),
                });
            }
        }
        Ok(records)
    }
}
