//! The doctor: whether an environment and a machine serve a bundle, and what mends it where they do not.
//!
//! Compares what [`crate::python`] and [`crate::devices`] read with a manifest. Starts and prints nothing. What importing
//! proves is [`imports`].

pub(crate) mod imports;

use std::path::Path;
use std::str::FromStr as _;

use pep440_rs::{Version, VersionSpecifiers};
use serde::Serialize;

use crate::bundle;
use crate::device::Device;
use crate::device_map::Profile;
use crate::devices::Devices;
use crate::environment::MGM;
use crate::family::{self, Failure, Family};
use crate::gpu_models;
use crate::manifest::{Manifest, RequiredPackage};
use crate::program::shell_word;
use crate::python::Python;
use crate::size::{counted, gib};

/// How pip is called, up to the first package.
const PIP: &str = " -m pip install '";

/// Something that would fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What is wrong, in one sentence.
    pub what: String,
    /// The exception it ends in and the call that raises it where that is known, and the reason.
    pub why: String,
    /// The command, or else the step, that mends it.
    pub help: String,
    /// The package that is wrong, where it is that it is not there at all.
    #[serde(skip)]
    pub absent: Option<String>,
}

/// One package, as wanted and as found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FoundPackage {
    /// Its name; `python` for the interpreter.
    pub package: String,
    /// The version found.
    pub found: Option<String>,
    /// The version pinned.
    pub pin: String,
    /// The range that works.
    pub range: String,
    /// Whether the version found is in that range.
    pub good: bool,
}

/// Memory of one device, as the map wants it and as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceMemory {
    /// The device.
    pub device: Device,
    /// Bytes the map takes there, reserve included.
    pub needed: u64,
    /// Bytes free there now; `None` where it is unknown.
    pub free: Option<u64>,
}

/// Every requirement against what is installed. `failures`: of a package, what is known of other versions.
pub fn packages<'a>(
    python: &Python,
    requirements: &[RequiredPackage],
    failures: impl Fn(&str) -> Vec<Failure> + 'a,
) -> (Vec<FoundPackage>, Vec<Problem>) {
    let mut findings = Vec::new();
    let mut packages = Vec::new();
    for RequiredPackage { package, pin, range, reason, .. } in requirements {
        let found = python.version_of(package);
        let stand_in = python.has_stand_in(package).then_some("a stand-in");
        let good = found.is_some_and(|found| contains(range, found)) || stand_in.is_some();
        if !good {
            let known = failures(package).into_iter().find(|failure| match (&failure.versions, found) {
                (Some(versions), Some(found)) => contains(versions, found),
                (None, None) => true,
                _ => false,
            });
            let what = match found {
                Some(found) => format!("{package} {found} does not serve this bundle: {range} does"),
                None => format!("{package} is not installed"),
            };
            let why = match known {
                Some(Failure { raises, call, .. }) => format!("`{call}` raises {raises}"),
                None => reason.to_string(),
            };
            let help = if package == "python" {
                format!("make an environment with Python {pin}: `mgpack env` writes it")
            } else {
                format!("{} -m pip install '{package}=={pin}'", python.path.display())
            };
            let absent = found.is_none().then(|| package.to_string());
            findings.push(Problem { what, why, help, absent });
        }
        packages.push(FoundPackage {
            package: package.to_string(),
            found: found.or(stand_in).map(str::to_owned),
            pin: pin.to_string(),
            range: range.to_string(),
            good,
        });
    }
    (packages, findings)
}

/// What is known of a package's other versions, from the facts in a manifest.
pub(crate) fn known_failures(manifest: &Manifest, package: &str) -> Vec<Failure> {
    let requirements = manifest.model.facts.get("requirements").and_then(serde_json::Value::as_array);
    let of_package = requirements.and_then(|list| list.iter().find(|entry| entry["package"] == package));
    // Facts of another version of mgpack may have another form: then the reason is shown.
    of_package.and_then(|entry| serde_json::from_value(entry["failures"].clone()).ok()).unwrap_or_default()
}

