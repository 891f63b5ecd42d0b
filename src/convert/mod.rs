//! Carries out a conversion: prepare everything that can be known, then read, transform, hash and write.
//!
//! [`Conversion::prepare`] reads headers and small files only and decides all; what it returns is what
//! `--dry-run` prints. [`Conversion::run`] does it, in a staging folder that becomes the bundle in one
//! rename. Owns threads and the order of writing. Carries out formats/bundle.md.

mod block;
mod card;
mod contents;
mod pipeline;
mod staging;

use std::io::{Read as _, Write as _};
use std::path::{Component, Path, PathBuf};

use indexmap::IndexMap;
use rayon::prelude::*;
use serde_json::Value;

pub use pipeline::Resources;

use crate::checkpoint::{Checkpoint, Folder};
use crate::device_map::DeviceMap;
use crate::digest::Digest;
use crate::error::{ConvertError, PlanError, Result};
use crate::family::{self, Detected, Family, Match, TowerRole, Variant};
use crate::kernels::Isa;
use crate::locate::{self, Located, Places};
use crate::manifest::{
    self, ErrorFigures, FileFate, FileRecord, MANIFEST_NAME, Manifest, Producer, SUMS_NAME, SchemeRecord,
    Source, SourceFileRecord, TensorRecord,
};
use crate::modules::{self, MapRequest};
use crate::plan::{Fate, Pattern, Plan, Recipe, Skip, TensorPlan};
use crate::progress::{Progress, Stage, Stop};
use crate::scheme::{Layout, OnOverflow, PartKind, Scheme};
use crate::shard::{Seal, SealedFile};
use crate::tensor::{Dtype, TensorName};

/// Bytes copied at a time.
const COPY_LEN: usize = 1 << 20;

/// What the user wants, as given on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to store the weights.
    pub precision: Precision,
    /// `--format`; `None` takes the family's.
    pub layout: Option<Layout>,
    /// `--ignore`.
    pub ignore: Vec<String>,
    /// `--max-shard-size` in bytes.
    pub max_shard_len: u64,
    /// `--on-overflow`.
    pub on_overflow: OnOverflow,
    /// False with `--no-stats`.
    pub stats: bool,
    /// Name of the bundle before the scheme's suffix; `None` takes the family's or the checkpoint's.
    pub name: Option<String>,
    /// `--max-memory` in bytes.
    pub max_memory: u64,
    /// `-j`.
    pub threads: usize,
    /// The instruction set to compute with.
    pub isa: Isa,
    /// Devices and what to keep free on them.
    pub map: MapRequest,
}

/// Default of `--max-memory`: 512 MiB.
pub const DEFAULT_MAX_MEMORY: u64 = 512 << 20;

/// How the user wants the weights stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// `--bf16`.
    Bf16,
    /// `--fp16`.
    Fp16,
    /// `--int8`: the layout decides the scheme.
    Int8,
    /// `--scheme`.
    Scheme(Scheme),
}

/// A conversion with everything decided.
pub struct Conversion {
    /// The checkpoint, open.
    pub checkpoint: Checkpoint,
    /// Where it was found.
    pub located: Located,
    /// The family, for MGM checkpoints.
    pub family: Option<Match>,
    /// The towers, for MGM checkpoints.
    pub towers: Vec<TowerFolder>,
    /// What becomes of every tensor.
    pub plan: Plan,
    /// Name of the bundle.
    pub name: String,
    /// Threads, lanes and memory.
    pub resources: Resources,
    /// The device map.
    pub device_map: DeviceMap,
    /// What becomes of every file of the checkpoint and the towers.
    pub files: Vec<FilePlan>,
    /// Bytes that the bundle will take, within a few kilobytes.
    pub bundle_len: u64,
    /// Things the user should know.
    pub notices: Vec<String>,
    options: Options,
    texts: Vec<(String, Vec<u8>)>,
    memory: Value,
    config: Value,
}

