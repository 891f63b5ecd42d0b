//! `mgpack._mgpack`: what the Python package cannot do by itself.
//!
//! Thin: arguments in, JSON or a path out. What a bundle means to Python, how it is loaded and which classes of
//! errors there are is written in Python, in `python/mgpack`. Long work runs off the interpreter (see `work`).

mod errors;
mod mention;
mod work;

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use indexmap::IndexMap;
use mgpack::Result;
use mgpack::error::DeviceMapError;
use mgpack::internals::bundle;
use mgpack::internals::device::{Device, MAX_DEVICES};
use mgpack::internals::device_map::{self, Attention, MemoryTable};
use mgpack::internals::devices;
use mgpack::internals::doctor;
use mgpack::internals::manifest::RequiredPackage;
use mgpack::internals::map::{Model, Workload};
use mgpack::internals::python::Python as Interpreter;
use mgpack::internals::subject;
use mgpack::verbs::convert::ConvertCall;
use mgpack::verbs::inspect::Inspected;
use mgpack::verbs::pull::PullCall;
use mgpack::verbs::report::Pages;
use mgpack::verbs::verify::{Depth, VerifyCall};
use mgpack::verbs::{self, Work, words};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use work::{Listeners, Teller};

/// The functions of `mgpack._mgpack`; `_mgpack.pyi` describes them for type checkers.
#[pymodule]
mod _mgpack {
    #[pymodule_export]
    use super::{
        are_served, class_of, convert_checkpoint, host_memory, parse_memory_table, parse_size, place,
        read_manifest, run_command, run_verb, selected_attention, verify_bundle,
    };

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        use pyo3::types::PyModuleMethods as _;
        module.add("MAX_DEVICES", super::MAX_DEVICES)?;
        let sets = mgpack::Isa::all().into_iter().map(mgpack::Isa::name);
        module.add("SCHEMES", mgpack::internals::plan::Precision::words())?;
        module.add("INSTRUCTION_SETS", sets.collect::<Vec<_>>())?;
        module.add("TOKENIZER_FILES", super::subject::TOKENIZER_FILES.to_vec())?;
        module.add("PROCESSOR_FILES", super::subject::PROCESSOR_FILES.to_vec())?;
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
    match subject::class_of(&config, |path| files.contains(path)) {
        Ok(class) => serde_json::to_string(&class),
        Err(why) => serde_json::to_string(&why),
    }
    .map_err(invalid)
}

