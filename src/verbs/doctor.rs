//! `doctor`: whether the Python environment, the devices and the disk serve a bundle.

use std::path::PathBuf;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeSeq as _};

use super::{Work, words};
use crate::bundle;
use crate::devices::Devices;
use crate::disk;
use crate::doctor::{self, DeviceMemory, FoundPackage, Problem};
use crate::error::{Error, PythonError, Result};
use crate::family::Family;
use crate::manifest::Manifest;
use crate::python::{self, Imports, Python};

/// Packages asked for where there is no bundle to name them.
pub const PACKAGES: [&str; 6] = ["transformers", "torch", "accelerate", "bitsandbytes", "tokenizers", "mgm"];

/// What `doctor` takes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DoctorCall {
    /// The bundle's folder; `None` asks what is here.
    #[serde(deserialize_with = "words::path_if_given")]
    pub bundle: Option<PathBuf>,
    /// The interpreter; `None` is that of `VIRTUAL_ENV`, or `python3`.
    #[serde(deserialize_with = "words::path_if_given")]
    pub python: Option<PathBuf>,
    /// Whether the packages are judged by their metadata alone.
    pub no_import: bool,
}

/// What was found. Serializes as what `--json` prints.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// The interpreter and what is installed for it.
    pub python: Python,
    /// The packages that the bundle needs.
    pub packages: Vec<FoundPackage>,
    /// Families of MGM whose packages are all there.
    pub families_served: Vec<String>,
    /// What the machine has.
    pub devices: Devices,
    /// The bundle's device map against free memory.
    pub memory: Vec<DeviceMemory>,
    /// Folders that fill up, with the bytes free there.
    #[serde(serialize_with = "disks_json")]
    pub disks: Vec<(PathBuf, u64)>,
    /// What would fail.
    pub findings: Vec<Problem>,
    /// What came of importing the bundle's packages; `None` where nothing was imported.
    pub imports: Option<Imports>,
    /// What is no fault and worth knowing.
    pub notes: Vec<String>,
    /// The manifest of the bundle.
    #[serde(skip)]
    pub manifest: Option<Manifest>,
}

fn disks_json<S: Serializer>(
    disks: &[(PathBuf, u64)],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Disk<'a> {
        path: &'a PathBuf,
        free: u64,
    }
    let mut list = serializer.serialize_seq(Some(disks.len()))?;
    for (path, free) in disks {
        list.serialize_element(&Disk { path, free: *free })?;
    }
    list.end()
}

/// Reads the environment and the machine, and compares them with the bundle. Imports its packages in a process of its own.
///
/// # Errors
/// [`crate::error::BundleError`] where there is no bundle, [`crate::error::PythonError`] where the interpreter does not
/// answer.
pub fn doctor(call: &DoctorCall, work: Work<'_>) -> Result<Diagnosis> {
    let manifest =
        call.bundle.as_deref().map(bundle::read_manifest).transpose()?.map(|(manifest, _)| manifest);
    let of_families = Family::all().iter().flat_map(|family| &family.requirements);
    let mut names: Vec<&str> = of_families.map(|need| need.package.as_str()).chain(PACKAGES).collect();
    names.extend(
        manifest.iter().flat_map(|manifest| &manifest.requirements).map(|need| need.package.as_str()),
    );
    names.sort_unstable();
    names.dedup();
    let stopped = |error: PythonError| match work.stop.requested() {
        true => Error::Interrupted { kept: false },
        false => error.into(),
    };
    let path = python::choose(call.python.as_deref(), work.variables);
    let python = Python::read(&path, names, work.stop).map_err(stopped)?;
    let devices = Devices::detect(work.variables);
    let mut findings: Vec<Problem> = Vec::new();
    let (mut packages, mut memory, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let mut imports = None;
    if let Some(manifest) = &manifest {
        let failures = |package: &str| doctor::known_failures(manifest, package);
        let (of_packages, found) = doctor::packages(&python, &manifest.requirements, failures);
        packages = of_packages;
        findings.extend(found);
        if !manifest.model.facts.is_null() {
            findings.extend(doctor::mgm(&python));
        }
        if let Some(dir) = &call.bundle {
            let (found, said) = doctor::folder_name(manifest, dir);
            findings.extend(found);
            notes = said;
        }
        let (found, said) = doctor::generations(manifest, &python, &devices);
        findings.extend(found);
        notes.extend(said);
        if let Some(dir) = call.bundle.as_deref().filter(|_| !call.no_import) {
            let modules = doctor::imports::modules(manifest, &python);
            let made = python.import(&modules, dir, work.stop).map_err(stopped)?;
            findings.extend(doctor::imports::failed(manifest, &python, &made));
            imports = Some(made);
        }
        findings.extend(doctor::imports::int8_without_gpu(manifest, &devices, imports.as_ref()));
        let (of_memory, found) = doctor::memory(manifest, &devices);
        memory = of_memory;
        findings.extend(found);
    }
    Ok(Diagnosis {
        packages,
        families_served: doctor::families_served(&python),
        python,
        devices,
        memory,
        disks: disks(call, work),
        findings: doctor::joined(findings),
        imports,
        notes,
        manifest,
    })
}

/// The bundle's folder, or the working directory and the hub's cache.
fn disks(call: &DoctorCall, work: Work<'_>) -> Vec<(PathBuf, u64)> {
    let places = match &call.bundle {
        Some(bundle) => vec![bundle.clone()],
        None => {
            let set =
                |name: &str| (work.variables)(name).filter(|value| !value.is_empty()).map(PathBuf::from);
            let home = || Some(set("HOME")?.join(".cache/huggingface"));
            [Some(PathBuf::from(".")), set("HF_HUB_CACHE").or_else(|| set("HF_HOME")).or_else(home)]
                .into_iter()
                .flatten()
                .collect()
        }
    };
    places.into_iter().filter_map(|path| disk::free(&path).ok().map(|free| (path, free))).collect()
}