/// A tower's folder, open.
pub struct TowerFolder {
    /// Which of the two.
    pub role: TowerRole,
    /// Its path in the bundle.
    pub path: String,
    /// Where it was found.
    pub located: Located,
    /// Bytes of what a loader keeps of it, in 16 bits.
    pub loaded_len: u64,
    folder: Folder,
}

/// What becomes of one file of the checkpoint or of a tower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePlan {
    /// Its path, in the checkpoint or the tower.
    pub path: String,
    /// Index of the tower; `None` for the checkpoint.
    pub tower: Option<usize>,
    /// Length in bytes.
    pub len: u64,
    /// Digest, if it is known already.
    pub sha256: Option<Digest>,
    /// What becomes of it.
    pub fate: FileFate,
    /// Path in the bundle, where it is copied.
    pub target: String,
    /// Why.
    pub note: Option<String>,
}

/// A finished bundle.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The bundle.
    pub path: PathBuf,
    /// Its id: the digest of its manifest.
    pub id: Digest,
    /// Its manifest.
    pub manifest: Manifest,
}

impl Conversion {
    /// Opens the checkpoint at `located` and decides everything. Reads headers and small texts only.
    ///
    /// # Errors
    /// Whatever makes the conversion impossible and can be known now.
    pub fn prepare(located: Located, places: &Places, options: Options) -> Result<Self> {
        let checkpoint = Checkpoint::open(&located.dir)?;
        if checkpoint.root().join(MANIFEST_NAME).exists() {
            return Err(PlanError::AlreadyQuantized { method: "mgpack bundle".into() }.into());
        }
        let config = read_config(&checkpoint)?;
        let family = match family::Family::detect(&config) {
            Detected::Mgm(found) => Some(found),
            Detected::Generic => None,
        };
        let mut notices: Vec<String> = checkpoint.notices().iter().map(ToString::to_string).collect();
        notices.extend(family.as_ref().and_then(Match::notice));
        let scheme = choose_scheme(&options, family.as_ref())?;
        if let Some(method) = config.pointer("/quantization_config/quant_method").and_then(Value::as_str) {
            return Err(PlanError::AlreadyQuantized { method: method.to_owned() }.into());
        }
        let recipe = recipe(&options, scheme, family.as_ref())?;
        let plan = Plan::new(checkpoint.tensors(), &recipe)?;
        let has_experts =
            |tensor: &TensorPlan| tensor.fate == Fate::Quantize && tensor.name.as_str().contains(".experts.");
        if family.is_none() && plan.tensors.iter().any(has_experts) {
            notices.push(
                "transformers 5 fuses experts when it loads a model and cannot fuse quantized ones; vLLM reads them".to_owned(),
            );
        }
        let resources = Resources::choose(&plan, options.threads, options.max_memory)?;
        let name = bundle_name(&options, &located, scheme, family.as_ref());
        let towers = open_towers(family.as_ref(), &config, &checkpoint, places)?;
        let files = plan_files(&checkpoint, &towers, &config)?;
        let (device_map, memory) = modules::device_map(
            &plan,
            family.as_ref(),
            &tower_sizes(&towers, family.as_ref()),
            &config,
            &options.map,
        )?;

        let mut conversion = Self {
            checkpoint,
            located,
            family,
            towers,
            plan,
            name,
            resources,
            device_map,
            files,
            bundle_len: 0,
            notices,
            options,
            texts: Vec::new(),
            memory,
            config,
        };
        conversion.texts = conversion.make_texts()?;
        conversion.bundle_len = conversion.count_bytes();
        conversion.check_paths()?;
        Ok(conversion)
    }

    /// Patterns of modules that stay float, as the bundle's quantization_config lists them.
    pub fn skip_modules(&self) -> Vec<String> {
        let mut skip: Vec<String> = match &self.family {
            Some(found) => found.family.quantization.skip_modules.clone(),
            None => self.plan.float_modules().into_iter().map(str::to_owned).collect(),
        };
        if self.family.is_some() {
            let ignored = |tensor: &&TensorPlan| matches!(tensor.skip, Some(Skip::Ignored(_)));
            let modules = self.plan.tensors.iter().filter(ignored).map(|tensor| tensor.name.module());
            for module in modules {
                if !skip.iter().any(|pattern| module.contains(pattern.as_str())) {
                    skip.push(module.to_owned());
                }
            }
        }
        skip
    }

