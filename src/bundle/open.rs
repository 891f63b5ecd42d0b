//! A bundle opened for reading: its tensors by name, and quantized weights decoded to values.
//!
//! Owns the files of the shards, held open, and positioned reads of one tensor at a time. Opening checks sizes
//! and headers; the bytes themselves are the caller's to check ([`super::verify`], or [`Bundle::check_file`]).
//! Carries out formats/schemes.md, "Error figures", for decoded values.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rayon::prelude::*;

use super::contents::BundleFolder;
use super::verify::examine;
use crate::digest::{self, Digest};
use crate::error::{BundleError, Error, IoError, Result};
use crate::kernels::Isa;
use crate::manifest::{FileRecord, MANIFEST_NAME, Manifest, TensorRecord};
use crate::names::BundlePath;
use crate::progress::{Progress, Silent, Stage, Stop};
use crate::scheme::{Codec, PartKind, Tile};
use crate::tensor::{Float, TensorName};

/// Elements decoded at a time, where a row is longer or there are no rows.
const DECODE_LEN: usize = 1 << 16;

/// A bundle, open.
#[derive(Debug)]
pub struct Bundle {
    folder: BundleFolder,
    id: Digest,
    manifest: Manifest,
    shards: HashMap<BundlePath, File>,
}

/// A tensor of the checkpoint as the bundle stores it: one record, or the parts of a quantized weight.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    /// Its name in the checkpoint.
    pub name: &'a TensorName,
    /// What is stored for it, in the order of schemes.md.
    pub parts: &'a [TensorRecord],
    /// How the bundle quantizes; `None` for casts.
    codec: Option<&'static dyn Codec>,
}

/// Every tensor of the checkpoint that a manifest describes, in layer order.
pub(crate) fn weights(manifest: &Manifest) -> impl Iterator<Item = Weight<'_>> + Clone {
    let codec = manifest.scheme.name.codec();
    let together = manifest.tensors.chunk_by(|a, b| a.source == b.source);
    together.filter_map(move |parts| Some(Weight { name: &parts.first()?.source, parts, codec }))
}

impl Bundle {
    /// Opens the bundle in the folder `dir`: its manifest, and a check of sizes and headers.
    ///
    /// # Errors
    /// [`BundleError::NotABundle`]; [`BundleError::Broken`] where a file is missing, has another size, or a
    /// shard's header is not what the manifest says.
    pub fn open(dir: &Path) -> Result<Self> {
        let folder = BundleFolder::open(dir)?;
        let (report, manifest) = examine(&folder, true, &Silent, &Stop::new())?;
        let (Some(manifest), Some(id)) = (manifest, report.id) else {
            let why = report.findings.into_iter().next().map(|finding| finding.found).unwrap_or_default();
            let why = format!("{MANIFEST_NAME}: {why}");
            return Err(BundleError::NotABundle { path: dir.to_owned(), why }.into());
        };
        if !report.findings.is_empty() {
            return Err(BundleError::Broken { path: dir.to_owned(), findings: report.findings.len() }.into());
        }
        let mut shards = HashMap::new();
        for tensor in &manifest.tensors {
            if !shards.contains_key(&tensor.shard) {
                let path = dir.join(&tensor.shard);
                let file = folder.file(&tensor.shard).map_err(|cause| io("opening a shard", &path, cause))?;
                shards.insert(tensor.shard.clone(), file);
            }
        }
        Ok(Self { folder, id, manifest, shards })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// Its id: the digest of the manifest.
    pub fn id(&self) -> Digest {
        self.id
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Every tensor of the checkpoint, in layer order.
    pub fn weights(&self) -> impl Iterator<Item = Weight<'_>> {
        weights(&self.manifest)
    }

    /// The bytes of one stored tensor.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(&self, record: &TensorRecord) -> Result<Vec<u8>> {
        let [start, end] = record.range;
        self.read_at(record, start, end.saturating_sub(start))
    }

