//! `mgpack map`, and how device maps are shown everywhere.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use mgpack::device_map::{ACCELERATE, BrokenRule, Device, Profile};
use mgpack::locate::Places;
use mgpack::map::{Model, Planned, Planner};
use mgpack::modules::MapRequest;
use mgpack::{Result, drawing};
use serde_json::json;

use super::args::{Gpus, MapArgs, MapRequestArgs};
use super::ui;
use super::write::Writer;

/// Cells of a bar.
const BAR_WIDTH: usize = 40;

pub(super) fn run(args: &MapArgs) -> Result<ExitCode> {
    let mut places = Places::from_env(|name| std::env::var_os(name));
    places.revision.clone_from(&args.revision);
    let storage = args.storage.is_given().then(|| args.storage.chosen());
    let model = Model::find(&args.model, storage.as_ref(), &places)?;
    let request = request(&args.map);
    let planner = Planner::from(args.planner);
    let recorded = request.memory.is_empty() && planner == Planner::Mgm && !model.profiles.is_empty();
    let planned = if recorded {
        let recorded = model.profiles.iter().cloned();
        recorded.map(|profile| Planned { profile, broken: Vec::new() }).collect()
    } else {
        model.map(planner, &request)?
    };
    if let (Some(file), Some(first)) = (&args.svg, planned.first()) {
        let drawing = drawing::memory_bars(&first.profile, &title(&model.name, &first.profile));
        let path = Path::new(&args.model);
        let inputs = if path.exists() { &[path][..] } else { &[] };
        Writer { inputs, force: args.force }.markup(file, &drawing)?;
    }
    if args.json {
        let maps: Vec<_> =
            planned.iter().map(|one| json!({ "profile": one.profile, "broken_rules": one.broken })).collect();
        super::print_json(&json!({ "model": model.name, "recorded": recorded, "maps": maps }))?;
    } else {
        ui::print(&planned_text(&model.name, &planned, args.why));
    }
    let is_good = planned.iter().all(|one| one.broken.is_empty());
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The request of the command line; `auto` asks this machine.
pub(super) fn request(args: &MapRequestArgs) -> MapRequest {
    let table = |gpus: &Gpus| match gpus {
        Gpus::Table(table) => Some(table.clone()),
        Gpus::Auto => super::devices::table(),
    };
    MapRequest {
        memory: args.gpus.iter().filter_map(table).collect(),
        context: args.context,
        batch: args.batch,
        reserve: args.reserve.0,
        allow_cpu: args.allow_cpu.map(|size| size.0),
    }
}

fn title(name: &str, profile: &Profile) -> String {
    if profile.memory.given { format!("{name} by {}", profile.planner.name) } else { name.to_owned() }
}

fn planned_text(name: &str, planned: &[Planned], why: bool) -> String {
    let mut text = String::new();
    for (at, Planned { profile, broken }) in planned.iter().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        text.push_str(&format!("{}\n\n{}", title(name, profile), profile_text(profile)));
        if why {
            text.push_str(&format!("\n{}", why_text(profile)));
        }
        text.push_str(&broken_text(profile, broken));
    }
    text
}

/// Every profile of a bundle, the first first.
pub(super) fn profiles_text(profiles: &[Profile]) -> String {
    profiles.iter().map(profile_text).collect::<Vec<_>>().join("\n")
}