    /// What MGM's loader would make of a folder of this name, where that is not the bundle's own class.
    pub fn folder_notice(&self, target: &Path) -> Option<String> {
        let found = self.family.as_ref()?;
        let folder = target.file_name()?.to_string_lossy();
        let own = found.family.model.model_type;
        let taken = match family::class_by_folder_name(&folder) {
            Some(class) if class == own => return None,
            Some(class) => format!("takes it for `{}`", class.as_str()),
            None => "does not take it for an MGM model".to_owned(),
        };
        Some(format!(
            "MGM's loader chooses the class by name and, from a folder named `{folder}`, {taken}: give it the name `{}`",
            self.name
        ))
    }

    /// The instruction set, for reports.
    pub fn isa(&self) -> Isa {
        self.options.isa
    }

    /// The family's requirements, with their reasons; empty for generic checkpoints.
    pub fn requirements(&self) -> Vec<manifest::Requirement> {
        let of = |requirement: &family::Requirement| manifest::Requirement {
            package: requirement.package.clone(),
            pin: requirement.pin.clone(),
            range: requirement.range.clone(),
            reason: requirement.reason.clone(),
            source: requirement.source.to_string(),
        };
        match &self.family {
            Some(found) => found.family.requirements.iter().map(of).collect(),
            None => card::generic_requirements(self.plan.scheme),
        }
    }

    /// Writes the bundle to `target`. With `force` an older bundle there is replaced in the last step.
    ///
    /// # Errors
    /// [`ConvertError`] and reading errors. Whatever happens, nothing half-made is left at `target`.
    pub fn run(&self, target: &Path, force: bool, progress: &dyn Progress, stop: &Stop) -> Result<Outcome> {
        self.check_target(target)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.options.threads)
            .build()
            .map_err(|cause| io_error("starting threads", target, std::io::Error::other(cause)))?;
        let staging = staging::Staging::create(target, self.bundle_len + (self.bundle_len / 100), force)?;
        let dir = staging.dir();

        progress.begin(Stage::Tensors, self.plan.totals().bytes);
        let rules = block::Rules {
            isa: self.options.isa,
            scheme: self.plan.scheme,
            on_overflow: self.options.on_overflow,
            stats: self.options.stats,
        };
        let pipeline = pipeline::Pipeline {
            checkpoint: &self.checkpoint,
            plan: &self.plan,
            rules,
            resources: self.resources,
            progress,
            stop,
        };
        let written = pipeline.run(&pool, dir)?;

        let copies: Vec<&FilePlan> = self.files.iter().filter(|file| !file.target.is_empty()).collect();
        progress.begin(Stage::Files, copies.iter().map(|file| file.len).sum());
        let copied: Vec<FileRecord> = pool.install(|| {
            copies.par_iter().map(|file| self.copy(file, dir, progress, stop)).collect::<Result<_>>()
        })?;
        let mut files: Vec<FileRecord> = copied.clone();
        for (shard, seal) in self.plan.shards.iter().zip(&written.seals) {
            files.push(FileRecord { path: shard.name.clone(), size: seal.len, sha256: seal.sha256 });
        }
        for (path, text) in &self.texts {
            files.push(write_text(dir, path, text)?);
        }
        self.recheck()?;