    /// `len` bytes of a stored tensor from `offset` of its shard on.
    pub(crate) fn read_at(&self, record: &TensorRecord, offset: u64, len: u64) -> Result<Vec<u8>> {
        let path = self.dir().join(&record.shard);
        let failed = |cause| io("reading a tensor", &path, cause);
        let file =
            self.shards.get(&record.shard).ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        // The range lies in the file: opening compared both.
        let len = usize::try_from(len).map_err(|_| failed(std::io::ErrorKind::OutOfMemory.into()))?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset).map_err(failed)?;
        Ok(bytes)
    }

    /// Hashes every shard that is read, and compares it with the seal; in parallel on the current rayon pool.
    ///
    /// # Errors
    /// As [`Bundle::check_file`].
    pub fn check_shards(&self, progress: &dyn Progress, stop: &Stop) -> Result<()> {
        let shards: Vec<&FileRecord> =
            self.manifest.files.iter().filter(|file| self.shards.contains_key(&file.path)).collect();
        progress.begin(Stage::Verify, shards.iter().map(|file| file.size).fold(0, u64::saturating_add));
        shards.par_iter().try_for_each(|file| self.check_file(file, progress, stop))
    }

    /// Hashes one file and compares it with the seal. Of a shard it is the open file, which all reads go to.
    ///
    /// # Errors
    /// [`BundleError::Digest`] names the file; [`Error::Io`]; [`Error::Interrupted`].
    pub fn check_file(&self, record: &FileRecord, progress: &dyn Progress, stop: &Stop) -> Result<()> {
        match self.shards.get(&record.path) {
            Some(shard) => self.check_opened(record, shard, progress, stop),
            None => self.check_opened(record, &self.open_file(record)?, progress, stop),
        }
    }

    /// Opens one file of the bundle, to be checked and then read.
    pub(crate) fn open_file(&self, record: &FileRecord) -> Result<File> {
        let failed = |cause| io("opening a file", &self.dir().join(&record.path), cause);
        Ok(self.folder.file(&record.path).map_err(failed)?)
    }

    /// The same check of a file that is open.
    pub(crate) fn check_opened(
        &self,
        record: &FileRecord,
        file: &File,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<()> {
        let path = self.dir().join(&record.path);
        let failed = |cause| io("reading a file", &path, cause);
        let found = digest::of_file(file, progress, stop)
            .map_err(failed)?
            .ok_or(Error::Interrupted { kept: false })?;
        if found == record.sha256 {
            return Ok(());
        }
        Err(BundleError::Digest { path, expected: record.sha256, found }.into())
    }

    /// Decodes a weight to f32, row-major in its original shape.
    ///
    /// `sink` takes the values, at most 65,536 at a time, or the part of a row that shares a scale where that is longer.
    ///
    /// # Errors
    /// [`BundleError::NoValues`] for integers and other types that are no floats; [`Error::Io`]; what `sink` returns.
    pub fn decode(
        &self,
        weight: &Weight<'_>,
        isa: Isa,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        if let Some(coded) = weight.coded() {
            return self.decode_codes(&coded, isa, sink);
        }
        match weight.part(PartKind::Values) {
            Some(values) => self.decode_values(values, isa, sink),
            None => Ok(()),
        }
    }

    fn decode_values(
        &self,
        record: &TensorRecord,
        isa: Isa,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let float = self.float_of(record)?;
        let width = float.byte_len() as u64;
        let [mut at, end] = record.range;
        let mut row = Vec::new();
        while at < end {
            let len = (end - at).min(DECODE_LEN as u64 * width);
            let bytes = self.read_at(record, at, len)?;
            row.resize((len / width) as usize, 0.0);
            isa.widen(float, &bytes, &mut row);
            sink(&row)?;
            at += len;
        }
        Ok(())
    }

    fn decode_codes(
        &self,
        coded: &Coded<'_>,
        isa: Isa,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let Coded { codec, rows, columns, tile, .. } = *coded;
        let steps = self.steps(coded, isa)?;
        let across = columns.div_ceil(tile.columns);
        let runs = (0..rows).flat_map(|row| (0..across).map(move |tile| (row, tile)));
        let mut runs = runs.map(|(row, at)| {
            let len = tile.columns.min(columns - at * tile.columns);
            (len, (row / tile.rows * across + at) as usize)
        });
        let mut at = coded.codes.range[0];
        let mut values = Vec::new();
        let mut together: Vec<(usize, f32)> = Vec::new();
        loop {
            let next = runs.next();
            let len: u64 = together.iter().map(|(len, _)| *len as u64).sum();
            if !together.is_empty() && next.is_none_or(|(more, _)| len + more > DECODE_LEN as u64) {
                let bytes = self.read_at(coded.codes, at, len * codec.code_bits() / 8)?;
                at += bytes.len() as u64;
                values.resize(len as usize, 0.0);
                let (mut bytes, mut rest) = (bytes.as_slice(), values.as_mut_slice());
                for (len, step) in together.drain(..) {
                    let (codes, after) = bytes.split_at(len * codec.code_bits() as usize / 8);
                    let (row, left) = rest.split_at_mut(len);
                    codec.decode(isa, codes, step, row);
                    (bytes, rest) = (after, left);
                }
                sink(&values)?;
            }
            let Some((len, tile)) = next else { return Ok(()) };
            together.push((len as usize, steps.get(tile).copied().unwrap_or(f32::NAN)));
        }
    }

    /// What a code of each tile is multiplied by, in the order of the stored scales.
    pub(crate) fn steps(&self, coded: &Coded<'_>, isa: Isa) -> Result<Vec<f32>> {
        let float = self.float_of(coded.scales)?;
        let bytes = self.read(coded.scales)?;
        let mut steps = vec![0.0; bytes.len() / float.byte_len()];
        isa.widen(float, &bytes, &mut steps);
        steps.iter_mut().for_each(|scale| *scale = coded.codec.step(*scale));
        Ok(steps)
    }

    fn float_of(&self, record: &TensorRecord) -> Result<Float> {
        let no_values = || BundleError::NoValues {
            path: self.dir().join(&record.shard),
            tensor: record.name.to_string(),
            dtype: record.dtype,
        };
        Ok(Float::of(record.dtype).ok_or_else(no_values)?)
    }
}

