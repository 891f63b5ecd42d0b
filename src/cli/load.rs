//! `mgpack load`: a bundle brought onto its devices, one stage after the other.

use std::time::{Duration, Instant};

use mgpack::device_map::{MemoryTable, Profile};
use mgpack::devices::Devices;
use mgpack::error::LoadError;
use mgpack::load::{BundleLoader, LoadDevices, LoadOptions, LoadPlace, LoadStage, StageReport};
use mgpack::size::counted;
use mgpack::structure::Role;
use mgpack::{Bundle, Result, bundle};
use serde_json::{Value, json};

use super::args::LoadArgs;
use super::{STOP, Verdict, ui};

/// Sums over the stages.
#[derive(Default)]
struct StageTotals {
    read: u64,
    checked: u64,
    tensors: usize,
}

pub(super) fn run(args: &LoadArgs) -> Result<Verdict> {
    let bundle = Bundle::open(&args.bundle)?;
    // Loaded here it serves under any name.
    if let Some(misnamed) = bundle::misnamed(bundle.manifest(), &args.bundle) {
        let path = bundle::full_path(&args.bundle);
        ui::say(&format!("note: {}; {}", misnamed.note(), misnamed.mend(&path)));
    }
    let machine = Devices::detect(|name| std::env::var_os(name));
    let profile = choose(&bundle, args.profile, &machine.free_memory())?;
    let devices = devices(profile, &machine);
    let stages = upto(&bundle, args.until.as_deref())?;
    let options = LoadOptions { form: args.form.into(), verify: !args.no_verify, ..LoadOptions::default() };

    let bars = ui::Bars::new(args.talk.progress);
    let mut loader = BundleLoader::new(&bundle, profile, &devices, options);
    let (mut totals, mut reports) = (StageTotals::default(), Vec::new());
    let start = Instant::now();
    for stage in &stages {
        let report = loader.load(stage, &bars, &STOP)?;
        bars.end();
        totals.read += report.read;
        totals.checked += report.checked;
        totals.tensors += report.tensors;
        if args.talk.json {
            reports.push(stage_json(stage, &report, &devices, loader.used()));
        } else {
            let mut screen = ui::Screen::new();
            screen.line(&stage_text(stage, &report, devices.places(), loader.used()));
            screen.print();
        }
    }
    let time = start.elapsed();
    if args.talk.json {
        super::print_json(&json!({
            "bundle": bundle.manifest().model.name,
            "stages": reports,
            "tensors": totals.tensors,
            "read_bytes": totals.read,
            "checked_bytes": totals.checked,
            "seconds": time.as_secs_f64(),
            "bytes_per_second": rate(totals.read, time),
        }))?;
    } else {
        let mut screen = ui::Screen::new();
        screen.gap();
        screen.line(&summary(&bundle, &totals, time, stages.len()));
        screen.print();
    }
    Ok(Verdict::Good)
}

/// The profile asked for, or the first that the devices can take, or the first.
fn choose<'a>(bundle: &'a Bundle, number: Option<usize>, free: &MemoryTable) -> Result<&'a Profile> {
    let profiles = &bundle.manifest().device_maps;
    let chosen = match number {
        Some(number) => number.checked_sub(1).and_then(|at| profiles.get(at)),
        None => Profile::choose(profiles, free, None).or_else(|| profiles.first()),
    };
    Ok(chosen.ok_or(LoadError::NoProfile { number: number.unwrap_or(1), count: profiles.len() })?)
}

/// The GPUs where candle can use them, else host memory in their place.
fn devices(profile: &Profile, machine: &Devices) -> LoadDevices {
    if machine.gpu_memory().is_some() {
        match LoadDevices::accelerators(&machine.free_memory()) {
            Ok(devices) => return devices,
            Err(error) => ui::say(&format!(
                "note: the GPUs cannot be used ({error}): host memory is used in their place"
            )),
        }
    } else if profile.map.values().any(|device| device.gpu().is_some()) {
        ui::say("note: no GPU here: host memory is used in place of the devices of the map");
    }
    LoadDevices::host(profile, machine.host.map_or(u64::MAX, |host| host.free))
}

/// The stages, up to and with the one named.
fn upto<'a>(bundle: &'a Bundle, until: Option<&str>) -> Result<Vec<LoadStage<'a>>> {
    let mut stages = bundle.stages();
    if let Some(name) = until {
        let is_last = |stage: &LoadStage<'_>| Role::of_stage(name) == Some(stage.role);
        let Some(last) = stages.iter().position(is_last) else {
            let known = stages.iter().map(|stage| stage.role.stage_name().into_owned()).collect();
            return Err(LoadError::NoStage { stage: name.to_owned(), known }.into());
        };
        stages.truncate(last + 1);
    }
    Ok(stages)
}

fn stage_text(stage: &LoadStage<'_>, report: &StageReport, places: &[LoadPlace], used: &[u64]) -> String {
    let each = report.places.iter().filter_map(|&at| Some((places.get(at)?, *used.get(at)?)));
    let each: Vec<String> = each
        .map(|(place, used)| {
            let free = place.room.saturating_sub(used);
            format!("{} {} used, {} free", place.name, ui::bytes(used), ui::bytes(free))
        })
        .collect();
    format!(
        "{:<12} {:>12} {:>7.2} s  {}",
        stage.role.stage_name(),
        ui::bytes(report.placed),
        report.time.as_secs_f64(),
        each.join("; "),
    )
}

fn stage_json(stage: &LoadStage<'_>, report: &StageReport, devices: &LoadDevices, used: &[u64]) -> Value {
    let places: Vec<Value> = devices
        .places()
        .iter()
        .zip(used)
        .map(|(place, used)| json!({ "name": place.name, "used": used, "free": place.room.saturating_sub(*used) }))
        .collect();
    json!({
        "stage": stage.role.stage_name(),
        "tensors": report.tensors,
        "read_bytes": report.read,
        "checked_bytes": report.checked,
        "placed_bytes": report.placed,
        "seconds": report.time.as_secs_f64(),
        "places": places,
    })
}

fn summary(bundle: &Bundle, totals: &StageTotals, time: Duration, stages: usize) -> String {
    format!(
        "{}: {} in {}, {} in {:.2} s, {:.2} GB/s; {} checked against the seal",
        bundle.manifest().model.name,
        counted(totals.tensors, "tensor"),
        counted(stages, "stage"),
        ui::bytes(totals.read),
        time.as_secs_f64(),
        rate(totals.read, time) / 1e9,
        ui::bytes(totals.checked),
    )
}

/// Bytes a second.
fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64().max(1e-9)
}