/// A finding where MGM itself is neither installed nor on PYTHONPATH.
pub(crate) fn mgm(python: &Python) -> Option<Problem> {
    (!python.has_mgm()).then(|| Problem {
        what: "mgm is neither installed nor on PYTHONPATH".to_owned(),
        why: "`from mgm.model.builder import load_pretrained_model` raises ModuleNotFoundError: No module named \
              'mgm', unless MGM's folder is the working directory"
            .to_owned(),
        help: format!("{} -m pip install --no-deps '{MGM}'", python.path.display()),
        absent: Some("mgm".to_owned()),
    })
}

/// What MGM's programs make of the folder's name: a finding where its loader picks another class than the bundle's, and
/// notes on what its command line takes from the path as it was typed.
pub(crate) fn folder_name(manifest: &Manifest, dir: &Path) -> (Option<Problem>, Vec<String>) {
    let mut notes = Vec::new();
    let path = bundle::full_path(dir);
    let misnamed = bundle::misnamed(manifest, dir);
    if misnamed.is_none() && bundle::misnamed_as_given(manifest, dir).is_some() {
        notes.push(format!(
            "MGM's command line takes the model's name from --model-path, and `{}` has none: give --model-path {}",
            dir.display(),
            shell_word(&path)
        ));
    }
    let name = family::name_from_path(&path);
    let template = manifest.model.facts["conversation"]["template"].as_str();
    if let Some(template) = template.filter(|template| *template != family::template_by_name(&name)) {
        notes.push(format!(
            "MGM's command line infers the template `{}` from the name `{name}`, and this model was trained with another: give --conv-mode {}",
            family::template_by_name(&name),
            shell_word(template),
        ));
    }
    let finding = misnamed.map(|misnamed| Problem {
        what: misnamed.what(),
        why: misnamed.consequence().to_owned(),
        help: misnamed.mend(&path),
        absent: None,
    });
    (finding, notes)
}

/// The findings with those of absent packages as one, first: an environment without anything lacks one thing, and one
/// line mends it.
pub(crate) fn joined(findings: Vec<Problem>) -> Vec<Problem> {
    let names: Vec<&str> = findings.iter().filter_map(|finding| finding.absent.as_deref()).collect();
    if names.len() < 2 {
        return findings;
    }
    let what = format!("{} are not installed: {}", counted(names.len(), "package"), names.join(", "));
    let (absent, others): (Vec<_>, Vec<_>) = findings.into_iter().partition(|one| one.absent.is_some());
    let mut lines: Vec<String> = Vec::new();
    for finding in &absent {
        // One call of pip for all that it takes the same way.
        let added = lines.last_mut().zip(finding.help.split_once(PIP)).filter(|(line, (python, _))| {
            line.strip_prefix(python).is_some_and(|line| line.starts_with(PIP))
        });
        match added {
            Some((line, (_, package))) => line.push_str(&format!(" '{package}")),
            None => lines.push(finding.help.clone()),
        }
    }
    let why = absent.first().map(|finding| finding.why.clone()).unwrap_or_default();
    let first = Problem { what, why, help: lines.join(" && "), absent: None };
    std::iter::once(first).chain(others).collect()
}

/// Whether the GPUs have kernels: a finding where the torch that loads an MGM bundle has none for one of them, and notes on
/// what vLLM has none for.
pub(crate) fn generations(
    manifest: &Manifest,
    python: &Python,
    devices: &Devices,
) -> (Vec<Problem>, Vec<String>) {
    let torch = manifest.requirements.iter().find(|need| need.package == "torch");
    let installed = python.version_of("torch").map(str::to_owned);
    let version = installed.or_else(|| torch.map(|need| need.pin.to_string()));
    let (mut findings, mut notes) = (Vec::new(), Vec::new());
    for capability in devices.capabilities() {
        if let Some(what) = version.as_deref().and_then(|torch| gpu_models::torch_notice(torch, capability)) {
            let range = torch.map(|need| need.range.as_str()).unwrap_or_default();
            let serves = |torch: &&str| {
                contains(range, torch) && gpu_models::torch_has_kernels(torch, capability) == Some(true)
            };
            let help = match ["2.3.1", "2.13.0"].iter().find(|torch| serves(torch)) {
                Some(torch) => {
                    format!("{} -m pip install 'torch=={torch}'", shell_word(&python.path.to_string_lossy()))
                }
                None => "load it on another GPU: no torch that serves this bundle has them".to_owned(),
            };
            let why = "the first kernel ends in CUDA error: no kernel image is available for execution on the device".to_owned();
            findings.push(Problem { what, why, help, absent: None });
        }
        notes.extend(gpu_models::scheme_notice(manifest.scheme.name, capability));
    }
    (findings, notes)
}

