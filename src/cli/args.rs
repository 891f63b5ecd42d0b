//! Every word of the command line and its help.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use mgpack::convert::DEFAULT_MAX_MEMORY;
use mgpack::device_map::{Attention, parse_size};
use mgpack::digest::Digest;
use mgpack::kernels::Isa;
use mgpack::map::Planner;
use mgpack::plan::{DEFAULT_MAX_SHARD_LEN, Precision, WeightOptions};
use mgpack::scheme::{Layout, OnOverflow, Scheme};
use mgpack::verbs::words::{self, Gpus, Room, named_isa};

// Headings of the help.
const QUANTIZATION: &str = "Quantization";
const OUTPUT: &str = "Output";
const DOWNLOAD: &str = "Download";
const TOWERS: &str = "Vision towers";
const RESOURCES: &str = "Resources";

/// Convert MiniGemini and other Hugging Face checkpoints into sealed, quantized bundles
#[derive(Debug, Parser)]
#[command(name = "mgpack", version, max_term_width = 100)]
#[command(
    after_help = "Examples:\n  mgpack convert tiny --int8 -o tiny-int8\n  mgpack convert 34b --int8 --gpus 2x24GiB"
)]
pub(crate) struct Cli {
    /// When to use colours [default: auto; NO_COLOR and CLICOLOR are respected]
    // Read by `cli::color_mode`, before all others.
    #[arg(long, global = true, value_enum, value_name = "WHEN")]
    pub(crate) color: Option<ColorMode>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Convert a checkpoint into a bundle
    #[command(
        after_help = "Examples:\n  mgpack convert 34b --int8 --gpus 2x24GiB\n  mgpack convert ./Llama-3-8B --int8 --ignore 're:.*down_proj' -o llama-int8"
    )]
    Convert(ConvertArgs),
    /// Download a checkpoint and its towers into the Hugging Face cache
    #[command(
        after_help = "Examples:\n  mgpack pull 34b\n  mgpack pull org/model --include '*.json' --exclude 'trainer*'"
    )]
    Pull(PullArgs),
    /// Show what `convert` would do with every tensor, and write nothing
    #[command(
        after_help = "Examples:\n  mgpack plan 8x7b --fp16 --gpus 4x24GiB\n  mgpack plan ./checkpoint --int8 --json | jq .totals"
    )]
    Plan(PlanArgs),
    /// Plan the device map of a bundle or model
    #[command(
        after_help = "Exit code 1: it does not fit, or the map breaks a rule of MGM.\n\nExamples:\n  mgpack map 34b --int8 --gpus 2x24GiB --attention sdpa\n  mgpack map MGM-34B-int8 --gpus auto --why"
    )]
    Map(MapArgs),
    /// Check every byte of a bundle against its seal
    #[command(after_help = "Examples:\n  mgpack verify MGM-7B-int8\n  mgpack verify release --json")]
    Verify(VerifyArgs),
    /// Load a bundle onto its devices in stages
    #[cfg(feature = "load")]
    #[command(
        after_help = "Stages: embeddings, layer.0, layer.1, …, norm, projector, head, vlm_uni, towers.\n\nExamples:\n  mgpack load MGM-34B-int8 --until layer.10\n  mgpack load MGM-7B-int8 --as bf16 --json"
    )]
    Load(LoadArgs),
    /// Compare a bundle with its checkpoint, value by value, and write an HTML page
    #[command(
        after_help = "Examples:\n  mgpack report MGM-7B-int8 --against ./MGM-7B -o report.html\n  mgpack report llama-int8 --against ./llama --json"
    )]
    Report(ReportArgs),
    /// Show a bundle, a checkpoint or one safetensors file as a table
    #[command(
        after_help = "Examples:\n  mgpack inspect MGM-7B-int8\n  mgpack inspect model-00001-of-00003.safetensors --json"
    )]
    Inspect(InspectArgs),
    /// Verify a bundle and write it as a reproducible tar, whole or in parts
    #[command(
        after_help = "Examples:\n  mgpack release MGM-7B-int8 -o release\n  mgpack release MGM-34B-int8 -o release --part-size 4GiB"
    )]
    Release(ReleaseArgs),
    /// Check whether this machine can run a bundle
    #[command(
        after_help = "Examples:\n  mgpack doctor MGM-7B-int8\n  mgpack doctor --python .venv/bin/python --json"
    )]
    Doctor(DoctorArgs),
    /// Write the environment of a bundle or family: requirements.txt and environment.yml
    #[command(after_help = "Examples:\n  mgpack env MGM-7B-int8\n  mgpack env 34b -o mgm-34b")]
    Env(EnvArgs),
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  mgpack completions bash > /etc/bash_completion.d/mgpack\n  mgpack completions zsh > ~/.zfunc/_mgpack"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Folder to write [default: the bundle's name]
    #[arg(short, long = "output", help_heading = OUTPUT, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) output: Option<PathBuf>,
    /// Show the plan and write nothing
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) dry_run: bool,
    /// Download nothing (also: HF_HUB_OFFLINE=1)
    #[arg(long, help_heading = DOWNLOAD)]
    pub(crate) offline: bool,
    /// Convert each shard as soon as it is downloaded
    #[arg(long, help_heading = DOWNLOAD, conflicts_with = "offline")]
    pub(crate) stream: bool,
    /// Remove each source shard from the cache once it is converted
    #[arg(long, help_heading = DOWNLOAD, requires = "stream")]
    pub(crate) discard_source: bool,
    /// Seal the SHA-256 of each source file (reads the weights twice)
    #[arg(long, help_heading = OUTPUT, conflicts_with = "stream")]
    pub(crate) hash_source: bool,
    /// Replace an existing bundle, once the new one is complete
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// An alias or a hub id
    pub(crate) model: String,
    /// Branch, tag or commit [default: main]
    #[arg(long, value_name = "REVISION")]
    pub(crate) revision: Option<String>,
    /// Files to download, with * as wildcard [default: what a conversion needs]
    #[arg(long, value_name = "PATTERN")]
    pub(crate) include: Vec<String>,
    /// Files to leave out, with * as wildcard
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Do not download MGM's vision towers
    #[arg(long)]
    pub(crate) no_towers: bool,
    /// Show what would be downloaded and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Download nothing (also: HF_HUB_OFFLINE=1)
    #[arg(long, conflicts_with_all = ["dry_run", "include", "exclude"])]
    pub(crate) offline: bool,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Print JSON to stdout
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(mut_group("precision", |group| group.required(true)))]
pub(crate) struct RecipeArgs {
    /// An alias (7b, 34b-hd, 8x7b, tiny), a hub id (YanweiLi/MGM-34B) or a path
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) weights: WeightArgs,
    /// How to handle values that overflow the output type
    #[arg(long, help_heading = QUANTIZATION, value_enum, default_value_t = OnOverflow::Error)]
    pub(crate) on_overflow: OnOverflow,
    /// Do not measure quantization errors
    #[arg(long, help_heading = QUANTIZATION)]
    pub(crate) no_stats: bool,
    /// Maximum shard size
    #[arg(long, help_heading = OUTPUT, value_name = "SIZE", value_parser = size, default_value_t = Size(DEFAULT_MAX_SHARD_LEN))]
    pub(crate) max_shard_size: Size,
    #[command(flatten)]
    pub(crate) room: RoomArgs,
    /// Folder with the vision towers
    #[arg(long, help_heading = TOWERS, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) towers: Option<PathBuf>,
    /// Copy the towers unchanged, instead of what MGM reads of them in fp16
    #[arg(long, help_heading = TOWERS)]
    pub(crate) keep_towers: bool,
    /// Branch, tag or commit on the hub [default: main]
    #[arg(long, help_heading = DOWNLOAD, value_name = "REVISION")]
    pub(crate) revision: Option<String>,
    /// Memory budget of the conversion
    #[arg(long, help_heading = RESOURCES, value_name = "SIZE", value_parser = size, default_value_t = Size(DEFAULT_MAX_MEMORY))]
    pub(crate) max_memory: Size,
    /// Threads [default: one per core]
    #[arg(short = 'j', long = "threads", help_heading = RESOURCES, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    #[arg(long, help_heading = RESOURCES, help = isa_help(), value_name = "NAME", value_parser = named_isa)]
    pub(crate) isa: Option<Isa>,
}

