//! What importing shows that package metadata does not: packages that are there and fail, and whether torch sees a GPU.

use super::Problem;
use crate::devices::Devices;
use crate::manifest::Manifest;
use crate::python::{Imports, Python};
use crate::scheme::Layout;

/// Module of MGM's own loader, which is all that its users call.
const MGM_LOADER: &str = "mgm.model.builder";

/// The modules that a bundle's client is made of, in the order in which they are imported. Those that are not installed are
/// left out: that is a finding already. MGM comes last, and only where it has all that it imports.
pub(crate) fn modules(manifest: &Manifest, python: &Python) -> Vec<String> {
    let packages =
        manifest.requirements.iter().map(|need| need.package.as_str()).filter(|name| *name != "python");
    let (there, absent): (Vec<&str>, Vec<&str>) =
        packages.partition(|package| python.version_of(package).is_some() || python.has_stand_in(package));
    let mut modules: Vec<String> = there.into_iter().map(module_of).collect();
    if !manifest.model.facts.is_null() && absent.is_empty() && python.has_mgm() {
        modules.push(MGM_LOADER.to_owned());
        // `mgm.model` goes on without the classes that do not import.
        if let Some(class) = &manifest.model.architecture {
            modules.push(format!("mgm.model:{class}"));
        }
    }
    modules
}

/// The name under which a package is imported.
fn module_of(package: &str) -> String {
    match package {
        "open_clip_torch" => "open_clip".to_owned(),
        other => other.replace('-', "_"),
    }
}

/// One finding for each reason for which modules do not import, with the modules that share it.
pub(crate) fn failed(manifest: &Manifest, python: &Python, imports: &Imports) -> Vec<Problem> {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for (module, raised) in &imports.failed {
        // A chain of imports ends in one cause, in the last line; each link says so in words of its own.
        let cause = raised.lines().last().unwrap_or(raised).trim_start_matches("ModuleNotFoundError: ");
        match reasons.iter_mut().find(|(known, _)| known.ends_with(cause) || cause.ends_with(*known)) {
            Some((_, modules)) => modules.push(module),
            None => reasons.push((raised.lines().last().unwrap_or(raised), vec![module])),
        }
    }
    let finding = |(cause, modules): (&str, Vec<&str>)| {
        let first = modules.first().copied().unwrap_or_default();
        let what = match modules.as_slice() {
            [one] => format!("{one} is installed and does not import"),
            many => format!("{} are installed and do not import", many.join(", ")),
        };
        let missing = cause.split_once("No module named '").and_then(|(_, rest)| rest.split('\'').next());
        let package = missing.and_then(|name| name.split('.').next()).unwrap_or(first);
        let need = manifest.requirements.iter().find(|need| module_of(&need.package) == package);
        let wanted = match need {
            Some(need) => format!("'{}=={}'", need.package, need.pin),
            None if missing.is_some() => format!("'{package}'"),
            None => "-r requirements.txt".to_owned(),
        };
        let again = if missing.is_some() { "" } else { "--force-reinstall " };
        Problem {
            what,
            why: format!("`import {}` raises {cause}", first.replace(':', "; ")),
            help: format!("{} -m pip install {again}{wanted}", python.path.display()),
            absent: None,
        }
    };
    reasons.into_iter().map(finding).collect()
}

/// A finding where an int8 bundle of MGM meets no GPU: the versions of transformers that run MGM use bitsandbytes with
/// CUDA only, and `mgpack.load` refuses it likewise. `imports`: what torch says, where it was asked.
pub(crate) fn int8_without_gpu(
    manifest: &Manifest,
    devices: &Devices,
    imports: Option<&Imports>,
) -> Option<Problem> {
    let is_int8 = !manifest.model.facts.is_null() && manifest.scheme.name.layout() == Some(Layout::Bnb);
    let seen = imports.and_then(|imports| imports.cuda);
    let is_there = seen.unwrap_or(!devices.gpus.is_empty());
    (is_int8 && !is_there).then(|| Problem {
        what: if devices.gpus.is_empty() {
            "an int8 bundle of MGM loads on a GPU only, and there is none here".to_owned()
        } else {
            "an int8 bundle of MGM loads on a GPU only, and torch sees none here".to_owned()
        },
        why: "`load_pretrained_model` raises RuntimeError: No GPU found. A GPU is needed for quantization."
            .to_owned(),
        help: "load it on a machine with a GPU; for one without, make a bundle with `mgpack convert --fp16`"
            .to_owned(),
        absent: None,
    })
}
