//! `mgpack._mgpack`: what the Python package cannot do by itself.
//!
//! Thin: arguments in, JSON or a path out. What a bundle means to Python, how it is loaded and which classes of
//! errors there are is written in Python, in `python/mgpack`. Long work runs off the interpreter (see `work`).

mod errors;
mod mention;
mod work;

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use indexmap::IndexMap;
use mgpack::architectures;
use mgpack::bundle;
use mgpack::convert::{self, Conversion, Options};
use mgpack::device::{Device, MAX_DEVICES};
use mgpack::device_map::{self, Attention, GpuTable, MemoryTable};
use mgpack::devices::Devices;
use mgpack::error::DeviceMapError;
use mgpack::kernels::Isa;
use mgpack::locate::{self, Places};
use mgpack::map::{Model, Planner};
use mgpack::modules::MapRequest;
use mgpack::plan::{DEFAULT_MAX_SHARD_LEN, Precision};
use mgpack::scheme::{Layout, OnOverflow, Scheme};
use mgpack::tiny;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde_json::Value;

use work::Listeners;

/// The functions of `mgpack._mgpack`; `_mgpack.pyi` describes them for type checkers.
#[pymodule]
mod _mgpack {
    #[pymodule_export]
    use super::{
        class_of, convert_checkpoint, detect_gpus, parse_memory_table, parse_size, plan_device_map,
        read_manifest, run_command, verify_bundle,
    };

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        use pyo3::types::PyModuleMethods as _;
        module.add("MAX_DEVICES", super::MAX_DEVICES)?;
        module.add("TOKENIZER_FILES", super::architectures::TOKENIZER_FILES.to_vec())?;
        module.add("PROCESSOR_FILES", super::architectures::PROCESSOR_FILES.to_vec())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}

/// The `mgpack` command. `args`: the program's name, then its arguments. Returns the exit code.
#[pyfunction]
fn run_command(py: Python<'_>, args: Vec<OsString>) -> u8 {
    let code = py.detach(|| mgpack::cli::run(args));
    // An `ExitCode` can be compared and not read.
    (0..=u8::MAX).find(|number| ExitCode::from(*number) == code).unwrap_or(u8::MAX)
}

/// The text of a bundle's manifest in canonical form, and the bundle's id.
#[pyfunction]
fn read_manifest(py: Python<'_>, bundle: PathBuf) -> PyResult<(String, String)> {
    let read = py.detach(|| bundle::read_manifest(&bundle));
    let (manifest, id) = read.map_err(|error| errors::to_python(py, &error))?;
    let text = serde_json::to_string(&manifest).map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok((text, format!("sha256:{id}")))
}

/// The class of transformers that loads a generic checkpoint, as JSON: a `Class`, or with the key `is` a `NoClass`.
///
/// `config`: the text of its config.json; None where it has none. `files`: the paths of its files.
#[pyfunction]
fn class_of(config: Option<&str>, files: HashSet<String>) -> PyResult<String> {
    let invalid = |error: serde_json::Error| PyValueError::new_err(error.to_string());
    let config = config.map_or(Ok(Value::Null), serde_json::from_str).map_err(invalid)?;
    match architectures::class_of(&config, |path| files.contains(path)) {
        Ok(class) => serde_json::to_string(&class),
        Err(why) => serde_json::to_string(&why),
    }
    .map_err(invalid)
}