        files.sort_by(|a, b| a.path.cmp(&b.path));
        let sums = write_text(dir, SUMS_NAME, manifest::sums(&files).as_bytes())?;
        files.push(sums);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let json = |error: serde_json::Error| io_error("writing the manifest", target, error.into());
        let manifest = self.manifest(&written, &copied, files)?.sealed().map_err(json)?;
        let bytes = manifest.to_bytes().map_err(json)?;
        write_text(dir, MANIFEST_NAME, &bytes)?;
        if stop.requested() {
            return Err(ConvertError::Interrupted.into());
        }
        staging.commit()?;
        progress.finish();
        Ok(Outcome { path: target.to_owned(), id: Digest::of(&bytes), manifest })
    }

    /// Neither the target nor what `--force` would remove may be something that is read.
    fn check_target(&self, target: &Path) -> Result<()> {
        let failed = |cause| io_error("looking at the target", target, cause);
        let full = resolve(target).map_err(failed)?;
        let sources = std::iter::once(self.checkpoint.root())
            .chain(self.towers.iter().map(|tower| tower.located.dir.as_path()));
        for source in sources {
            let source = resolve(source).map_err(failed)?;
            if full.starts_with(&source) {
                return Err(ConvertError::TargetInsideSource { path: target.to_owned() }.into());
            }
            if source.starts_with(&full) {
                return Err(
                    ConvertError::TargetHoldsSource { path: target.to_owned(), source_dir: source }.into()
                );
            }
        }
        Ok(())
    }

    fn copy(&self, file: &FilePlan, dir: &Path, progress: &dyn Progress, stop: &Stop) -> Result<FileRecord> {
        let mut source = match file.tower {
            Some(tower) => self.towers[tower].folder.open_file(&file.path)?,
            None => self.checkpoint.open_side_file(&file.path)?,
        };
        let path = dir.join(&file.target);
        let failed = |cause| io_error("copying a file", &path, cause);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut out = SealedFile::create(&path, file.len).map_err(failed)?;
        let mut buffer = vec![0; COPY_LEN.min(file.len as usize + 1)];
        loop {
            if stop.requested() {
                return Err(ConvertError::Interrupted.into());
            }
            let read = source.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                break;
            }
            out.write_all(&buffer[..read]).map_err(failed)?;
            progress.advance(read as u64);
        }
        let Seal { len, sha256 } = out.finish().map_err(failed)?;
        Ok(FileRecord { path: file.target.clone(), size: len, sha256 })
    }

    /// The source must be what it was: a file that changed while it was read gives a bundle of no checkpoint.
    fn recheck(&self) -> Result<()> {
        self.checkpoint.recheck()?;
        self.towers.iter().try_for_each(|tower| tower.folder.recheck())
    }

    fn make_texts(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let json = |error: serde_json::Error| ConvertError::BadJson {
            file: "device_map.json".into(),
            why: error.to_string(),
        };
        let mut texts = Vec::new();
        if let Some(config) = self.checkpoint.config() {
            let towers: Vec<(String, String)> = match &self.family {
                Some(found) => found
                    .family
                    .towers
                    .iter()
                    .map(|tower| (tower.config_key.clone(), tower.path.clone()))
                    .collect(),
                None => Vec::new(),
            };
            let dtype = match (self.plan.scheme, &self.family) {
                (Scheme::Bf16, _) => Some("bfloat16"),
                (Scheme::Fp16, _) | (Scheme::BnbInt8, Some(_)) => Some("float16"),
                _ => None,
            };
            let text = contents::config(config, &self.plan, &self.skip_modules(), &towers, dtype)?;
            texts.push(("config.json".to_owned(), text.into_bytes()));
        }
        let outputs = self.plan.tensors.iter().flat_map(|tensor| &tensor.outputs);
        let weight_map: IndexMap<&str, &str> = outputs
            .map(|output| (output.name.as_str(), self.plan.shards[output.shard].name.as_str()))
            .collect();
        let index = manifest::index_json(self.plan.totals().bytes, &weight_map).map_err(json)?;
        texts.push(("model.safetensors.index.json".to_owned(), index));
        let mut map = serde_json::to_vec_pretty(&self.device_map.map).map_err(json)?;
        map.push(b'\n');
        texts.push(("device_map.json".to_owned(), map));
        texts.push((
            "requirements.txt".to_owned(),
            card::requirements_txt(&self.requirements(), self.family.as_ref()).into_bytes(),
        ));
        texts.push(("README.md".to_owned(), card::model_card(self).into_bytes()));
        Ok(texts)
    }

    fn count_bytes(&self) -> u64 {
        let shards: u64 = (0..self.plan.shards.len())
            .map(|index| {
                let head = pipeline::shard_header(&self.plan, index).map_or(0, |head| head.len() as u64);
                head + self.plan.shards[index].data_len
            })
            .sum();
        let copies: u64 = self.files.iter().filter(|file| !file.target.is_empty()).map(|file| file.len).sum();
        let texts: u64 = self.texts.iter().map(|(_, text)| text.len() as u64).sum();
        // A tensor's record in the manifest takes about 600 bytes.
        shards + copies + texts + self.plan.totals().tensors * 600
    }

    fn check_paths(&self) -> Result<()> {
        let mut paths: Vec<String> = self.files.iter().map(|file| file.target.clone()).collect();
        paths.retain(|path| !path.is_empty());
        paths.extend(self.texts.iter().map(|(path, _)| path.clone()));
        paths.extend(self.plan.shards.iter().map(|shard| shard.name.clone()));
        paths.extend([MANIFEST_NAME.to_owned(), SUMS_NAME.to_owned()]);
        contents::check_case(&paths)
    }

    fn manifest(
        &self,
        written: &pipeline::Written,
        copied: &[FileRecord],
        files: Vec<FileRecord>,
    ) -> Result<Manifest> {
        let totals = self.plan.totals();
        let text = |key: &str| self.config.get(key).and_then(Value::as_str).map(str::to_owned);
        let architecture = self.config.pointer("/architectures/0").and_then(Value::as_str).map(str::to_owned);
        let digest_of =
            |target: &str| copied.iter().find(|record| record.path == target).map(|record| record.sha256);
        let mut sources: Vec<SourceFileRecord> = Vec::new();
        for file in self.checkpoint.files() {
            sources.push(SourceFileRecord {
                path: file.path.clone(),
                size: file.len,
                sha256: file.sha256.as_deref().and_then(Digest::from_hex),
                fate: FileFate::Converted,
                note: None,
            });
        }
        for file in &self.files {
            let prefix =
                file.tower.map_or(String::new(), |tower| format!("tower:{}/", self.towers[tower].path));
            sources.push(SourceFileRecord {
                path: format!("{prefix}{}", file.path),
                size: file.len,
                sha256: file.sha256.or_else(|| digest_of(&file.target)),
                fate: file.fate,
                note: file.note.clone(),
            });
        }
        sources.sort_by(|a, b| a.path.cmp(&b.path));
        let facts = match &self.family {
            Some(found) => serde_json::to_value(found.family),
            None => Ok(Value::Null),
        };
        let json = |error: serde_json::Error| {
            io_error("writing the manifest", Path::new(MANIFEST_NAME), error.into())
        };
        let mut map = serde_json::to_value(&self.device_map).map_err(json)?;
        if let Some(map) = map.as_object_mut() {
            map.insert("memory".into(), self.memory.clone());
        }
        Ok(Manifest {
            format_version: manifest::FORMAT_VERSION,
            producer: Producer { name: "mgpack".into(), version: env!("CARGO_PKG_VERSION").into() },
            model: manifest::Model {
                name: self.name.clone(),
                family: self
                    .family
                    .as_ref()
                    .map_or("generic".to_owned(), |found| found.family.name.to_string()),
                variant: self.family.as_ref().map(|found| variant_word(found.variant).to_owned()),
                architecture,
                model_type: text("model_type"),
                facts: facts.map_err(json)?,
            },
            source: Source {
                name: self.located.hub_id.clone(),
                revision: self.located.revision.clone(),
                files: sources,
            },
            scheme: SchemeRecord {
                name: self.plan.scheme,
                layout: self.plan.scheme.layout(),
                on_overflow: self.options.on_overflow,
                ignore: self.options.ignore.clone(),
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
            tensors: self.tensor_records(written).map_err(json)?,
            device_maps: vec![map],
            seal: Digest::ZERO,
        })
    }

    fn tensor_records(&self, written: &pipeline::Written) -> serde_json::Result<Vec<TensorRecord>> {
        let mut heads = Vec::with_capacity(self.plan.shards.len());
        for index in 0..self.plan.shards.len() {
            heads.push(pipeline::shard_header(&self.plan, index)?.len() as u64);
        }
        let mut records = Vec::new();
        for (tensor, figures) in self.plan.tensors.iter().zip(&written.figures) {
            for output in &tensor.outputs {
                let start = heads[output.shard] + output.offset;
                let measured = self.options.stats
                    && tensor.fate != Fate::Copy
                    && matches!(output.kind, PartKind::Codes | PartKind::Values);
                records.push(TensorRecord {
                    name: output.name.clone(),
                    kind: output.kind,
                    dtype: output.dtype,
                    shape: output.shape.clone(),
                    shard: self.plan.shards[output.shard].name.clone(),
                    range: [start, start + output.byte_len],
                    source: tensor.name.clone(),
                    source_dtype: tensor.dtype,
                    arithmetic: arithmetic(tensor.fate, self.plan.scheme, output.dtype).to_owned(),
                    error: measured.then(|| ErrorFigures {
                        sqnr_db: figures.moments.sqnr_db(),
                        max_abs_error: figures.moments.max_error,
                        cosine: figures.moments.cosine(),
                        clipped: figures.clipped,
                        overflowed: figures.overflowed,
                        non_finite: figures.non_finite,
                    }),
                });
            }
        }
        Ok(records)
    }
}

