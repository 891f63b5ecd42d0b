//! `mgpack convert` and `mgpack plan`.

use indexmap::{IndexMap, IndexSet};

use mgpack::Result;
use mgpack::convert::FileFate;
use mgpack::convert::{Conversion, Outcome, worst};
use mgpack::manifest::ErrorFigures;
use mgpack::plan::{Fate, TensorPlan};
use mgpack::size::counted;
use mgpack::tensor::TensorName;
use mgpack::verbs::convert::{self, ConvertCall, Converted, PlanCall, WORST, kind};

use super::args::{ConvertArgs, PlanArgs, RecipeArgs};
use super::ui::{Cell, Table, Tone};
use super::{Verdict, ui, work};
use crate::program::shell_word;

pub(super) fn run(args: &ConvertArgs) -> Result<Verdict> {
    let call = ConvertCall {
        plan: plan_call(&args.recipe),
        output: args.output.clone(),
        offline: args.offline,
        stream: args.stream,
        discard_source: args.discard_source,
        hash_source: args.hash_source,
        force: args.force,
    };
    let bars = ui::Bars::new(args.talk.progress);
    if args.dry_run {
        let conversion = convert::preview(&call, work(&bars))?;
        drop(bars);
        return show_plan(&conversion, args.talk.json);
    }
    let converted = convert::convert(&call, work(&bars))?;
    drop(bars);
    if args.talk.json {
        super::print_json(&converted.json())?;
    } else {
        show_bundle(&converted);
    }
    Ok(Verdict::Good)
}

pub(super) fn plan(args: &PlanArgs) -> Result<Verdict> {
    show_plan(&convert::plan(&plan_call(&args.recipe), work(&ui::Notes))?, args.json)
}

fn plan_call(recipe: &RecipeArgs) -> PlanCall {
    PlanCall {
        model: recipe.model.clone(),
        weights: recipe.weights.chosen(),
        on_overflow: recipe.on_overflow,
        stats: !recipe.no_stats,
        max_shard_size: recipe.max_shard_size.0,
        room: recipe.room.chosen(),
        towers: recipe.towers.clone(),
        keep_towers: recipe.keep_towers,
        revision: recipe.revision.clone(),
        max_memory: recipe.max_memory.0,
        threads: recipe.threads.map(usize::from),
        isa: recipe.isa,
    }
}

fn show_plan(conversion: &Conversion, as_json: bool) -> Result<Verdict> {
    if as_json {
        super::print_json(&convert::plan_json(conversion))?;
    } else {
        show_plan_text(conversion);
    }
    Ok(Verdict::Good)
}

/// The plan, with what it comes to at the end, where the prompt will be.
fn show_plan_text(conversion: &Conversion) {
    let mut screen = ui::Screen::new();
    screen.toned(Tone::Strong, &title(conversion));
    let lists = conversion.plan.layer_lists();
    let lists: Vec<String> = lists.iter().map(|(list, count)| format!("{list} ({count})")).collect();
    if !lists.is_empty() {
        screen.labelled(Tone::Label, "decoder layers", &lists.join(", "));
    }
    for notice in &conversion.notices {
        screen.labelled(Tone::Doubtful, "note", notice);
    }
    screen.gap();
    show_tensors(conversion, &mut screen);
    screen.gap();
    screen.table(&files_table(conversion));
    screen.gap();
    screen.table(&requirements_table(conversion));
    screen.gap();
    super::map::show_profiles(&conversion.profiles, &mut screen);
    screen.gap();
    screen.line(&totals(conversion));
    screen.line(&format!(
        "peak memory at most {} with {} and {}; bundle about {}",
        ui::bytes(conversion.resources.peak),
        counted(conversion.resources.threads, "thread"),
        conversion.isa().name(),
        ui::bytes(conversion.bundle_len),
    ));
    let (tone, notes) = match conversion.notices.len() {
        0 => (Tone::Good, String::new()),
        count => (Tone::Doubtful, format!(", with {} at the top", counted(count, "note"))),
    };
    screen.toned(tone, &format!("can be converted{notes}; nothing was written"));
    screen.print();
}

fn title(conversion: &Conversion) -> String {
    format!("{}  ({})", conversion.name, kind(conversion))
}

fn totals(conversion: &Conversion) -> String {
    let totals = conversion.plan.totals();
    format!(
        "{}: {} to codes, {} cast, {} kept; {} of tensors become {} in {}",
        counted(totals.source_tensors, "tensor"),
        totals.quantized,
        totals.cast,
        totals.copied,
        ui::bytes(totals.source_bytes),
        ui::bytes(totals.bytes),
        counted(conversion.plan.shards.len(), "shard"),
    )
}

