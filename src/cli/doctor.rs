//! `mgpack doctor`.

use std::path::PathBuf;

use mgpack::devices::Devices;
use mgpack::doctor::{self, Finding, Package, Room};
use mgpack::python::{self, Python};
use mgpack::{Result, bundle};
use serde_json::json;

use super::args::DoctorArgs;
use super::ui::{Cell, Table, Tone};
use super::{Verdict, ui};

/// Packages shown where there is no bundle to ask for them.
const PACKAGES: [&str; 6] = ["transformers", "torch", "accelerate", "bitsandbytes", "tokenizers", "mgm"];

pub(super) fn run(args: &DoctorArgs) -> Result<Verdict> {
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
    let mut imports = None;
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
        let (found, said) = doctor::generations(manifest, &python, &devices);
        findings.extend(found);
        notes.extend(said);
        if let Some(dir) = args.bundle.as_deref().filter(|_| !args.no_import) {
            let made = python.import(&doctor::imports::modules(manifest, &python), dir)?;
            findings.extend(doctor::imports::failed(manifest, &python, &made));
            imports = Some(made);
        }
        findings.extend(doctor::imports::int8_without_gpu(manifest, &devices, imports.as_ref()));
        let (of_memory, found) = doctor::memory(manifest, &devices);
        rooms = of_memory;
        findings.extend(found);
    }
    let findings = doctor::joined(findings);
    let served = doctor::families_served(&python);
    let disks = disks(args);
    if args.json {
        super::print_json(&json!({
            "python": python, "packages": packages, "families_served": served, "devices": devices,
            "memory": rooms,
            "disks": disks.iter().map(|(path, free)| json!({ "path": path, "free": free })).collect::<Vec<_>>(),
            "findings": findings,
            "imports": imports,
            "notes": notes,
        }))?;
    } else {
        let mut screen = ui::Screen::new();
        screen.line(&format!("python {}  {}", python.version, python.path.display()));
        screen.gap();
        screen.table(&packages_table(&python, &packages));
        // What serves MGM's families is no question to a bundle that is none.
        if manifest.as_ref().is_none_or(|manifest| !manifest.model.facts.is_null()) {
            let served = if served.is_empty() { "no MGM family".to_owned() } else { served.join(", ") };
            screen.line(&format!("serves {served}"));
        }
        screen.gap();
        screen.table(&devices_table(&devices, &rooms));
        for note in devices.notes.iter().cloned().chain(devices.without_gpu()) {
            screen.labelled(Tone::Doubtful, "note", &note);
        }
        screen.gap();
        for (path, free) in &disks {
            screen.line(&format!("disk {}  {} free", path.display(), ui::bytes(*free)));
        }
        for note in &notes {
            screen.labelled(Tone::Doubtful, "note", note);
        }
        for Finding { what, why, help, .. } in &findings {
            screen.gap();
            screen.labelled(Tone::Bad, "finding", what);
            screen.labelled(Tone::Label, "    why", why);
            // A command stands alone, without backticks.
            if help.contains('`') {
                screen.labelled(Tone::Label, "   help", help);
            } else {
                screen.command(Some("   help"), help);
            }
        }
        screen.print();
    }
    Ok(if findings.is_empty() { Verdict::Good } else { Verdict::Findings })
}

fn packages_table<'a>(python: &'a Python, packages: &'a [Package]) -> Table<'a> {
    if packages.is_empty() {
        let rows = PACKAGES.iter().map(|name| {
            let version = python.version_of(name);
            vec![(*name).into(), version.unwrap_or("not installed").into()]
        });
        return Table::new(&["package", "installed"]).with_rows(rows);
    }
    let rows = packages.iter().map(|package| {
        vec![
            package.package.as_str().into(),
            package.found.as_deref().unwrap_or("not installed").into(),
            package.pin.as_str().into(),
            package.range.as_str().into(),
            match package.good {
                true => Cell::Toned(Tone::Good, "good".to_owned()),
                false => Cell::Toned(Tone::Bad, "does not serve".to_owned()),
            },
        ]
    });
    Table::new(&["package", "installed", "pin", "works", ""]).with_rows(rows)
}

fn devices_table(devices: &Devices, rooms: &[Room]) -> Table<'static> {
    let known = |bytes: Option<u64>| bytes.map_or_else(|| Cell::Number("unknown".to_owned()), Cell::Size);
    let needed = |device: &str| {
        let room = rooms.iter().find(|room| room.device.to_string() == device);
        room.map_or(Cell::None, |room| Cell::Size(room.needed))
    };
    let gpus = devices.gpus.iter().map(|gpu| {
        let device = format!("gpu {}", gpu.index);
        let (free, total) = (gpu.memory.map(|memory| memory.free), gpu.memory.map(|memory| memory.total));
        let name = gpu.name.as_deref().unwrap_or_default();
        vec![device.as_str().into(), name.into(), known(free), known(total), needed(&device)]
    });
    let host = devices.host.map(|memory| {
        vec!["cpu".into(), "host".into(), Cell::Size(memory.free), Cell::Size(memory.total), needed("cpu")]
    });
    let header = ["device", "name", "free", "total", "map takes"];
    Table::new(&header).with_one_unit().with_rows(gpus.chain(host).collect::<Vec<_>>())
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
