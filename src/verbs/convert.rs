//! `convert` and `plan`: a checkpoint made into a bundle, and what that would do.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::words::{self, Room};
use super::{Work, fetch_missing};
use crate::convert::{self, Conversion, DEFAULT_MAX_MEMORY, Options, Outcome};
use crate::error::{ConvertError, Error, Result};
use crate::kernels::Isa;
use crate::locate::{self, Places};
use crate::output;
use crate::plan::DEFAULT_MAX_SHARD_LEN;
use crate::plan::WeightOptions;
use crate::scheme::OnOverflow;
use crate::size::{counted, shown};
use crate::threads;
use crate::tiny;

/// Tensors in [`Converted::json`] that have the largest errors.
pub const WORST: usize = 10;

/// What `plan` takes, and `convert` for its plan.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanCall {
    /// An alias, a hub id or a path.
    pub model: String,
    /// How the weights are stored.
    #[serde(deserialize_with = "words::weights")]
    pub weights: WeightOptions,
    /// What becomes of finite values beyond the output type's range.
    pub on_overflow: OnOverflow,
    /// Whether the error figures of every tensor are sealed.
    pub stats: bool,
    /// Bytes after which a new shard begins.
    pub max_shard_size: u64,
    /// What the device maps are planned for.
    pub room: Room,
    /// Folder that holds the vision towers.
    #[serde(deserialize_with = "words::path_if_given")]
    pub towers: Option<PathBuf>,
    /// Whether the towers' weights are copied as they are.
    pub keep_towers: bool,
    /// Branch, tag or commit in the hub's cache.
    pub revision: Option<String>,
    /// Bytes of memory that the process may take.
    pub max_memory: u64,
    /// Threads; `None` is one for each core.
    pub threads: Option<usize>,
    /// Instruction set; `None` is the fastest.
    #[serde(deserialize_with = "words::isa")]
    pub isa: Option<Isa>,
}

impl Default for PlanCall {
    fn default() -> Self {
        Self {
            model: String::new(),
            weights: WeightOptions::default(),
            on_overflow: OnOverflow::default(),
            stats: true,
            max_shard_size: DEFAULT_MAX_SHARD_LEN,
            room: Room::default(),
            towers: None,
            keep_towers: false,
            revision: None,
            max_memory: DEFAULT_MAX_MEMORY,
            threads: None,
            isa: None,
        }
    }
}

impl PlanCall {
    /// Where models and towers are looked for.
    pub(super) fn places(&self, work: Work<'_>) -> Places {
        let mut places = work.places(self.revision.as_deref());
        places.towers.clone_from(&self.towers);
        places
    }

    /// The conversion's options.
    pub(super) fn options(&self, work: Work<'_>) -> Options {
        let (map, capabilities) = self.room.asked(work);
        Options {
            weights: self.weights.clone(),
            max_shard_len: self.max_shard_size,
            on_overflow: self.on_overflow,
            stats: self.stats,
            name: None,
            max_memory: self.max_memory,
            keep_towers: self.keep_towers,
            threads: threads::count(self.threads),
            isa: self.isa.unwrap_or_else(Isa::detect),
            map,
            capabilities,
        }
    }

    /// Finds the model and decides everything.
    fn prepare(&self, source: Source, work: Work<'_>) -> Result<Conversion> {
        let places = self.places(work);
        if locate::is_tiny(&self.model) {
            let options = Options { name: Some(tiny::BUNDLE_NAME.to_owned()), ..self.options(work) };
            if source != Source::AsItIs {
                let located = locate::tiny(work.variables, &places.cwd, work.progress)?;
                return Conversion::prepare(located, &places, options);
            }
            let _attended = work.stop.attend();
            let prepare = |located| Conversion::prepare(located, &places, options);
            let prepared = locate::borrow_tiny(work.variables, &places.cwd, work.progress, prepare)?;
            return if work.stop.requested() {
                Err(Error::Interrupted { kept: false })
            } else {
                Ok(prepared)
            };
        }
        if source == Source::Fetched {
            fetch_missing(&self.model, &places, work)?;
        }
        Conversion::prepare(locate::checkpoint(&self.model, &places)?, &places, self.options(work))
    }
}