/// What lies on every device: as a table, as bars, and as runs of modules. Without GPUs nothing was planned: what
/// the weights need, and the modules.
fn profile_text(profile: &Profile) -> String {
    if !profile.memory.given {
        let modules: Vec<&str> = profile.why.iter().map(|why| why.module.as_str()).collect();
        return format!(
            "no GPUs given: the weights need {} in all, cache and working memory more; --gpus 2x24GiB plans for yours\n\n\
             {}\n",
            ui::bytes(profile.weights()),
            fold(&modules),
        );
    }
    let mut modules: BTreeMap<Device, Vec<&str>> = BTreeMap::new();
    for why in &profile.why {
        modules.entry(why.device).or_default().push(&why.module);
    }
    let rows = profile.used.iter().map(|(device, used)| {
        let sizes = [
            used.total(),
            used.budget,
            used.weights,
            used.kv,
            used.activations,
            used.reserve,
            used.budget.saturating_sub(used.total()),
        ];
        std::iter::once(device.to_string()).chain(sizes.map(ui::bytes)).collect()
    });
    let header = ["device", "taken", "of", "weights", "cache", "activations", "reserve", "free"];
    let mut text = ui::table(&header, &[1, 2, 3, 4, 5, 6, 7], rows);
    text.push('\n');
    for (device, used) in &profile.used {
        text.push_str(&format!("{device:<6} {}", ui::bar(used.total(), used.budget, BAR_WIDTH)));
        let names = modules.get(device).map(|modules| fold(modules)).unwrap_or_default();
        text.push_str(format!("  {names}").trim_end());
        text.push('\n');
    }
    text
}

fn why_text(profile: &Profile) -> String {
    if !profile.memory.given {
        let rows = profile.why.iter().map(|why| vec![why.module.clone(), ui::bytes(why.bytes)]);
        return ui::table(&["module", "size"], &[1], rows);
    }
    let rows = profile.why.iter().map(|why| {
        vec![
            why.module.clone(),
            why.device.to_string(),
            ui::bytes(why.bytes),
            ui::bytes(why.free_before),
            ui::bytes(why.limit),
            why.reason.clone(),
        ]
    });
    ui::table(&["module", "device", "size", "free before", "limit", "why"], &[2, 3, 4], rows)
}

/// What is wrong with a map of accelerate's: what left the GPUs, and the rules that this breaks.
fn broken_text(profile: &Profile, broken: &[BrokenRule]) -> String {
    let mut text = String::new();
    let off = |device: &Device| matches!(device, Device::Cpu | Device::Disk);
    let offloaded: Vec<&str> =
        profile.map.iter().filter(|(_, device)| off(device)).map(|(module, _)| module.as_str()).collect();
    if profile.planner.name == ACCELERATE.0 && !offloaded.is_empty() {
        text.push_str(&format!("\noffloaded: {}\n", fold(&offloaded)));
    }
    if !broken.is_empty() {
        let rows = broken.iter().map(|broken| {
            let device = broken.device.map_or_else(|| "nowhere".to_owned(), |device| device.to_string());
            vec![broken.rule.to_owned(), broken.module.clone(), device, broken.consequence.to_owned()]
        });
        text.push_str(&format!(
            "\n{}",
            ui::table(&["broken rule", "module", "on", "what comes of it"], &[], rows)
        ));
    }
    text
}

/// `model.layers.0 … model.layers.31` for runs of layers, names for the rest.
fn fold(modules: &[&str]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut run: Option<(&str, u32, u32)> = None;
    let index_of = |module: &&str| {
        module.rsplit_once('.').and_then(|(prefix, index)| Some((prefix.len(), index.parse::<u32>().ok()?)))
    };
    let close = |run: &mut Option<(&str, u32, u32)>, parts: &mut Vec<String>| {
        if let Some((prefix, first, last)) = run.take() {
            parts.push(if first == last {
                format!("{prefix}.{first}")
            } else {
                format!("{prefix}.{first}–{last}")
            });
        }
    };
    for module in modules {
        match (index_of(module), &mut run) {
            (Some((len, index)), Some((prefix, _, last)))
                if module[..len] == **prefix && index == *last + 1 =>
            {
                *last = index
            }
            (Some((len, index)), _) => {
                close(&mut run, &mut parts);
                run = Some((&module[..len], index, index));
            }
            (None, _) => {
                close(&mut run, &mut parts);
                parts.push((*module).to_owned());
            }
        }
    }
    close(&mut run, &mut parts);
    parts.join(", ")
}
