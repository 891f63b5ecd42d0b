//! Carries out a conversion: prepare everything that can be known, then read, transform, hash and write.
//!
//! [`Conversion::prepare`] reads headers and small files only and decides all; what it returns is what
//! `--dry-run` prints. [`Conversion::run`] does it, into an output that becomes the bundle in one rename.
//! Carries out formats/bundle.md.

mod block;
mod card;
mod contents;
mod generic;
mod journal;
mod pipeline;
mod prepare;
mod record;
mod run;
mod snippet;
mod supply;
mod towers;

use std::path::{Path, PathBuf};

pub use contents::FileFate;
pub use pipeline::Resources;
pub use supply::{Present, Supply};

use crate::bundle::Bundle;
use crate::checkpoint::{Ahead, Checkpoint, Folder, Limits};
use crate::device_map::Profile;
use crate::digest::Digest;
use crate::environment;
use crate::error::{ConvertError, IoError, Result};
use crate::family::{self, Match, Misnamed};
use crate::gpu_models::{self, Capability};
use crate::kernels::Isa;
use crate::locate::{Located, Places};
use crate::manifest::{
    self, DEVICE_MAP_NAME, ErrorFigures, MANIFEST_NAME, Manifest, REQUIREMENTS_NAME, SUMS_NAME,
};
use crate::modules::{MapRequest, ModelModules};
use crate::names::{BundleName, BundlePath, Clash, Line, clash};
use crate::plan::{self, Plan, Prepared, Skip, TensorPlan, WeightOptions};
use crate::scheme::OnOverflow;
use crate::subject::Subject;
use crate::tensor::{Float, TensorName};

/// What the user wants, as given on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to store the weights.
    pub weights: WeightOptions,
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
    /// `--keep-towers`: the towers' files are copied as they are.
    pub keep_towers: bool,
    /// `-j`.
    pub threads: usize,
    /// The instruction set to compute with.
    pub isa: Isa,
    /// Devices and what to keep free on them.
    pub map: MapRequest,
    /// Compute capabilities of the devices, where they are known.
    pub capabilities: Vec<Capability>,
}

/// Name of the card in a bundle.
const CARD_NAME: &str = "README.md";
/// Default of `--max-memory`: 512 MiB.
pub const DEFAULT_MAX_MEMORY: u64 = 512 << 20;

/// A conversion with everything decided.
pub struct Conversion {
    /// The checkpoint, open.
    pub checkpoint: Checkpoint,
    /// Where it was found.
    pub located: Located,
    /// What it is.
    pub subject: Subject,
    /// The towers, for MGM checkpoints.
    pub towers: Vec<TowerFolder>,
    /// What becomes of every tensor.
    pub plan: Plan,
    /// Name of the bundle.
    pub name: BundleName,
    /// Threads, lanes and memory.
    pub resources: Resources,
    /// The device maps, one for each memory table asked for; the first is the bundle's device_map.json.
    pub profiles: Vec<Profile>,
    /// What becomes of every file of the checkpoint and the towers.
    pub files: Vec<FilePlan>,
    /// Bytes that the bundle will take, within a few kilobytes.
    pub bundle_len: u64,
    /// Things the user should know.
    pub notices: Vec<String>,
    options: Options,
    modules: ModelModules,
    hashes_sources: bool,
    texts: Vec<(String, Vec<u8>)>,
}

/// A tower's folder, open.
pub struct TowerFolder {
    /// What is known of it: its path in a bundle, its module, its files.
    pub facts: &'static family::Tower,
    /// Where it was found.
    pub located: Located,
    /// Bytes of what a loader keeps of it, in 16 bits.
    pub loaded_len: u64,
    folder: Folder,
    /// How its weights are written anew; `None` where they are copied.
    rewrite: Option<towers::Rewrite>,
}