/// How the weights are stored.
#[derive(Debug, Args)]
#[command(next_help_heading = QUANTIZATION)]
#[command(group = clap::ArgGroup::new("precision").multiple(true))]
pub(crate) struct WeightArgs {
    /// Quantize the linear layers of the decoder to 8-bit integers
    #[arg(long, group = "precision")]
    pub(crate) int8: bool,
    /// Cast all floating-point tensors to float16
    #[arg(long, group = "precision", conflicts_with_all = ["int8", "bf16", "scheme"])]
    pub(crate) fp16: bool,
    /// Cast all floating-point tensors to bfloat16
    #[arg(long, group = "precision", conflicts_with_all = ["int8", "scheme"])]
    pub(crate) bf16: bool,
    /// Quantization scheme (compressed-tensors preset)
    #[arg(long, group = "precision", value_parser = presets(), ignore_case = true)]
    pub(crate) scheme: Option<Scheme>,
    /// Format of --int8 [default: bnb for MGM, else compressed-tensors]
    #[arg(long, value_enum, conflicts_with_all = ["fp16", "bf16"])]
    pub(crate) format: Option<Layout>,
    /// Module or tensor to leave unquantized (repeatable; re: for a regular expression)
    #[arg(long, value_name = "NAME|re:REGEX")]
    pub(crate) ignore: Vec<String>,
}