/// The tensors in layer order; those that differ in the numbers of their names alone are one row. The reasons why
/// some stay float are below, each once.
fn show_tensors(conversion: &Conversion, screen: &mut ui::Screen) {
    let tensors = &conversion.plan.tensors;
    let why = |tensor: &TensorPlan| tensor.skip.as_ref().map(ToString::to_string);
    let alike = |tensor: &TensorPlan| {
        let stored = tensor.outputs.first().map(|output| format!("{:?}", output.dtype));
        (format!("{:?}", tensor.dtype), tensor.shape.clone(), tensor.fate.name(), stored, why(tensor))
    };
    let mut reasons = IndexSet::new();
    let folded = ui::folded(tensors.iter().map(|tensor| (tensor.name.to_string(), alike(tensor))));
    let rows: Vec<Vec<Cell>> = folded
        .into_iter()
        .map(|(name, members)| {
            let tensor = &tensors[members[0]];
            let fate = match tensor.fate {
                Fate::Copy | Fate::Cast { .. } => tensor.fate.name(),
                Fate::Quantize { .. } => conversion.plan.scheme.name(),
            };
            let stored = tensor.outputs.first().map(|output| format!(" {:?}", output.dtype));
            let outputs = members.iter().flat_map(|&at| &tensors[at].outputs);
            let reason = why(tensor).map(|why| reasons.insert_full(why).0 + 1);
            vec![
                name.into(),
                Cell::Number(members.len().to_string()),
                format!("{:?} {}", tensor.dtype, super::inspect::shape(&tensor.shape)).into(),
                format!("{fate}{}", stored.unwrap_or_default()).into(),
                Cell::Size(outputs.map(|output| output.byte_len).sum()),
                reason.map_or(Cell::None, |number| Cell::Number(number.to_string())),
            ]
        })
        .collect();
    let header = ["tensor", "count", "source", "becomes", "size", "float"];
    screen.table(&Table::new(&header[..header.len() - usize::from(reasons.is_empty())]).with_rows(rows));
    for (at, reason) in reasons.iter().enumerate() {
        screen.labelled(Tone::Label, &format!("float {}", at + 1), reason);
    }
}

/// Every file; what is left out of one folder is one row.
fn files_table(conversion: &Conversion) -> Table<'_> {
    let mut rows: IndexMap<(String, &str, &str), (u64, usize)> = IndexMap::new();
    for file in &conversion.files {
        let place =
            file.tower.map_or(String::new(), |tower| format!("{}/", conversion.towers[tower].facts.path));
        let fate = match file.fate {
            FileFate::Converted => "converted",
            FileFate::Copied { .. } => "copied",
            FileFate::Replaced => "replaced",
            FileFate::LeftOut => "left out",
        };
        let path = format!("{place}{}", file.path);
        let shown = match path.rsplit_once('/').filter(|_| file.fate == FileFate::LeftOut) {
            Some((folder, _)) => format!("{folder}/"),
            None => path,
        };
        let row = rows.entry((shown, fate, file.note.as_deref().unwrap_or_default())).or_default();
        *row = (row.0.saturating_add(file.len), row.1 + 1);
    }
    let rows = rows.into_iter().map(|((path, fate, note), (len, count))| {
        let count =
            if path.ends_with('/') { format!(" ({})", counted(count, "file")) } else { String::new() };
        vec![format!("{path}{count}").into(), Cell::Size(len), fate.into(), note.into()]
    });
    Table::new(&["file", "size", "fate", "why"]).with_rows(rows)
}

fn requirements_table(conversion: &Conversion) -> Table<'_> {
    let rows = conversion.requirements().into_iter().map(|requirement| {
        let needs: [String; 4] = [
            requirement.package.into(),
            requirement.pin.into(),
            requirement.range.into(),
            requirement.reason.into(),
        ];
        needs.map(Cell::from).into()
    });
    Table::new(&["needs", "pin", "works", "because"]).with_rows(rows)
}

fn show_bundle(Converted { conversion, outcome }: &Converted) {
    let Outcome { path, id, manifest } = outcome;
    let path = path.display().to_string();
    let totals = &manifest.totals;
    let mut screen = ui::Screen::new();
    screen.whole(&path);
    let rows = manifest.files.iter().map(|file| vec![file.path.as_str().into(), Cell::Size(file.size)]);
    screen.table(&Table::new(&["file", "size"]).with_rows(rows));
    screen.gap();
    super::map::show_profiles(&conversion.profiles, &mut screen);
    let worst = worst(manifest, WORST);
    if !worst.is_empty() {
        screen.gap();
        screen.table(&worst_table(&worst));
    }
    screen.gap();
    let saved = 100.0 - 100.0 * totals.tensor_bytes as f64 / totals.source_tensor_bytes.max(1) as f64;
    screen.toned(
        Tone::Good,
        &format!(
            "tensors {} → {} ({saved:.0} % less), {} of {} as codes; bundle {}",
            ui::bytes(totals.source_tensor_bytes),
            ui::bytes(totals.tensor_bytes),
            totals.quantized,
            conversion.plan.tensors.len(),
            ui::bytes(totals.file_bytes),
        ),
    );
    screen.whole(&format!("id sha256:{id}"));
    screen.whole(&format!("check it: mgpack verify {}", shell_word(&path)));
    screen.print();
}

/// The tensors with the largest errors. What was clipped, overflowed or became zero has a column where anything did.
fn worst_table(worst: &[(&TensorName, &ErrorFigures)]) -> Table<'static> {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or(Cell::None, |value| Cell::Number(format!("{value:.digits$}")))
    };
    type Count = fn(&ErrorFigures) -> u64;
    let counts: [(&str, Count); 3] = [
        ("clipped", |error| error.clipped),
        ("overflowed", |error| error.overflowed),
        ("to zero", |error| error.flushed),
    ];
    let has_any = |(_, count): &(&str, Count)| worst.iter().any(|(_, error)| count(error) > 0);
    let counts: Vec<(&str, Count)> = counts.into_iter().filter(has_any).collect();
    let rows = worst.iter().map(|(name, error)| {
        let row = [
            name.as_str().into(),
            number(error.sqnr_db, 2),
            Cell::Number(format!("{:.3e}", error.max_abs_error)),
            number(error.cosine, 6),
        ];
        row.into_iter()
            .chain(counts.iter().map(|(_, count)| Cell::Number(count(error).to_string())))
            .collect()
    });
    let header = ["worst tensors", "SQNR dB", "max error", "cosine"].into_iter();
    Table::new(&header.chain(counts.iter().map(|(title, _)| *title)).collect::<Vec<_>>())
        .with_rows(rows.collect::<Vec<_>>())
}