impl TowerFolder {
    /// Where the bundle has the weights that are written anew.
    fn new_path(&self, rewrite: &towers::Rewrite) -> String {
        format!("{}/{}", self.facts.path, rewrite.file_name)
    }
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
    /// Digest by which a hub's cache names it. It is a claim: what is sealed was computed.
    pub claimed: Option<Digest>,
    /// What becomes of it.
    pub fate: FileFate,
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
        let limits = Limits::within(options.max_memory);
        Self::prepare_opened(
            Checkpoint::open_awaiting(&located.dir, Ahead::within(limits))?,
            located,
            places,
            options,
        )
    }

    /// The same for a checkpoint that is open, and of which files of weights may be yet to come.
    ///
    /// # Errors
    /// As [`Conversion::prepare`].
    pub fn prepare_opened(
        checkpoint: Checkpoint,
        located: Located,
        places: &Places,
        options: Options,
    ) -> Result<Self> {
        let root = checkpoint.root();
        let is_bundle =
            manifest::is_in(root).map_err(|cause| io_error("looking for a manifest", root, cause))?;
        // A bundle is read as what it stands for, if it is sound as far as its headers say.
        let source = if is_bundle { Some(Bundle::open(root)?) } else { None };
        checkpoint.check_codes()?;
        let subject = Subject::of(checkpoint.config_json()?);
        let mut notices: Vec<String> = checkpoint.notices().iter().map(ToString::to_string).collect();
        notices.extend(source.map(|bundle| {
            let scheme = bundle.manifest().scheme.name.name();
            format!("the source is a bundle ({scheme}): what it lost to the checkpoint it was made from stays lost")
        }));
        notices.extend(subject.mgm().and_then(Match::notice));
        let has_file = |path: &str| checkpoint.side_files().iter().any(|file| file.path == path);
        let prepared =
            Prepared::of(subject, checkpoint.tensors(), has_file, &options.weights, options.max_shard_len)?;
        // What a refusal may propose.
        let int8 = if options.map.memory.is_empty() { None } else { prepared.int8(checkpoint.tensors()) };
        let Prepared { subject, plan, notices: of_plan, .. } = prepared;
        notices.extend(of_plan);
        if subject.mgm().is_none() && places.towers.is_some() {
            notices.push("a folder of vision towers was given, and this model has none of MGM's".to_owned());
        }
        let mut resources = Resources::choose(&plan, &checkpoint, options.threads, options.max_memory)?;
        let name = prepare::bundle_name(&options, &located, plan.scheme, subject.mgm())?;
        options.weights.ignore.iter().try_for_each(|pattern| checked::<Line>(pattern).map(|_| ()))?;
        let towers = prepare::open_towers(&subject, &checkpoint, places, &options)?;
        let peaks = towers.iter().filter_map(|tower| Some(tower.rewrite.as_ref()?.peak()));
        resources.peak = peaks.fold(resources.peak, u64::max);
        let files = prepare::plan_files(&checkpoint, &towers)?;
        let towers_len = prepare::tower_sizes(&towers);
        let modules_of = |plan: &Plan| ModelModules::of_plan(plan, &towers_len, &subject);
        let modules = modules_of(&plan);
        let profiles = modules.plan(&options.map, int8.as_ref().map(modules_of).as_ref())?;

        let torch = subject.family().and_then(|family| family.requirement("torch"));
        for &capability in &options.capabilities {
            let of_torch = torch.and_then(|need| gpu_models::torch_notice(&need.pin, capability));
            notices
                .extend(of_torch.map(|notice| format!("{notice}, and it is the one that this family pins")));
            notices.extend(gpu_models::scheme_notice(plan.scheme, capability));
        }

        let mut conversion = Self {
            checkpoint,
            located,
            subject,
            towers,
            plan,
            name,
            resources,
            profiles,
            files,
            bundle_len: 0,
            notices,
            options,
            modules,
            hashes_sources: false,
            texts: Vec::new(),
        };
        conversion.texts = conversion.make_texts()?;
        conversion.bundle_len = conversion.count_bytes();
        conversion.check_paths()?;
        Ok(conversion)
    }

    /// Seals the digests of the checkpoint's and the towers' files of weights, for which [`Conversion::run`] reads each
    /// once more before it begins.
    #[must_use]
    pub fn with_source_digests(mut self) -> Self {
        self.hashes_sources = true;
        self
    }

    /// Patterns of modules that stay float, as the bundle's quantization_config lists them.
    pub fn skip_modules(&self) -> Vec<String> {
        let Some(family) = self.subject.family() else {
            return plan::skip_modules(&self.plan, &self.subject);
        };
        let mut skip: Vec<String> = family.quantization.skip_modules.clone();
        let ignored = |tensor: &&TensorPlan| matches!(tensor.skip, Some(Skip::Ignored(_)));
        let modules = self.plan.tensors.iter().filter(ignored).map(|tensor| tensor.name.module());
        for module in modules {
            if !skip.iter().any(|pattern| module.contains(pattern.as_str())) {
                skip.push(module.to_owned());
            }
        }
        skip
    }

    /// What MGM's loader would make of a folder of this name, where that is not the bundle's own class.
    pub fn folder_notice(&self, target: &Path) -> Option<String> {
        let class = self.subject.family()?.model.model_type;
        let path = crate::bundle::full_path(target);
        let misnamed = Misnamed::at(&path, class, &self.name)?;
        Some(format!("{}; {}", misnamed.note(), misnamed.mend(&path)))
    }

    /// The instruction set, for reports.
    pub fn isa(&self) -> Isa {
        self.options.isa
    }

    /// The family's name, or `generic`.
    fn family_name(&self) -> String {
        self.subject.family().map_or_else(|| "generic".to_owned(), |family| family.name.to_string())
    }

    /// The packages that the bundle needs, with their reasons.
    pub fn requirements(&self) -> Vec<manifest::RequiredPackage> {
        match self.subject.family() {
            Some(family) => environment::requirements(family),
            None => environment::generic_requirements(self.plan.scheme),
        }
    }

    fn make_texts(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let json = |error: serde_json::Error| ConvertError::BadJson {
            file: DEVICE_MAP_NAME.into(),
            why: error.to_string(),
        };
        let mut texts = Vec::new();
        if let Some(config) = self.checkpoint.config() {
            let towers = self.subject.family().map_or(&[][..], |family| &family.towers);
            let towers: Vec<(String, String)> =
                towers.iter().map(|tower| (tower.config_key.clone(), tower.path.clone())).collect();
            let dtype = self.plan.scheme.rest(self.subject.mgm().is_some()).map(Float::torch_name);
            let text = contents::config(config, &self.plan, &self.skip_modules(), &towers, dtype)?;
            texts.push(("config.json".to_owned(), text.into_bytes()));
        }
        let outputs = self.plan.tensors.iter().flat_map(|tensor| &tensor.outputs);
        let weights =
            outputs.map(|output| (output.name.as_str(), self.plan.shards[output.place.shard].name.as_str()));
        let index = manifest::index_json(self.plan.totals().bytes, weights).map_err(json)?;
        texts.push(("model.safetensors.index.json".to_owned(), index));
        let first = self.profiles.first().map(|profile| &profile.map);
        texts.push((DEVICE_MAP_NAME.to_owned(), manifest::device_map_json(first).map_err(json)?));
        texts.push((
            REQUIREMENTS_NAME.to_owned(),
            environment::requirements_txt(&self.requirements(), &self.family_name()).into_bytes(),
        ));
        texts.push((CARD_NAME.to_owned(), card::model_card(self, &self.name).into_bytes()));
        Ok(texts)
    }

    fn count_bytes(&self) -> u64 {
        let shards: u64 = (0..self.plan.shards.len())
            .map(|index| {
                let head = pipeline::shard_header(&self.plan, index).map_or(0, |head| head.len() as u64);
                head + self.plan.shards[index].data_len
            })
            .sum();
        let copies: u64 =
            self.files.iter().filter(|file| file.fate.target().is_some()).map(|file| file.len).sum();
        let rewrites = self.towers.iter().filter_map(|tower| tower.rewrite.as_ref());
        let rewritten: u64 = rewrites.map(towers::file_len).sum();
        let texts: u64 = self.texts.iter().map(|(_, text)| text.len() as u64).sum();
        // A tensor's record in the manifest takes about 600 bytes.
        shards + copies + rewritten + texts + self.plan.totals().tensors * 600
    }

    fn check_paths(&self) -> Result<()> {
        let copied = self.files.iter().filter_map(|file| file.fate.target());
        let mut paths: Vec<String> = copied.map(ToString::to_string).collect();
        let rewrites = self.towers.iter().filter_map(|tower| Some(tower.new_path(tower.rewrite.as_ref()?)));
        paths.extend(rewrites);
        paths.extend(self.texts.iter().map(|(path, _)| path.clone()));
        paths.extend(self.plan.shards.iter().map(|shard| shard.name.clone()));
        paths.extend([MANIFEST_NAME.to_owned(), SUMS_NAME.to_owned()]);
        // Copies were checked one by one; so are all others.
        paths.iter().try_for_each(|path| checked::<BundlePath>(path).map(|_| ()))?;
        Err(match clash(paths.iter().map(String::as_str)) {
            None => return Ok(()),
            Some(Clash::Case(first, second)) => {
                ConvertError::CaseClash { first: first.to_owned(), second: second.to_owned() }
            }
            Some(Clash::Inside(file, inside)) => {
                ConvertError::FileForFolder { file: file.to_owned(), inside: inside.to_owned() }
            }
        }
        .into())
    }
}

/// A word of the bundle, which its readers insist on.
fn checked<T: TryFrom<String, Error = &'static str>>(text: impl ToString) -> Result<T> {
    let text = text.to_string();
    T::try_from(text.clone()).map_err(|rule| ConvertError::BadWord { text, rule }.into())
}

pub(crate) fn io_error(doing: &'static str, path: &Path, cause: std::io::Error) -> crate::Error {
    IoError::new(doing, path, cause).into()
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