/// What is done before a model is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Nothing that stays.
    AsItIs,
    /// The built-in checkpoint is kept in the cache.
    Kept,
    /// So it is, and what is missing of others is downloaded.
    Fetched,
}

/// What `convert` takes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConvertCall {
    /// What to make of which checkpoint.
    pub plan: PlanCall,
    /// Folder to write; `None` is the bundle's name in the working directory.
    #[serde(deserialize_with = "words::path_if_given")]
    pub output: Option<PathBuf>,
    /// Nothing is downloaded.
    pub offline: bool,
    /// Shards are converted while the checkpoint arrives from the hub.
    #[cfg(feature = "hub")]
    pub stream: bool,
    /// Each file of weights is removed from the hub's cache once all that is made from it is on the disk. With `stream`.
    #[cfg(feature = "hub")]
    pub discard_source: bool,
    /// The SHA-256 of each file of weights is sealed. Not with `stream`.
    pub hash_source: bool,
    /// A bundle at the target is replaced.
    pub force: bool,
}

impl ConvertCall {
    /// The folder to write.
    pub(super) fn target(&self, conversion: &Conversion) -> PathBuf {
        self.output.clone().unwrap_or_else(|| PathBuf::from(conversion.name.as_str()))
    }
}

/// A bundle that was made, and how.
pub struct Converted {
    /// All that was decided.
    pub conversion: Conversion,
    /// The bundle.
    pub outcome: Outcome,
}

impl Converted {
    /// What `--json` prints.
    pub fn json(&self) -> Value {
        let Outcome { path, id, manifest } = &self.outcome;
        let worst: Vec<Value> = convert::worst(manifest, WORST)
            .into_iter()
            .map(|(name, error)| json!({ "tensor": name, "error": error }))
            .collect();
        json!({
            "path": path,
            "id": id,
            "name": manifest.model.name,
            "totals": manifest.totals,
            "device_map": self.conversion.profiles.first().map(|profile| &profile.map),
            "worst": worst,
        })
    }
}

/// Decides what a conversion would do. Downloads nothing and leaves nothing behind.
///
/// # Errors
/// As [`Conversion::prepare`], and where there is no such model.
pub fn plan(call: &PlanCall, work: Work<'_>) -> Result<Conversion> {
    call.prepare(Source::AsItIs, work)
}

/// Decides what this call of `convert` would do: with `stream`, of a checkpoint that is held in memory as far as a plan
/// needs it.
///
/// # Errors
/// As [`plan`]; those of the hub with `stream`.
pub fn preview(call: &ConvertCall, work: Work<'_>) -> Result<Conversion> {
    #[cfg(feature = "hub")]
    if call.stream {
        return super::stream::preview(call, work);
    }
    plan(&call.plan, work)
}

/// Downloads what is missing, converts the checkpoint and puts the bundle at its target in one step.
///
/// What the caller should know is a note before a weight is read.
///
/// # Errors
/// [`crate::error::OutputError`] where the target is there, before anything is downloaded; as [`plan`]; whatever reading,
/// converting and writing meet. Then nothing half-made is at the target; a note says where finished shards are kept.
pub fn convert(call: &ConvertCall, work: Work<'_>) -> Result<Converted> {
    if let Some(target) = call.output.as_ref().filter(|_| !call.force) {
        output::check_absent(target, work.progress)?;
    }
    #[cfg(feature = "hub")]
    if call.stream {
        return super::stream::convert(call, work);
    }
    let source = if call.offline { Source::Kept } else { Source::Fetched };
    let conversion = call.plan.prepare(source, work)?;
    let conversion = if call.hash_source { conversion.with_source_digests() } else { conversion };
    let outcome = carry_out(call, &conversion, work, |target| {
        conversion.run(target, call.force, work.progress, work.stop)
    })?;
    Ok(Converted { conversion, outcome })
}