/// The arithmetic of a stored tensor by its name in schemes.md.
fn arithmetic(fate: Fate, scheme: Scheme, dtype: Dtype) -> &'static str {
    match (fate, scheme, dtype) {
        (Fate::Copy, _, _) => "copy",
        (Fate::Cast, _, Dtype::F16) => "round-f16",
        (Fate::Cast, _, _) => "round-bf16",
        (Fate::Quantize, Scheme::BnbInt8, _) => "int8-row-absmax",
        (Fate::Quantize, Scheme::W8A16, _) => "int8-group128-absmax",
        (Fate::Quantize, _, _) => "int8-channel-absmax",
    }
}

fn variant_word(variant: Variant) -> &'static str {
    match variant {
        Variant::Plain => "plain",
        Variant::Hd => "hd",
    }
}

fn read_config(checkpoint: &Checkpoint) -> Result<Value> {
    let Some(text) = checkpoint.config() else { return Ok(Value::Null) };
    serde_json::from_str(text)
        .map_err(|error| ConvertError::BadJson { file: "config.json".into(), why: error.to_string() }.into())
}

fn choose_scheme(options: &Options, family: Option<&Match>) -> Result<Scheme> {
    let default_layout = if family.is_some() { Layout::Bnb } else { Layout::CompressedTensors };
    let scheme = match (options.precision, options.layout.unwrap_or(default_layout)) {
        (Precision::Bf16, _) => Scheme::Bf16,
        (Precision::Fp16, _) => Scheme::Fp16,
        (Precision::Scheme(scheme), _) => scheme,
        (Precision::Int8, Layout::Bnb) => Scheme::BnbInt8,
        (Precision::Int8, Layout::CompressedTensors) => Scheme::W8A8,
    };
    if options.layout.is_some_and(|layout| scheme.layout().is_some_and(|of_scheme| of_scheme != layout)) {
        return Err(PlanError::SchemeInLayout { scheme: scheme.name() }.into());
    }
    match family {
        Some(found) if scheme.layout() == Some(Layout::CompressedTensors) => {
            Err(PlanError::LayoutForFamily { family: found.family.name.to_string() }.into())
        }
        _ => Ok(scheme),
    }
}