/// A quantized weight: its codes and scales, and what they mean.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coded<'a> {
    pub(crate) codec: &'static dyn Codec,
    pub(crate) codes: &'a TensorRecord,
    pub(crate) scales: &'a TensorRecord,
    pub(crate) rows: u64,
    pub(crate) columns: u64,
    pub(crate) tile: Tile,
}

impl Weight<'_> {
    /// The part of that kind.
    pub fn part(&self, kind: PartKind) -> Option<&TensorRecord> {
        self.parts.iter().find(|part| part.kind == kind)
    }

    /// Its codes and scales, where it is quantized.
    pub(crate) fn coded(&self) -> Option<Coded<'_>> {
        let (codec, codes, scales) = (self.codec?, self.part(PartKind::Codes)?, self.part(PartKind::Scales)?);
        let stored = codes.shape.get(1).copied().unwrap_or(0);
        // Packed words hold several codes each: only whole words are packed.
        let columns = stored.saturating_mul(codes.dtype.bitsize() as u64) / codec.code_bits();
        let rows = codes.shape.first().copied().unwrap_or(0);
        Some(Coded { codec, codes, scales, rows, columns, tile: codec.tile(columns) })
    }

    /// Its shape in the checkpoint.
    pub fn shape(&self) -> Vec<u64> {
        match (self.coded(), self.parts.first()) {
            (Some(coded), _) => vec![coded.rows, coded.columns],
            (None, Some(values)) => values.shape.clone(),
            (None, None) => Vec::new(),
        }
    }

    /// Bytes of all parts.
    pub fn byte_len(&self) -> u64 {
        self.parts.iter().map(|part| part.range[1].saturating_sub(part.range[0])).fold(0, u64::saturating_add)
    }
}

fn io(doing: &'static str, path: &Path, cause: std::io::Error) -> IoError {
    IoError::new(doing, path, cause)
}