/// Says what should be known before, and does `run`.
pub(super) fn carry_out(
    call: &ConvertCall,
    conversion: &Conversion,
    work: Work<'_>,
    run: impl FnOnce(&Path) -> Result<Outcome>,
) -> Result<Outcome> {
    let target = call.target(conversion);
    let totals = conversion.plan.totals();
    work.progress.announce(&format!(
        "converting {}, {}, into {}  ({})",
        counted(totals.source_tensors, "tensor"),
        shown(totals.source_bytes),
        target.display(),
        kind(conversion),
    ));
    for notice in conversion.notices.iter().cloned().chain(conversion.folder_notice(&target)) {
        work.progress.note(&notice);
    }
    let outcome = run(&target);
    if let Err(error) = &outcome
        // Of another conversion, the error says what goes on.
        && !matches!(error, Error::Convert(ConvertError::OtherUnfinished { .. }))
        && let Some(dir) = Conversion::unfinished(&target)
    {
        let dir = dir.display();
        work.progress
            .note(&format!("finished shards are kept in {dir}; the same command goes on from there"));
    }
    outcome
}

/// The family and the scheme.
pub fn kind(conversion: &Conversion) -> String {
    format!("{}, {}", family(conversion), conversion.plan.scheme.name())
}

fn family(conversion: &Conversion) -> &str {
    conversion.subject.family().map_or("generic", |family| family.name.as_str())
}

/// The plan as `--json` prints it.
pub fn plan_json(conversion: &Conversion) -> Value {
    let shards = &conversion.plan.shards;
    let tensors: Vec<Value> = conversion
        .plan
        .tensors
        .iter()
        .map(|tensor| {
            let outputs: Vec<Value> = tensor
                .outputs
                .iter()
                .map(|output| {
                    json!({
                        "name": output.name, "kind": output.kind, "dtype": output.dtype, "shape": output.shape,
                        "shard": shards[output.place.shard].name, "offset": output.place.offset, "bytes": output.byte_len,
                    })
                })
                .collect();
            let source = &conversion.checkpoint.tensors()[tensor.source];
            let mut place = json!({});
            super::inspect::place(&conversion.checkpoint, source, &mut place);
            place["bytes"] = json!(tensor.source_len);
            json!({
                "name": tensor.name, "dtype": tensor.dtype, "shape": tensor.shape, "fate": tensor.fate,
                "why": tensor.skip.as_ref().map(ToString::to_string),
                "source": place,
                "outputs": outputs,
            })
        })
        .collect();
    let files: Vec<Value> = conversion
        .files
        .iter()
        .map(|file| {
            json!({
                "path": file.path, "tower": file.tower.map(|tower| &conversion.towers[tower].facts.path), "bytes": file.len,
                "fate": file.fate.record(), "target": file.fate.target(), "why": file.note,
            })
        })
        .collect();
    json!({
        "name": conversion.name,
        "family": family(conversion),
        "source": { "hub_id": conversion.located.hub_id, "revision": conversion.located.revision },
        "scheme": conversion.plan.scheme,
        "skip_modules": conversion.skip_modules(),
        "totals": conversion.plan.totals(),
        "bundle_bytes": conversion.bundle_len,
        "resources": {
            "threads": conversion.resources.threads, "lanes": conversion.resources.lanes,
            "batch_bytes": conversion.resources.batch_len, "peak_memory_bytes": conversion.resources.peak,
            "instruction_set": conversion.isa().name(),
        },
        "requirements": conversion.requirements(),
        "device_maps": conversion.profiles,
        "shards": shards.iter().map(|shard| json!({ "name": shard.name, "bytes": shard.data_len })).collect::<Vec<_>>(),
        "tensors": tensors,
        "files": files,
        "notices": conversion.notices,
    })
}