fn recipe(options: &Options, scheme: Scheme, family: Option<&Match>) -> Result<Recipe> {
    let ignore = options.ignore.iter().map(|text| Pattern::new(text)).collect::<Result<_>>()?;
    let rest = match (scheme, family) {
        (Scheme::Bf16, _) => Some(Dtype::BF16),
        (Scheme::Fp16, _) | (Scheme::BnbInt8, Some(_)) => Some(Dtype::F16),
        _ => None,
    };
    let family: Option<&'static Family> = family.map(|found| found.family);
    Ok(Recipe {
        scheme,
        ignore,
        family,
        rest,
        max_shard_len: options.max_shard_len,
        together: family.is_some(),
    })
}

/// The bundle's name: what the caller gave, or the family's stem, or the checkpoint's, and the scheme.
fn bundle_name(options: &Options, located: &Located, scheme: Scheme, family: Option<&Match>) -> String {
    if let Some(name) = &options.name {
        return format!("{name}-{}", scheme.suffix());
    }
    let of_family = family.and_then(|found| found.family.checkpoint(found.variant));
    let of_hub = || located.hub_id.as_deref().and_then(|id| id.rsplit('/').next()).map(str::to_owned);
    let of_folder = || Some(located.dir.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned());
    let stem =
        of_family.map(|published| published.bundle_stem.to_string()).or_else(of_hub).or_else(of_folder);
    let stem = stem.as_deref().unwrap_or("model");
    let plain = |letter: char| {
        let fits = letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
        if fits { letter } else { '-' }
    };
    let stem: String = stem.chars().map(plain).skip_while(|letter| *letter == '.').take(180).collect();
    format!("{stem}-{}", scheme.suffix())
}

