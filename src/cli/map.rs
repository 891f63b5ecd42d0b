//! `mgpack map`, and how device maps are shown everywhere.

use mgpack::Result;
use mgpack::device_map::{ACCELERATE, BrokenRule, Device, Profile};
use mgpack::map::Planned;
use mgpack::size::counted;
use mgpack::verbs::map::{self, MapCall, title};

use super::args::MapArgs;
use super::ui::{Cell, Table, Tone};
use super::{Verdict, ui, work};

/// Cells of a bar.
const BAR_WIDTH: usize = 40;

pub(super) fn run(args: &MapArgs) -> Result<Verdict> {
    let call = MapCall {
        model: args.model.clone(),
        weights: args.weights.is_given().then(|| args.weights.chosen()),
        room: args.room.chosen(),
        planner: args.planner,
        svg: args.svg.clone(),
        force: args.force,
        revision: args.revision.clone(),
    };
    let mapped = map::map(&call, work(&ui::Notes))?;
    if args.json {
        super::print_json(&mapped)?;
    } else {
        show(&mapped.model, &mapped.maps, args.why);
    }
    Ok(if mapped.is_good() { Verdict::Good } else { Verdict::Findings })
}

fn show(name: &str, planned: &[Planned], why: bool) {
    let mut screen = ui::Screen::new();
    for (at, Planned { profile, broken }) in planned.iter().enumerate() {
        if at > 0 {
            screen.gap();
        }
        screen.toned(Tone::Strong, &title(name, profile));
        screen.gap();
        if why {
            screen.table(&why_table(profile));
            screen.gap();
        }
        show_profile(profile, &mut screen);
        show_broken(profile, broken, &mut screen);
    }
    screen.print();
}

/// Every profile of a bundle, the first first.
pub(super) fn show_profiles(profiles: &[Profile], screen: &mut ui::Screen) {
    for (at, profile) in profiles.iter().enumerate() {
        if at > 0 {
            screen.gap();
        }
        show_profile(profile, screen);
    }
}

/// What lies on every device: as a table, and as bars. Without GPUs nothing was planned: what the weights need, and the
/// modules.
fn show_profile(profile: &Profile, screen: &mut ui::Screen) {
    if !profile.memory.given {
        screen.line(&format!(
            "no GPUs given: the weights need {} in all, cache and working memory more; --gpus 2x24GiB plans for yours",
            ui::bytes(profile.weights()),
        ));
        screen.gap();
        let modules = ui::folded(profile.why.iter().map(|why| (why.module.clone(), ())));
        screen.line(&modules.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(", "));
        return;
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
        std::iter::once(device.to_string().into()).chain(sizes.map(Cell::Size)).collect()
    });
    let header = ["device", "taken", "of", "weights", "cache", "activations", "reserve", "free"];
    screen.table(&Table::new(&header).with_one_unit().with_rows(rows));
    screen.gap();
    // A third of the line for the bar, the rest for a name.
    let cells = (screen.width() / 3).min(BAR_WIDTH);
    for (device, used) in &profile.used {
        let bar = ui::bar(used.total(), used.budget, cells);
        screen.line(format!("{device:<6} {bar}  {}", label(profile, *device)).trim_end());
    }
    if profile.memory.attention.is_none() && profile.planner.name != ACCELERATE.0 {
        screen.gap();
        screen.line("no cache and no working memory are reserved: nothing says how many heads the model has");
    }
    if let (Some(longest), Some(attention)) = (&profile.memory.longest_context, profile.memory.attention) {
        screen.gap();
        screen.line(&format!("longest prompt with its answer, images apart (planned for {attention}):"));
        screen.line(&format!("  {}", longest.told()));
    }
}

/// The run of modules that takes most of a device, and how many others lie there.
fn label(profile: &Profile, device: Device) -> String {
    let on_device: Vec<_> = profile.why.iter().filter(|why| why.device == device).collect();
    let runs = ui::folded(on_device.iter().map(|why| (why.module.clone(), ())));
    let size = |members: &[usize]| -> u64 { members.iter().map(|&at| on_device[at].bytes).sum() };
    let Some((name, members)) = runs.iter().max_by_key(|(_, members)| size(members)) else {
        return String::new();
    };
    match on_device.len() - members.len() {
        0 => name.clone(),
        others => format!("{name} and {}", counted(others, "other")),
    }
}

/// The modules in the order of placement; runs of like ones are one row, with the size of one and of all.
fn why_table(profile: &Profile) -> Table<'_> {
    if !profile.memory.given {
        let modules = ui::folded(profile.why.iter().map(|why| (why.module.clone(), why.bytes)));
        let rows = modules.into_iter().filter_map(|(name, members)| {
            let each = profile.why.get(*members.first()?)?.bytes;
            let count = Cell::Number(members.len().to_string());
            Some(vec![
                name.into(),
                count,
                Cell::Size(each),
                Cell::Size(each.saturating_mul(members.len() as u64)),
            ])
        });
        return Table::new(&["module", "count", "each", "all"]).with_one_unit().with_rows(rows);
    }
    let mut rows = Vec::new();
    // Only neighbours are one row: what is free before a row is what the rows above have left.
    for like in profile.why.chunk_by(|a, b| (a.device, a.limit, &a.reason) == (b.device, b.limit, &b.reason))
    {
        for (name, members) in ui::folded(like.iter().map(|why| (why.module.clone(), why.bytes))) {
            let of_run: Vec<_> = members.iter().map(|&at| &like[at]).collect();
            let Some(first) = of_run.first() else { continue };
            rows.push(vec![
                name.into(),
                first.device.to_string().into(),
                Cell::Size(first.bytes),
                Cell::Size(of_run.iter().map(|why| why.bytes).sum()),
                Cell::Size(first.free_before),
                first.reason.as_str().into(),
            ]);
        }
    }
    let header = ["module", "device", "each", "all", "free before", "why"];
    Table::new(&header).with_one_unit().with_rows(rows)
}

/// What is wrong with a map of accelerate's: what left the GPUs, and the rules that this breaks.
fn show_broken(profile: &Profile, broken: &[BrokenRule], screen: &mut ui::Screen) {
    let off = |device: &Device| matches!(device, Device::Cpu | Device::Disk);
    let offloaded =
        profile.map.iter().filter(|(_, device)| off(device)).map(|(module, _)| (module.clone(), ()));
    let offloaded: Vec<String> = ui::folded(offloaded).into_iter().map(|(name, _)| name).collect();
    if profile.planner.name == ACCELERATE.0 && !offloaded.is_empty() {
        screen.gap();
        screen.labelled(Tone::Doubtful, "offloaded", &offloaded.join(", "));
    }
    for broken in broken {
        let device = broken.device.map_or_else(|| "nowhere".to_owned(), |device| device.to_string());
        screen.gap();
        screen.labelled(Tone::Bad, "broken rule", &format!("{}: {} on {device}", broken.rule, broken.module));
        screen.line(&format!("  {}", broken.consequence));
    }
}