/// Checks a bundle, a folder or a tar, and returns the report as JSON. Not `full`: sizes, headers and the manifest, and in
/// a folder every byte of small files.
#[pyfunction]
#[pyo3(signature = (bundle, full, id=None, threads=None, progress=None))]
fn verify_bundle(
    py: Python<'_>,
    bundle: PathBuf,
    full: bool,
    id: Option<&str>,
    threads: Option<usize>,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let not_an_id = || PyValueError::new_err("an id is sha256: and 64 lower-case hex digits");
    let id = id.map(|text| words::id(text).ok_or_else(not_an_id)).transpose()?;
    let depth = if full { Depth::Full } else { Depth::Small };
    let call = VerifyCall { bundle, depth, id, threads };
    let listeners = Listeners { progress: progress.as_ref(), notice: None };
    let report =
        work::run(py, listeners, move |teller, stop| verbs::verify::verify(&call, Work::new(teller, stop)))?;
    serde_json::to_string(&report).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Bytes by device, as `mgpack.arguments` reads them: `0`, `1`, …, `cpu`.
type Sizes = IndexMap<String, u64>;

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

/// Converts a checkpoint into a bundle and returns the bundle's path. `call`: a `ConvertCall` as JSON.
#[pyfunction]
#[pyo3(signature = (call, notice, progress=None))]
fn convert_checkpoint(
    py: Python<'_>,
    call: &str,
    notice: Py<PyAny>,
    progress: Option<Py<PyAny>>,
) -> PyResult<PathBuf> {
    let call: ConvertCall = parsed(call)?;
    let listeners = Listeners { progress: progress.as_ref(), notice: Some(&notice) };
    work::run(py, listeners, move |teller, stop| {
        let path = verbs::convert::convert(&call, Work::new(teller, stop))?.outcome.path;
        // One that was not given holds wherever the caller goes.
        Ok(if call.output.is_none() { std::path::absolute(&path).unwrap_or(path) } else { path })
    })
}

/// Does what a verb does. `call`: its call as JSON. Returns what the command prints with `--json`; of `inspect` null for a
/// bundle, which is read by opening it.
#[pyfunction]
#[pyo3(signature = (verb, call, notice, progress=None))]
fn run_verb(
    py: Python<'_>,
    verb: &str,
    call: &str,
    notice: Py<PyAny>,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let listeners = Listeners { progress: progress.as_ref(), notice: Some(&notice) };
    match verb {
        "plan" => {
            let call = parsed(call)?;
            carried_out(py, listeners, move |work, _| {
                Ok(verbs::convert::plan_json(&verbs::convert::plan(&call, work)?))
            })
        }
        "map" => {
            let call = parsed(call)?;
            carried_out(py, listeners, move |work, _| verbs::map::map(&call, work))
        }
        "pull" => {
            let (call, is_dry): (PullCall, bool) = parsed(call)?;
            carried_out(py, listeners, move |work, _| {
                let planned = if is_dry { verbs::pull::preview(&call, work)? } else { None };
                let pulled = if planned.is_none() { Some(verbs::pull::pull(&call, work)?) } else { None };
                Ok(json!({ "planned": planned, "pulled": pulled }))
            })
        }
        "doctor" => {
            let call = parsed(call)?;
            carried_out(py, listeners, move |work, _| verbs::doctor::doctor(&call, work))
        }
        "report" => {
            let (call, pages): (_, Pages) = parsed(call)?;
            carried_out(py, listeners, move |work, _| {
                let compared = verbs::report::report(&call, work)?;
                compared.write(&pages, work)?;
                Ok(compared.report)
            })
        }
        "inspect" => {
            let call = parsed(call)?;
            carried_out(py, listeners, move |work, teller| {
                let found = verbs::inspect::inspect(&call, work)?;
                let Inspected::Checkpoint(checkpoint) = &found else { return Ok(None) };
                checkpoint.notices().iter().for_each(|notice| teller.say(notice.to_string()));
                Ok(Some(found))
            })
        }
        "release" => {
            let call = parsed(call)?;
            carried_out(py, listeners, move |work, _| verbs::release::release(&call, work))
        }
        _ => Err(PyValueError::new_err(format!("mgpack has no verb {verb}"))),
    }
}

/// A call from its JSON.
fn parsed<T: DeserializeOwned>(call: &str) -> PyResult<T> {
    // By way of a value: errors then name no line and column.
    let value: serde_json::Result<Value> = serde_json::from_str(call);
    value.and_then(serde_json::from_value).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// The JSON of what `verb` returns.
fn carried_out<T: Serialize>(
    py: Python<'_>,
    listeners: Listeners<'_>,
    verb: impl FnOnce(Work<'_>, &Teller<'_>) -> Result<T> + Send,
) -> PyResult<String> {
    let json = work::run(py, listeners, move |teller, stop| {
        Ok(serde_json::to_string(&verb(Work::new(teller, stop), teller)?))
    })?;
    json.map_err(|error| PyValueError::new_err(error.to_string()))
}

/// The device map of a bundle for GPUs with these bytes free and a host with `host` bytes, as JSON: one of its own, or one
/// planned anew. What is None is as in the bundle's first map.
#[pyfunction]
#[pyo3(signature = (bundle, gpus, host, *, context, batch, reserve, allow_cpu, attention))]
#[expect(clippy::too_many_arguments, reason = "one for each option of `mgpack map`, by keyword only")]
fn place(
    py: Python<'_>,
    bundle: PathBuf,
    gpus: Sizes,
    host: Option<u64>,
    context: Option<u64>,
    batch: Option<u64>,
    reserve: Option<u64>,
    allow_cpu: Option<u64>,
    attention: Option<&str>,
) -> PyResult<String> {
    let mut sizes = gpus;
    sizes.extend(host.map(|free| ("cpu".to_owned(), free)));
    let free = memory_table(&sizes)?;
    let attention = attention.map(named_attention).transpose()?;
    let asked = Workload { context, batch, reserve, allow_cpu, attention };
    let placed = py.detach(|| Model::of_bundle(&bundle)?.place(&free, &asked));
    let profile = placed.map_err(|error| errors::to_python(py, &error))?;
    serde_json::to_string(&profile.map).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn named_attention(word: &str) -> PyResult<Attention> {
    serde_json::from_value(word.into()).map_err(|error| PyValueError::new_err(format!("attention: {error}")))
}

/// Free bytes of host memory, within the limits of this process's control groups; None where the system does not say.
#[pyfunction]
fn host_memory() -> Option<u64> {
    devices::host_memory().map(|memory| memory.free)
}

/// The attention that transformers 4 selects for MGM with this version of torch.
#[pyfunction]
fn selected_attention(torch: &str) -> String {
    Attention::selected_by(torch).to_string()
}

/// For each requirement, whether what is installed serves it. `requirements`: those of a manifest, as JSON. `installed`:
/// version by package, `python` for the interpreter. `bare`: packages of which a module without a version is there.
#[pyfunction]
fn are_served(
    requirements: &str,
    mut installed: BTreeMap<String, String>,
    bare: Vec<String>,
) -> PyResult<Vec<bool>> {
    let requirements: Vec<RequiredPackage> = parsed(requirements)?;
    let version = installed.remove("python").unwrap_or_default();
    let python = Interpreter { path: PathBuf::new(), version, packages: installed, bare };
    let (packages, _) = doctor::packages(&python, &requirements, |_| Vec::new());
    Ok(packages.into_iter().map(|package| package.good).collect())
}