fn open_towers(
    family: Option<&Match>,
    config: &Value,
    checkpoint: &Checkpoint,
    places: &Places,
) -> Result<Vec<TowerFolder>> {
    let Some(found) = family else { return Ok(Vec::new()) };
    let open = |tower: &family::Tower| {
        let configured = config.get(&tower.config_key).and_then(Value::as_str);
        let located = locate::tower(tower, configured, checkpoint.root(), places)?;
        let folder = Folder::open(&located.dir)?;
        let loaded_len = loaded_len(tower, &located.dir)?;
        Ok(TowerFolder { role: tower.role, path: tower.path.clone(), located, loaded_len, folder })
    };
    found.family.towers.iter().map(open).collect()
}

/// Module and bytes of every tower, for the device map.
fn tower_sizes(towers: &[TowerFolder], family: Option<&Match>) -> Vec<(String, u64)> {
    let Some(found) = family else { return Vec::new() };
    let module =
        |tower: &TowerFolder| Some((found.family.tower(tower.role)?.module.clone(), tower.loaded_len));
    towers.iter().filter_map(module).collect()
}

/// Bytes that the used part of a tower takes in 16 bits: counted where its weights are safetensors, otherwise
/// as the family tells (MGM fixes the auxiliary tower's size by its name).
fn loaded_len(tower: &family::Tower, dir: &Path) -> Result<u64> {
    let counted =
        tower.weights_one_of.iter().find(|name| name.ends_with(".safetensors") && dir.join(name).is_file());
    let Some(name) = counted else { return Ok(tower.parameters.get().saturating_mul(2)) };
    let file = Checkpoint::open_file(&dir.join(name))?;
    let is_used = |name: &str| tower.state_prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
    let used = file.tensors().iter().filter(|tensor| is_used(tensor.name.as_str()));
    Ok(used
        .filter_map(|tensor| crate::tensor::element_count(&tensor.shape))
        .fold(0, u64::saturating_add)
        .saturating_mul(2))
}

