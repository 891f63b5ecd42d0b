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

use super::contents::Folder;
use super::verify::examine;
use crate::digest::{self, Digest};
use crate::error::{BundleError, ConvertError, Result};
use crate::kernels::Isa;
use crate::manifest::{FileRecord, MANIFEST_NAME, Manifest, TensorRecord};
use crate::names::BundlePath;
use crate::progress::{Progress, Silent, Stage, Stop};
use crate::scheme::{GROUP_LEN, PartKind, Scheme};
use crate::tensor::{Dtype, TensorName, element_len};

/// Elements decoded at a time, where a row is longer or there are no rows.
const DECODE_LEN: usize = 1 << 16;

/// A bundle, open.
#[derive(Debug)]
pub struct Bundle {
    folder: Folder,
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
}

impl Bundle {
    /// Opens the bundle in the folder `dir`: its manifest, and a check of sizes and headers.
    ///
    /// # Errors
    /// [`BundleError::NotABundle`]; [`BundleError::Broken`] where a file is missing, has another size, or a
    /// shard's header is not what the manifest says.
    pub fn open(dir: &Path) -> Result<Self> {
        let folder = Folder::open(dir)?;
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
        self.manifest
            .tensors
            .chunk_by(|a, b| a.source == b.source)
            .filter_map(|parts| Some(Weight { name: &parts.first()?.source, parts }))
    }

    /// The bytes of one stored tensor.
    ///
    /// # Errors
    /// [`BundleError::Io`].
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
    /// [`BundleError::Digest`] names the file; [`BundleError::Io`]; [`ConvertError::Interrupted`].
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
        let found =
            digest::of_file(file, progress, stop).map_err(failed)?.ok_or(ConvertError::Interrupted)?;
        if found == record.sha256 {
            return Ok(());
        }
        Err(BundleError::Digest { path, expected: record.sha256, found }.into())
    }

    /// Decodes a weight to f32, row-major in its original shape.
    ///
    /// `sink` takes the values, at most 65,536 at a time, or a whole row where that is longer. Integers and other types that are no floats give NaN.
    ///
    /// # Errors
    /// [`BundleError::Io`], and what `sink` returns.
    pub fn decode(
        &self,
        weight: &Weight<'_>,
        isa: Isa,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        match (weight.part(PartKind::Values), weight.part(PartKind::Codes), weight.part(PartKind::Scales)) {
            (Some(values), ..) => self.decode_values(values, isa, sink),
            (None, Some(codes), Some(scales)) => self.decode_codes(codes, scales, isa, sink),
            _ => Ok(()),
        }
    }

    fn decode_values(
        &self,
        record: &TensorRecord,
        isa: Isa,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let width = element_len(record.dtype).unwrap_or(1);
        let [mut at, end] = record.range;
        let mut row = Vec::new();
        while at < end {
            let len = (end - at).min(DECODE_LEN as u64 * width);
            let bytes = self.read_at(record, at, len)?;
            row.resize((len / width) as usize, 0.0);
            isa.widen(record.dtype, &bytes, &mut row);
            sink(&row)?;
            at += len;
        }
        Ok(())
    }

    fn decode_codes(
        &self,
        codes: &TensorRecord,
        scales: &TensorRecord,
        isa: Isa,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let scheme = self.manifest.scheme.name;
        let steps = self.steps(scales, isa)?;
        let group = scheme.group_len(code_columns(codes));
        let together = (DECODE_LEN as u64 / group.max(1)).max(1) as usize;
        let mut values = Vec::new();
        let mut at = codes.range[0];
        for steps in steps.chunks(together) {
            let bytes = self.code_bytes(codes, at, group * steps.len() as u64, scheme)?;
            values.resize(bytes.len(), 0.0);
            let group = (group as usize).max(1);
            for ((codes, row), &step) in bytes.chunks(group).zip(values.chunks_mut(group)).zip(steps) {
                isa.decode(codes, step, row);
            }
            sink(&values)?;
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// What a code is multiplied by, one for each row, or each group of [`GROUP_LEN`] columns.
    pub(crate) fn steps(&self, scales: &TensorRecord, isa: Isa) -> Result<Vec<f32>> {
        let bytes = self.read(scales)?;
        let width = element_len(scales.dtype).unwrap_or(1) as usize;
        let mut steps = vec![0.0; bytes.len() / width];
        isa.widen(scales.dtype, &bytes, &mut steps);
        if self.manifest.scheme.name == Scheme::BnbInt8 {
            steps.iter_mut().for_each(|scale| *scale /= 127.0);
        }
        Ok(steps)
    }

    /// `len` codes from `offset` on, as signed bytes.
    pub(crate) fn code_bytes(
        &self,
        codes: &TensorRecord,
        offset: u64,
        len: u64,
        scheme: Scheme,
    ) -> Result<Vec<u8>> {
        let mut bytes = self.read_at(codes, offset, len)?;
        if scheme == Scheme::W8A16 {
            bytes.iter_mut().for_each(|code| *code ^= 0x80);
        }
        Ok(bytes)
    }
}

impl Weight<'_> {
    /// The part of that kind.
    pub fn part(&self, kind: PartKind) -> Option<&TensorRecord> {
        self.parts.iter().find(|part| part.kind == kind)
    }

    /// Its shape in the checkpoint.
    pub fn shape(&self) -> Vec<u64> {
        match (self.part(PartKind::Codes), self.parts.first()) {
            (Some(codes), _) => vec![codes.shape.first().copied().unwrap_or(0), code_columns(codes)],
            (None, Some(values)) => values.shape.clone(),
            (None, None) => Vec::new(),
        }
    }

    /// Bytes of all parts.
    pub fn byte_len(&self) -> u64 {
        self.parts.iter().map(|part| part.range[1].saturating_sub(part.range[0])).fold(0, u64::saturating_add)
    }
}

/// Columns of a quantized weight. Packed words hold four codes each: only whole groups are packed.
fn code_columns(codes: &TensorRecord) -> u64 {
    let columns = codes.shape.get(1).copied().unwrap_or(0);
    if codes.dtype == Dtype::I32 { columns.saturating_mul(4) } else { columns }
}

const _: () = assert!(GROUP_LEN.is_multiple_of(4));

fn io(doing: &'static str, path: &Path, cause: std::io::Error) -> BundleError {
    BundleError::Io { doing, path: path.to_owned(), cause }
}
