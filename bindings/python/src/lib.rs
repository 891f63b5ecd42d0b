//! `mgpack._mgpack`: what the Python package cannot do by itself.
//!
//! Thin: arguments in, JSON or a path out. What a bundle means to Python, how it is loaded and which classes of
//! errors there are is written in Python, in `python/mgpack`. Long work runs off the interpreter (see `work`).

mod errors;
mod mention;
mod work;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use mgpack::bundle;
use mgpack::convert::{self, Conversion, Options};
use mgpack::device_map::{MemoryTable, parse_size};
use mgpack::kernels::Isa;
use mgpack::locate::{self, Places};
use mgpack::map::{Model, Planner};
use mgpack::modules::MapRequest;
use mgpack::plan::{DEFAULT_MAX_SHARD_LEN, Precision};
use mgpack::scheme::{Layout, OnOverflow, Scheme};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The functions of `mgpack._mgpack`; `_mgpack.pyi` describes them for type checkers.
#[pymodule]
mod _mgpack {
    #[pymodule_export]
    use super::{convert_checkpoint, plan_device_map, read_manifest, run_command, verify_bundle};

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        use pyo3::types::PyModuleMethods as _;
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
    let report = work::run(py, progress.as_ref(), move |teller, stop| {
        // Not rayon's global pool: its threads would be missing in a process that was forked.
        let pool = work::pool(threads)?;
        pool.install(|| bundle::verify(&bundle, !full, teller, stop))
    })?;
    serde_json::to_string(&report).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Bytes, as a number or with a unit.
#[derive(FromPyObject)]
enum Size {
    Bytes(u64),
    Text(String),
}

impl Size {
    fn bytes(self) -> PyResult<u64> {
        match self {
            Size::Bytes(bytes) => Ok(bytes),
            Size::Text(text) => parse_size(&text).ok_or_else(|| {
                PyValueError::new_err(format!(
                    "`{text}` is no size: a size is a number and a unit, such as 2GiB or 512MiB"
                ))
            }),
        }
    }
}

/// Converts a checkpoint into a bundle and returns the bundle's path. The options are those of `mgpack convert`.
#[pyfunction]
#[pyo3(signature = (model, output, *, scheme, format, ignore, on_overflow, stats, max_shard_size, max_memory,
    threads, towers, keep_towers, revision, gpus, context, batch, reserve, allow_cpu, force, progress))]
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
    max_shard_size: Option<Size>,
    max_memory: Option<Size>,
    threads: Option<usize>,
    towers: Option<PathBuf>,
    keep_towers: bool,
    revision: Option<String>,
    gpus: Vec<String>,
    context: u64,
    batch: u64,
    reserve: Option<Size>,
    allow_cpu: Option<Size>,
    force: bool,
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
    let bytes = |size: Option<Size>, default: u64| size.map_or(Ok(default), Size::bytes);
    let map = MapRequest {
        memory: gpus.iter().map(|gpus| table(py, gpus)).collect::<PyResult<_>>()?,
        context,
        batch,
        reserve: bytes(reserve, MapRequest::default().reserve)?,
        allow_cpu: allow_cpu.map(Size::bytes).transpose()?,
    };
    let options = Options {
        precision,
        layout,
        ignore,
        max_shard_len: bytes(max_shard_size, DEFAULT_MAX_SHARD_LEN)?,
        on_overflow,
        stats,
        name: None,
        max_memory: bytes(max_memory, convert::DEFAULT_MAX_MEMORY)?,
        threads: work::thread_count(threads),
        isa: Isa::detect(),
        keep_towers,
        map,
    };
    let mut places = Places::from_env(|name| std::env::var_os(name));
    places.towers = towers;
    places.revision = revision;
    work::run(py, progress.as_ref(), move |teller, stop| {
        let located = locate::checkpoint(&model, &places)?;
        let conversion = Conversion::prepare(located, &places, options)?;
        let target = output.unwrap_or_else(|| places.cwd.join(&conversion.name));
        conversion.run(&target, force, teller, stop).map(|outcome| outcome.path)
    })
}

/// Plans a device map for a bundle and the devices of a memory table, as `mgpack map` does. Returns it as JSON.
#[pyfunction]
#[pyo3(signature = (bundle, devices, *, context, batch, reserve, allow_cpu))]
fn plan_device_map(
    py: Python<'_>,
    bundle: PathBuf,
    devices: &str,
    context: Option<u64>,
    batch: Option<u64>,
    reserve: Option<u64>,
    allow_cpu: Option<u64>,
) -> PyResult<String> {
    let default = MapRequest::default();
    let request = MapRequest {
        memory: vec![table(py, devices)?],
        context: context.unwrap_or(default.context),
        batch: batch.unwrap_or(default.batch),
        reserve: reserve.unwrap_or(default.reserve),
        allow_cpu,
    };
    let planned = py.detach(|| Model::of_bundle(&bundle)?.map(Planner::Mgm, &request));
    let planned = planned.map_err(|error| errors::to_python(py, &error))?;
    let map = planned.first().map(|planned| &planned.profile.map);
    serde_json::to_string(&map).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// A memory table: `2x24GiB`, `0=22GiB,1=24GiB`.
fn table(py: Python<'_>, text: &str) -> PyResult<MemoryTable> {
    MemoryTable::parse(text).map_err(|error| errors::to_python(py, &error.into()))
}

/// The value that `word` stands for.
fn named<T: Copy>(option: &str, word: &str, choices: &[(&str, T)]) -> PyResult<T> {
    choices.iter().find(|(name, _)| *name == word).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("'{name}'")).collect();
        PyValueError::new_err(format!("{option} is one of {}, not '{word}'", names.join(", ")))
    })
}
