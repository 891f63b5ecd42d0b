//! `mgpack doctor`.

use std::path::PathBuf;
use std::process::ExitCode;

use mgpack::devices::Devices;
use mgpack::doctor::{self, Finding, Package, Room};
use mgpack::python::{self, Python};
use mgpack::{Result, bundle};
use serde_json::json;

use super::args::DoctorArgs;
use super::ui;

/// Packages shown where there is no bundle to ask for them.
const PACKAGES: [&str; 6] = ["transformers", "torch", "accelerate", "bitsandbytes", "tokenizers", "mgm"];

pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let var = |name: &str| std::env::var_os(name);
    let manifest =
        args.bundle.as_deref().map(bundle::read_manifest).transpose()?.map(|(manifest, _)| manifest);
    let of_families = mgpack::family::Family::all().iter().flat_map(|family| &family.requirements);
    let mut names: Vec<&str> = of_families.map(|need| need.package.as_str()).chain(PACKAGES).collect();
    names.extend(
        manifest.iter().flat_map(|manifest| &manifest.requirements).map(|need| need.package.as_str()),
    );
    names.sort_unstable();
    names.dedup();
    let python = Python::read(&python::choose(args.python.as_deref(), var), names)?;
    let devices = Devices::detect(var);
    let mut findings: Vec<Finding> = Vec::new();
    let (mut packages, mut rooms, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(manifest) = &manifest {
        let failures = |package: &str| doctor::known_failures(manifest, package);
        let (of_packages, found) = doctor::packages(&python, &manifest.requirements, failures);
        packages = of_packages;
        findings.extend(found);
        if !manifest.model.facts.is_null() {
            findings.extend(doctor::mgm(&python));
        }
        if let Some(dir) = &args.bundle {
            let (found, said) = doctor::folder_name(manifest, dir);
            findings.extend(found);
            notes = said;
        }
        let (of_memory, found) = doctor::memory(manifest, &devices);
        rooms = of_memory;
        findings.extend(found);
    }
    let served = doctor::families_served(&python);
    let disks = disks(args);
    if args.json {
        super::print_json(&json!({
            "python": python, "packages": packages, "families_served": served, "devices": devices,
            "memory": rooms,
            "disks": disks.iter().map(|(path, free)| json!({ "path": path, "free": free })).collect::<Vec<_>>(),
            "findings": findings,
            "notes": notes,
        }))?;
    } else {
        let mut text = format!("python {}  {}\n\n", python.version, python.path.display());
        text.push_str(&packages_text(&python, &packages));
        // What serves MGM's families is no question to a bundle that is none.
        if manifest.as_ref().is_none_or(|manifest| !manifest.model.facts.is_null()) {
            let served = if served.is_empty() { "no MGM family".to_owned() } else { served.join(", ") };
            text.push_str(&format!("serves {served}\n"));
        }
        text.push_str(&format!("\n{}\n", devices_text(&devices, &rooms)));
        for (path, free) in &disks {
            text.push_str(&format!("disk {}  {} free\n", path.display(), ui::bytes(*free)));
        }
        for note in &notes {
            text.push_str(&format!("note: {note}\n"));
        }
        for Finding { what, why, help } in &findings {
            text.push_str(&format!("\nfinding: {what}\n    why: {why}\n   help: {help}\n"));
        }
        ui::print(&text);
    }
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn packages_text(python: &Python, packages: &[Package]) -> String {
    if packages.is_empty() {
        let rows = PACKAGES.iter().map(|name| {
            vec![(*name).to_owned(), python.version_of(name).unwrap_or("not installed").to_owned()]
        });
        return ui::table(&["package", "installed"], &[], rows);
    }
    let rows = packages.iter().map(|package| {
        vec![
            package.package.clone(),
            package.found.clone().unwrap_or_else(|| "not installed".to_owned()),
            package.pin.clone(),
            package.range.clone(),
            if package.good { "good" } else { "does not serve" }.to_owned(),
        ]
    });
    ui::table(&["package", "installed", "pin", "works", ""], &[], rows)
}

fn devices_text(devices: &Devices, rooms: &[Room]) -> String {
    let known = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), ui::bytes);
    let needed = |device: &str| {
        let room = rooms.iter().find(|room| room.device.to_string() == device);
        room.map(|room| ui::bytes(room.needed)).unwrap_or_default()
    };
    let gpus = devices.gpus.iter().map(|gpu| {
        let device = format!("gpu {}", gpu.index);
        let (free, total) = (gpu.memory.map(|memory| memory.free), gpu.memory.map(|memory| memory.total));
        let name = gpu.name.clone().unwrap_or_default();
        vec![device.clone(), name, known(free), known(total), needed(&device)]
    });
    let host = devices.host.map(|memory| {
        vec!["cpu".into(), "host".into(), ui::bytes(memory.free), ui::bytes(memory.total), needed("cpu")]
    });
    let mut text = ui::table(&["device", "name", "free", "total", "map takes"], &[2, 3, 4], gpus.chain(host));
    for note in devices.notes.iter().cloned().chain(devices.without_gpu()) {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

/// The folders that fill up, with the bytes free there: the bundle's, or the working directory and the hub's cache.
fn disks(args: &DoctorArgs) -> Vec<(PathBuf, u64)> {
    let places = match &args.bundle {
        Some(bundle) => vec![bundle.clone()],
        None => {
            let set =
                |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
            let home = || Some(set("HOME")?.join(".cache/huggingface"));
            [Some(PathBuf::from(".")), set("HF_HUB_CACHE").or_else(|| set("HF_HOME")).or_else(home)]
                .into_iter()
                .flatten()
                .collect()
        }
    };
    places.into_iter().filter_map(|path| mgpack::disk::free(&path).ok().map(|free| (path, free))).collect()
}