/// Checks a bundle, a folder or a tar, and returns the report as JSON. Not `full`: sizes, headers and the manifest.
#[pyfunction]
#[pyo3(signature = (bundle, full, threads=None, progress=None))]
fn verify_bundle(
    py: Python<'_>,
    bundle: PathBuf,
    full: bool,
    threads: Option<usize>,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let listeners = Listeners { progress: progress.as_ref(), notice: None };
    let report = work::run(py, listeners, move |teller, stop| {
        // Not rayon's global pool: its threads would be missing in a process that was forked.
        let pool = work::pool(threads)?;
        pool.install(|| bundle::verify(&bundle, !full, teller, stop))
    })?;
    serde_json::to_string(&report).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Bytes by device, as `mgpack.arguments` reads them: `0`, `1`, …, `cpu`.
type Sizes = IndexMap<String, u64>;

/// A memory table: a text such as `2x24GiB`, or bytes by device.
#[derive(FromPyObject)]
enum Table {
    Text(String),
    Sizes(Sizes),
}

impl Table {
    fn read(&self, py: Python<'_>) -> PyResult<MemoryTable> {
        match self {
            Table::Text(text) => {
                MemoryTable::parse(text).map_err(|error| errors::to_python(py, &error.into()))
            }
            Table::Sizes(sizes) => memory_table(sizes),
        }
    }
}

/// Bytes of a text with a unit, such as `2GiB`; None where it is none.
#[pyfunction]
fn parse_size(text: &str) -> Option<u64> {
    device_map::parse_size(text)
}

/// A memory table of a text, such as `2x24GiB`; a `ValueError` with the rule that the text breaks.
#[pyfunction]
fn parse_memory_table(py: Python<'_>, text: &str) -> PyResult<Sizes> {
    match MemoryTable::parse(text) {
        Ok(table) => Ok(sizes(&table)),
        Err(DeviceMapError::BadMemoryTable { reason, .. }) => Err(PyValueError::new_err(reason)),
        Err(error @ DeviceMapError::UnknownGpu { .. }) => Err(PyValueError::new_err(error.to_string())),
        Err(error) => Err(errors::to_python(py, &error.into())),
    }
}

/// Free memory of every GPU that a CUDA program would see, and what there is to say about it.
#[pyfunction]
fn detect_gpus(py: Python<'_>) -> (Sizes, Vec<String>) {
    let devices = py.detach(|| Devices::detect(|name| std::env::var_os(name)));
    let mut notes = devices.notes.clone();
    let without = devices.without_gpu();
    notes.extend(without.map(|why| format!("{why}: no device map is planned")));
    (devices.gpu_memory().as_ref().map(sizes).unwrap_or_default(), notes)
}

fn sizes(table: &MemoryTable) -> Sizes {
    let entry = |&(device, bytes): &(Device, u64)| match device.gpu() {
        Some(number) => (number.to_string(), bytes),
        None => (device.to_string(), bytes),
    };
    table.entries().iter().map(entry).collect()
}

fn memory_table(sizes: &Sizes) -> PyResult<MemoryTable> {
    let entries = sizes.iter().map(|(device, bytes)| {
        let device = if device == "cpu" { Some(Device::Cpu) } else { device.parse().ok().map(Device::Gpu) };
        device
            .filter(|device| device.gpu().is_none_or(|number| number < MAX_DEVICES))
            .map(|device| (device, *bytes))
    });
    entries
        .collect::<Option<Vec<_>>>()
        .and_then(MemoryTable::new)
        .ok_or_else(|| PyValueError::new_err(format!("a GPU's number is from 0 to {}", MAX_DEVICES - 1)))
}

/// Converts a checkpoint into a bundle and returns the bundle's path. The options are those of `mgpack convert`.
#[pyfunction]
#[pyo3(signature = (model, output, *, scheme, format, ignore, on_overflow, stats, max_shard_size, max_memory,
    threads, towers, keep_towers, hash_source, revision, gpus, context, batch, reserve, allow_cpu, attention,
    force, notice, progress))]