fn plan_files(checkpoint: &Checkpoint, towers: &[TowerFolder], config: &Value) -> Result<Vec<FilePlan>> {
    // Towers that lie inside the checkpoint's folder are listed as towers, not twice.
    let root = checkpoint.root().canonicalize().ok();
    let within: Vec<String> = towers
        .iter()
        .filter_map(|tower| {
            let dir = tower.located.dir.canonicalize().ok()?;
            let inner = dir.strip_prefix(root.as_ref()?).ok()?.to_str()?;
            Some(format!("{inner}/"))
        })
        .collect();
    let mut files = Vec::new();
    for file in checkpoint.side_files() {
        let (mut fate, mut target, mut note) = contents::side_file(&file.path, &within)?;
        if file.path == "config.json" && config.is_null() {
            (fate, target, note) = (FileFate::Copied, file.path.clone(), None);
        }
        let sha256 = file.sha256.as_deref().and_then(Digest::from_hex);
        let note = note.map(str::to_owned);
        files.push(FilePlan {
            path: file.path.clone(),
            tower: None,
            len: file.len,
            sha256,
            fate,
            target,
            note,
        });
    }
    for skipped in checkpoint.skipped() {
        // A folder's own length depends on the file system; it has none here.
        let path = checkpoint.root().join(&skipped.path);
        let len = std::fs::metadata(path).map_or(0, |meta| if meta.is_file() { meta.len() } else { 0 });
        files.push(FilePlan {
            path: skipped.path.clone(),
            tower: None,
            len,
            sha256: None,
            fate: FileFate::LeftOut,
            target: String::new(),
            note: Some(skipped.reason.to_string()),
        });
    }
    for (index, tower) in towers.iter().enumerate() {
        let facts =
            Family::all().iter().flat_map(|family| &family.towers).find(|facts| facts.path == tower.path);
        let weights = facts
            .into_iter()
            .flat_map(|facts| &facts.weights_one_of)
            .find(|name| tower.folder.files().iter().any(|file| &file.path == *name));
        for file in tower.folder.files() {
            let (fate, note) = contents::tower_file(&file.path, weights.map_or("", String::as_str));
            let target = if fate == FileFate::Copied {
                format!("{}/{}", tower.path, file.path)
            } else {
                String::new()
            };
            let sha256 = file.sha256.as_deref().and_then(Digest::from_hex);
            let note = note.map(str::to_owned);
            files.push(FilePlan {
                path: file.path.clone(),
                tower: Some(index),
                len: file.len,
                sha256,
                fate,
                target,
                note,
            });
        }
    }
    Ok(files)
}

/// The path without links and dots, for as much of it as exists.
fn resolve(path: &Path) -> std::io::Result<PathBuf> {
    let full = std::path::absolute(path)?;
    let mut known = full.as_path();
    let mut real = loop {
        match (known.canonicalize(), known.parent()) {
            (Ok(real), _) => break real,
            (Err(_), Some(parent)) => known = parent,
            (Err(cause), None) => return Err(cause),
        }
    };
    for part in full.strip_prefix(known).into_iter().flat_map(Path::components) {
        match part {
            Component::ParentDir => {
                real.pop();
            }
            other => real.push(other),
        }
    }
    Ok(real)
}

fn write_text(dir: &Path, path: &str, text: &[u8]) -> Result<FileRecord> {
    let full = dir.join(path);
    let failed = |cause| io_error("writing a file", &full, cause);
    let mut file = SealedFile::create(&full, 0).map_err(failed)?;
    file.write_all(text).map_err(failed)?;
    let Seal { len, sha256 } = file.finish().map_err(failed)?;
    Ok(FileRecord { path: path.to_owned(), size: len, sha256 })
}

pub(crate) fn io_error(doing: &'static str, path: &Path, cause: std::io::Error) -> crate::Error {
    ConvertError::Io { doing, path: path.to_owned(), cause }.into()
}

/// The worst quantized tensors by SQNR, lowest first, at most `count`.
pub fn worst(manifest: &Manifest, count: usize) -> Vec<(&TensorName, &ErrorFigures)> {
    let mut measured: Vec<_> = manifest
        .tensors
        .iter()
        .filter_map(|tensor| tensor.error.as_ref().map(|error| (&tensor.source, error)))
        .filter(|(_, error)| error.sqnr_db.is_some())
        .collect();
    measured.sort_by(|a, b| a.1.sqnr_db.partial_cmp(&b.1.sqnr_db).unwrap_or(std::cmp::Ordering::Equal));
    measured.truncate(count);
    measured
}
