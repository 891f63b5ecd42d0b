//! `mgpack doctor`.

use mgpack::Result;
use mgpack::devices::Devices;
use mgpack::doctor::{DeviceMemory, FoundPackage, Problem};
use mgpack::python::Python;
use mgpack::verbs::doctor::{self, Diagnosis, DoctorCall, PACKAGES};

use super::args::DoctorArgs;
use super::ui::{Cell, Table, Tone};
use super::{Verdict, ui, work};

pub(super) fn run(args: &DoctorArgs) -> Result<Verdict> {
    let DoctorArgs { bundle, python, no_import, json } = args;
    let call = DoctorCall { bundle: bundle.clone(), python: python.clone(), no_import: *no_import };
    let found = doctor::doctor(&call, work(&ui::Notes))?;
    if *json {
        super::print_json(&found)?;
    } else {
        show(&found);
    }
    Ok(if found.findings.is_empty() { Verdict::Good } else { Verdict::Findings })
}

fn show(found: &Diagnosis) {
    let Diagnosis {
        python,
        packages,
        families_served: served,
        devices,
        memory,
        disks,
        findings,
        notes,
        manifest,
        ..
    } = found;
    let mut screen = ui::Screen::new();
    screen.line(&format!("python {}  {}", python.version, python.path.display()));
    screen.gap();
    screen.table(&packages_table(python, packages));
    // What serves MGM's families is no question to a bundle that is none.
    if manifest.as_ref().is_none_or(|manifest| !manifest.model.facts.is_null()) {
        let served = if served.is_empty() { "no MGM family".to_owned() } else { served.join(", ") };
        screen.line(&format!("serves {served}"));
    }
    screen.gap();
    screen.table(&devices_table(devices, memory));
    for note in devices.notes.iter().cloned().chain(devices.without_gpu()) {
        screen.labelled(Tone::Doubtful, "note", &note);
    }
    screen.gap();
    for (path, free) in disks {
        screen.line(&format!("disk {}  {} free", path.display(), ui::bytes(*free)));
    }
    for note in notes {
        screen.labelled(Tone::Doubtful, "note", note);
    }
    for Problem { what, why, help, .. } in findings {
        screen.gap();
        screen.labelled(Tone::Bad, "finding", what);
        screen.labelled(Tone::Label, "    why", why);
        // A command is alone on its line, without backticks.
        if help.contains('`') {
            screen.labelled(Tone::Label, "   help", help);
        } else {
            screen.command(Some("   help"), help);
        }
    }
    screen.print();
}

fn packages_table<'a>(python: &'a Python, packages: &'a [FoundPackage]) -> Table<'a> {
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

fn devices_table(devices: &Devices, rooms: &[DeviceMemory]) -> Table<'static> {
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