#[expect(clippy::too_many_arguments, reason = "one for each option of `mgpack convert`, by keyword only")]
fn convert_checkpoint(
    py: Python<'_>,
    model: String,
    output: Option<PathBuf>,
    scheme: &str,
    format: Option<&str>,
    ignore: Vec<String>,
    on_overflow: &str,
    stats: bool,
    max_shard_size: Option<u64>,
    max_memory: Option<u64>,
    threads: Option<usize>,
    towers: Option<PathBuf>,
    keep_towers: bool,
    hash_source: bool,
    revision: Option<String>,
    gpus: Vec<Table>,
    context: u64,
    batch: u64,
    reserve: Option<u64>,
    allow_cpu: Option<u64>,
    attention: Option<&str>,
    force: bool,
    notice: Py<PyAny>,
    progress: Option<Py<PyAny>>,
) -> PyResult<PathBuf> {
    let precision = named(
        "scheme",
        scheme,
        &[
            ("int8", Precision::Int8),
            ("fp16", Precision::Fp16),
            ("bf16", Precision::Bf16),
            ("W8A8", Precision::Scheme(Scheme::W8A8)),
            ("W8A16", Precision::Scheme(Scheme::W8A16)),
        ],
    )?;
    let layouts = [("bnb", Layout::Bnb), ("compressed-tensors", Layout::CompressedTensors)];
    let layout = format.map(|format| named("format", format, &layouts)).transpose()?;
    let on_overflow = named(
        "on_overflow",
        on_overflow,
        &[("error", OnOverflow::Error), ("clamp", OnOverflow::Clamp), ("inf", OnOverflow::Inf)],
    )?;
    let map = MapRequest {
        memory: gpus.iter().map(|table| table.read(py)).collect::<PyResult<_>>()?,
        context,
        batch,
        reserve: reserve.unwrap_or(MapRequest::default().reserve),
        allow_cpu,
        attention: attention.map(named_attention).transpose()?,
    };
    let named = gpus.iter().filter_map(|table| match table {
        Table::Text(text) => GpuTable::parse(text).ok(),
        Table::Sizes(_) => None,
    });
    let capabilities = named.flat_map(|table| table.capabilities).collect();
    let options = Options {
        capabilities,
        precision,
        layout,
        ignore,
        max_shard_len: max_shard_size.unwrap_or(DEFAULT_MAX_SHARD_LEN),
        on_overflow,
        stats,
        name: None,
        max_memory: max_memory.unwrap_or(convert::DEFAULT_MAX_MEMORY),
        threads: mgpack::threads::count(threads),
        isa: Isa::detect(),
        keep_towers,
        map,
    };
    let mut places = Places::from_env(|name| std::env::var_os(name));
    places.towers = towers;
    places.revision = revision;
    let listeners = Listeners { progress: progress.as_ref(), notice: Some(&notice) };
    work::run(py, listeners, move |teller, stop| {
        let is_tiny = locate::is_tiny(&model);
        let located = if is_tiny {
            locate::tiny(|name| std::env::var_os(name), &places.cwd, teller)?
        } else {
            locate::checkpoint(&model, &places)?
        };
        let options = Options { name: is_tiny.then(|| tiny::BUNDLE_NAME.to_owned()), ..options };
        let conversion = Conversion::prepare(located, &places, options)?;
        let conversion = if hash_source { conversion.with_source_digests() } else { conversion };
        let target = output.unwrap_or_else(|| places.cwd.join(conversion.name.as_str()));
        conversion
            .notices
            .iter()
            .cloned()
            .chain(conversion.folder_notice(&target))
            .for_each(|it| teller.say(it));
        conversion.run(&target, force, teller, stop).map(|outcome| outcome.path)
    })
}

/// Plans a device map for a bundle and the devices of a memory table, as `mgpack map` does. Returns it as JSON.
#[pyfunction]
#[pyo3(signature = (bundle, devices, *, context, batch, reserve, allow_cpu, attention))]
#[expect(clippy::too_many_arguments, reason = "one for each option of `mgpack map`, by keyword only")]
fn plan_device_map(
    py: Python<'_>,
    bundle: PathBuf,
    devices: Sizes,
    context: Option<u64>,
    batch: Option<u64>,
    reserve: Option<u64>,
    allow_cpu: Option<u64>,
    attention: Option<&str>,
) -> PyResult<String> {
    let default = MapRequest::default();
    let request = MapRequest {
        memory: vec![memory_table(&devices)?],
        context: context.unwrap_or(default.context),
        batch: batch.unwrap_or(default.batch),
        reserve: reserve.unwrap_or(default.reserve),
        allow_cpu,
        attention: attention.map(named_attention).transpose()?,
    };
    let planned = py.detach(|| Model::of_bundle(&bundle)?.map(Planner::Mgm, &request));
    let planned = planned.map_err(|error| errors::to_python(py, &error))?;
    let map = planned.first().map(|planned| &planned.profile.map);
    serde_json::to_string(&map).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn named_attention(word: &str) -> PyResult<Attention> {
    named("attention", word, &[("eager", Attention::Eager), ("sdpa", Attention::Sdpa)])
}

/// The value that `word` stands for.
fn named<T: Copy>(option: &str, word: &str, choices: &[(&str, T)]) -> PyResult<T> {
    choices.iter().find(|(name, _)| *name == word).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("'{name}'")).collect();
        PyValueError::new_err(format!("{option} is one of {}, not '{word}'", names.join(", ")))
    })
}