impl WeightArgs {
    /// Whether any precision was given.
    pub(crate) fn is_given(&self) -> bool {
        self.int8 || self.fp16 || self.bf16 || self.scheme.is_some()
    }

    /// The choice for the library; int8 where only --format is given.
    pub(crate) fn chosen(&self) -> WeightOptions {
        let precision = match self.scheme {
            Some(scheme) => Precision::Scheme(scheme),
            None if self.fp16 => Precision::Fp16,
            None if self.bf16 => Precision::Bf16,
            None => Precision::Int8,
        };
        WeightOptions { precision, layout: self.format, ignore: self.ignore.clone() }
    }
}

/// What a device map is planned for.
#[derive(Debug, Args)]
#[command(next_help_heading = "Device map")]
pub(crate) struct RoomArgs {
    /// GPUs to plan for: 2x24GiB, 2xRTX-4090, 0=22GiB,1=24GiB or auto (repeatable)
    #[arg(long, visible_alias = "max-memory-map", value_name = "GPUS", value_parser = gpus)]
    pub(crate) gpus: Vec<Gpus>,
    /// Context length to reserve KV cache for, in tokens (images extra)
    #[arg(long, value_name = "TOKENS", default_value_t = 2048)]
    pub(crate) context: u64,
    /// Batch size to reserve KV cache for
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) batch: u64,
    /// Memory to keep free on every GPU
    #[arg(long, value_name = "SIZE", value_parser = size_or_nothing, default_value_t = Size(512 << 20))]
    pub(crate) reserve: Size,
    /// Host memory for decoder layers that do not fit on the GPUs
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "gpus")]
    pub(crate) allow_cpu: Option<Size>,
    /// Attention to reserve memory for [default: that of the pinned versions]
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) attention: Option<Attention>,
}