/// The families whose packages are all installed in a version that works.
pub(crate) fn families_served(python: &Python) -> Vec<String> {
    let serves = |family: &&Family| {
        let mut all = family.requirements.iter();
        all.all(|need| {
            python.has_stand_in(&need.package)
                || python.version_of(&need.package).is_some_and(|found| contains(&need.range, found))
        })
    };
    Family::all().iter().filter(serves).map(|family| family.name.to_string()).collect()
}

/// The map of a bundle against the memory that is free: of its profiles the first that fits, or the first. Without
/// a GPU there is nothing to compare.
pub(crate) fn memory(manifest: &Manifest, devices: &Devices) -> (Vec<DeviceMemory>, Vec<Problem>) {
    let profiles = &manifest.device_maps;
    let fitting = Profile::choose(profiles, &devices.free_memory(), None);
    let used = fitting.or_else(|| profiles.first()).into_iter().flat_map(|profile| &profile.used);
    let mut rooms = Vec::new();
    let mut findings = Vec::new();
    for (&device, used) in used {
        let needed = used.total();
        let gpu = device.gpu().and_then(|index| devices.gpus.iter().find(|gpu| gpu.index == index));
        let free = match device {
            Device::Gpu(_) => gpu.and_then(|gpu| gpu.memory).map(|memory| memory.free),
            _ => devices.host.map(|memory| memory.free),
        };
        let absent = device.gpu().is_some() && gpu.is_none() && !devices.gpus.is_empty();
        if needed > 0 && (absent || free.is_some_and(|free| free < needed)) {
            let what = match free {
                Some(free) => format!("{device} has {} free, and the map takes {}", gib(free), gib(needed)),
                None => format!("the map uses {device}, which is not here"),
            };
            findings.push(Problem {
                what,
                why: "loading ends in an out-of-memory or invalid-device error of CUDA".to_owned(),
                help: "free the memory; `mgpack map BUNDLE --gpus auto` plans for what is free".to_owned(),
                absent: None,
            });
        }
        rooms.push(DeviceMemory { device, needed, free });
    }
    (rooms, findings)
}

/// True where `version` is in `range`, both by PEP 440; a text that is neither is in no range.
fn contains(range: &str, version: &str) -> bool {
    match (VersionSpecifiers::from_str(range), Version::from_str(version)) {
        (Ok(range), Ok(version)) => range.contains(&version),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_packages_are_one_finding_with_one_line() {
        let finding = |name: &str, help: &str, is_absent: bool| Problem {
            what: format!("{name} is wrong"),
            why: format!("why {name}"),
            help: help.to_owned(),
            absent: is_absent.then(|| name.to_owned()),
        };
        let findings = vec![
            finding("python", "another", false),
            finding("torch", "p -m pip install 'torch==2.0.1'", true),
            finding("timm", "p -m pip install 'timm==0.9.16'", true),
            finding("mgm", "p -m pip install --no-deps 'git+x'", true),
        ];
        let joined = joined(findings.clone());
        assert_eq!(joined.len(), 2);
        assert_eq!(joined[0].what, "3 packages are not installed: torch, timm, mgm");
        assert_eq!(joined[0].why, "why torch");
        let line = "p -m pip install 'torch==2.0.1' 'timm==0.9.16' && p -m pip install --no-deps 'git+x'";
        assert_eq!(joined[0].help, line);
        assert_eq!(joined[1], findings[0]);
        assert_eq!(super::joined(findings[..2].to_vec()), findings[..2], "one alone stays as it is");
    }

    #[test]
    fn ranges_are_those_of_pep_440() {
        assert!(contains(">=2.0.1,<=2.5.1", "2.5.1+cu121"), "a local label is not compared");
        assert!(contains("<0.20", "0.19.1") && !contains("<0.20", "0.20.0"));
        assert!(contains(">=4.38", "4.38.0") && !contains("<4.38", "4.38.0"));
        assert!(contains(">=3.10,<3.12", "3.11.7") && !contains(">=3.10,<3.12", "3.12.1"));
        assert!(!contains(">=1", "not a version"));
    }
}