impl RoomArgs {
    /// The choice for the library.
    pub(crate) fn chosen(&self) -> Room {
        Room {
            gpus: self.gpus.clone(),
            context: self.context,
            batch: self.batch,
            reserve: self.reserve.0,
            allow_cpu: self.allow_cpu.map(|size| size.0),
            attention: self.attention,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct MapArgs {
    /// A bundle, or an alias (7b, 34b-hd, 8x7b), a hub id or a checkpoint's folder with a precision
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) weights: WeightArgs,
    #[command(flatten)]
    pub(crate) room: RoomArgs,
    /// Planner
    #[arg(long, value_enum, default_value_t = Planner::Mgm)]
    pub(crate) planner: Planner,
    /// Explain the place of every module
    #[arg(long)]
    pub(crate) why: bool,
    /// Draw the map as SVG into this file
    #[arg(long, help_heading = OUTPUT, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) svg: Option<PathBuf>,
    /// Replace a file that mgpack did not make
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) force: bool,
    /// Branch, tag or commit on the hub [default: main]
    #[arg(long, help_heading = DOWNLOAD, value_name = "REVISION")]
    pub(crate) revision: Option<String>,
    /// Print JSON to stdout
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The bundle: its folder, a release's folder, or the tar in it (or its first part)
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) bundle: PathBuf,
    /// Compare sizes, headers and the manifest only
    #[arg(long)]
    pub(crate) quick: bool,
    /// Id that the bundle must have, as `convert` and `release` print it: sha256:HEX
    #[arg(long, value_name = "ID", value_parser = id)]
    pub(crate) id: Option<Digest>,
    /// Threads [default: one per core]
    #[arg(short = 'j', long = "threads", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

#[cfg(feature = "load")]
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The bundle
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) bundle: PathBuf,
    /// Stop after this stage
    #[arg(long, value_name = "STAGE")]
    pub(crate) until: Option<String>,
    /// What quantized weights become
    #[arg(long = "as", value_name = "FORM", value_enum, default_value_t = FormName::Codes)]
    pub(crate) form: FormName,
    /// Number of the device map in the bundle, from 1 [default: the first that fits what is free]
    #[arg(long, value_name = "N")]
    pub(crate) profile: Option<usize>,
    /// Skip checksum verification
    #[arg(long)]
    pub(crate) no_verify: bool,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

/// `--as`.
#[cfg(feature = "load")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormName {
    /// Codes and scales, as they are stored
    Codes,
    /// Values in bfloat16
    Bf16,
    /// Values in half precision
    F16,
    /// Values in single precision
    F32,
    /// The codes in candle's and llama.cpp's blocks of 32
    #[value(name = "q8_0")]
    Q8_0,
}

#[cfg(feature = "load")]
impl From<FormName> for mgpack::load::Form {
    fn from(name: FormName) -> Self {
        use mgpack::load::{DType, Form};
        match name {
            FormName::Codes => Form::Codes,
            FormName::Bf16 => Form::Values(DType::BF16),
            FormName::F16 => Form::Values(DType::F16),
            FormName::F32 => Form::Values(DType::F32),
            FormName::Q8_0 => Form::Q8_0,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The bundle
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) bundle: PathBuf,
    /// The checkpoint it was made from: a folder, an alias or a hub id
    #[arg(long, value_name = "CHECKPOINT", value_hint = ValueHint::AnyPath)]
    pub(crate) against: String,
    /// Branch, tag or commit on the hub [default: main]
    #[arg(long, value_name = "REVISION")]
    pub(crate) revision: Option<String>,
    /// Page to write [default: the bundle's name and -report.html, unless --json or --svg is given]
    #[arg(short, long = "output", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Write the main figure into this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) svg: Option<PathBuf>,
    /// Replace a file that mgpack did not make
    #[arg(long)]
    pub(crate) force: bool,
    /// Threads [default: one per core]
    #[arg(short = 'j', long = "threads", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A bundle, a checkpoint's folder, an alias, a hub id or a .safetensors file
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) path: String,
    /// Branch, tag or commit on the hub [default: main]
    #[arg(long, value_name = "REVISION")]
    pub(crate) revision: Option<String>,
    /// Print JSON to stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// The bundle
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) bundle: PathBuf,
    /// Folder to write the tar, its digests and the bundle's id into
    #[arg(short, long = "output", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) output: PathBuf,
    /// Split the tar into parts of this size
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) part_size: Option<Size>,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The bundle
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) bundle: Option<PathBuf>,
    /// The interpreter [default: that of VIRTUAL_ENV, or python3]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::ExecutablePath)]
    pub(crate) python: Option<PathBuf>,
    /// Check package metadata only, without importing the packages
    #[arg(long)]
    pub(crate) no_import: bool,
    /// Print JSON to stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EnvArgs {
    /// A bundle's folder, or an alias (7b, 34b-hd, 8x7b)
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) bundle: String,
    /// Folder to write into [default: the family's name and -env]
    #[arg(short, long = "output", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) output: Option<PathBuf>,
    /// Replace files that mgpack did not make
    #[arg(long)]
    pub(crate) force: bool,
    /// Print JSON to stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct TalkArgs {
    /// Print JSON to stdout
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,
    /// How to show progress on stderr [default: fancy on a terminal, plain elsewhere]
    #[arg(long, help_heading = OUTPUT, value_enum, value_name = "HOW")]
    pub(crate) progress: Option<ProgressMode>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorMode {
    /// On a terminal
    Auto,
    /// Everywhere
    Always,
    /// Nowhere
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// Nothing
    None,
    /// A line per stage
    Plain,
    /// A bar with rate and time left
    Fancy,
}

/// A size in bytes, read and shown with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Size(bytes) = *self;
        match (bytes.is_multiple_of(1 << 30), bytes.is_multiple_of(1 << 20)) {
            (true, _) => write!(f, "{}GiB", bytes >> 30),
            (_, true) => write!(f, "{}MiB", bytes >> 20),
            _ => write!(f, "{bytes}"),
        }
    }
}

fn isa_help() -> String {
    let names: Vec<_> = Isa::all().into_iter().map(Isa::name).collect();
    format!("Instruction set, for comparison: {} [default: the fastest]", names.join(", "))
}

/// The presets of compressed-tensors by their names.
fn presets() -> impl TypedValueParser<Value = Scheme> {
    let values = Scheme::presets()
        .map(|scheme| PossibleValue::new(scheme.name()).help(scheme.summary()).aliases(scheme.alias()));
    PossibleValuesParser::new(values)
        .try_map(|word| Scheme::preset(&word).ok_or("it is no preset that mgpack has"))
}

fn size(text: &str) -> Result<Size, String> {
    let plain = text.parse().ok();
    match plain.or_else(|| parse_size(text)).filter(|bytes| *bytes > 0) {
        Some(bytes) => Ok(Size(bytes)),
        None => Err("a size is a number and a unit, such as 2GiB or 512MiB".to_owned()),
    }
}

/// A size, or 0.
fn size_or_nothing(text: &str) -> Result<Size, String> {
    if text == "0" { Ok(Size(0)) } else { size(text) }
}

fn id(text: &str) -> Result<Digest, String> {
    words::id(text).ok_or_else(|| "an id is sha256: and 64 lower-case hex digits".to_owned())
}

fn gpus(text: &str) -> Result<Gpus, String> {
    Gpus::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use mgpack::device_map::Attention;
    use serde::de::DeserializeOwned;

    use super::*;

    /// Every word of an option is the one that Python gives, in JSON.
    fn words_are_those_of_json<T: ValueEnum + DeserializeOwned + PartialEq + std::fmt::Debug>() {
        assert!(!T::value_variants().is_empty());
        for value in T::value_variants() {
            let word = value.to_possible_value().unwrap();
            let read: T = serde_json::from_value(word.get_name().into()).unwrap();
            assert_eq!(&read, value);
        }
    }

    #[test]
    fn an_option_has_the_same_words_here_and_in_json() {
        words_are_those_of_json::<Layout>();
        words_are_those_of_json::<OnOverflow>();
        words_are_those_of_json::<Attention>();
        words_are_those_of_json::<Planner>();
    }
}
