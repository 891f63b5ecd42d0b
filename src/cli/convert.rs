//! `mgpack convert` and `mgpack plan`.

use std::path::{Path, PathBuf};

use indexmap::{IndexMap, IndexSet};

use mgpack::convert::{Conversion, Options, Outcome};
use mgpack::error::ConvertError;
use mgpack::kernels::Isa;
use mgpack::locate::{self, Places};
use mgpack::manifest::{ErrorFigures, FileFate};
use mgpack::plan::{Fate, TensorPlan};
use mgpack::size::counted;
use mgpack::tensor::TensorName;
use mgpack::{Error, Result, convert, output, tiny};
use serde_json::{Value, json};

use super::args::{ConvertArgs, PlanArgs, ProgressMode, RecipeArgs};
use super::ui::{Cell, Table, Tone};
use super::{STOP, Verdict, ui};
use crate::program::shell_word;

/// Tensors shown as the worst.
const WORST: usize = 10;

pub(super) fn run(args: &ConvertArgs) -> Result<Verdict> {
    check_target(args)?;
    let may_fetch = !args.dry_run && !args.offline;
    let conversion = prepare(&args.recipe, may_fetch.then_some(args.talk.progress))?;
    if args.dry_run {
        return show_plan(&conversion, args.talk.json);
    }
    let conversion = if args.hash_source { conversion.with_source_digests() } else { conversion };
    carry_out(args, &conversion, |target, bars| conversion.run(target, args.force, bars, &STOP))
}

/// Refuses a target that exists before anything is fetched; what `--force` may replace is looked at later.
pub(super) fn check_target(args: &ConvertArgs) -> Result<()> {
    let target = args.output.as_ref().filter(|_| !args.force && !args.dry_run);
    target.map_or(Ok(()), |target| output::check_absent(target, &ui::Notes))
}

/// Says what should be known before, does the work, and shows the bundle.
pub(super) fn carry_out(
    args: &ConvertArgs,
    conversion: &Conversion,
    work: impl FnOnce(&Path, &ui::Bars) -> Result<Outcome>,
) -> Result<Verdict> {
    let target = args.output.clone().unwrap_or_else(|| PathBuf::from(conversion.name.as_str()));
    if args.talk.progress != Some(ProgressMode::None) {
        let what = counted(conversion.plan.totals().source_tensors, "tensor");
        let size = ui::bytes(conversion.plan.totals().source_bytes);
        ui::say(&format!("converting {what}, {size}, into {}  ({})", target.display(), kind(conversion)));
    }
    for notice in conversion.notices.iter().cloned().chain(conversion.folder_notice(&target)) {
        ui::say(&format!("note: {notice}"));
    }
    let bars = ui::Bars::new(args.talk.progress);
    let outcome = work(&target, &bars);
    drop(bars);
    if let Err(error) = &outcome
        // Of another conversion, the error says what goes on.
        && !matches!(error, Error::Convert(ConvertError::OtherUnfinished { .. }))
        && let Some(dir) = Conversion::unfinished(&target)
    {
        ui::say(&format!(
            "note: finished shards are kept in {}; the same command goes on from there",
            dir.display()
        ));
    }
    let outcome = outcome?;
    if args.talk.json {
        super::print_json(&json!({
            "path": outcome.path,
            "id": outcome.id,
            "name": outcome.manifest.model.name,
            "totals": outcome.manifest.totals,
            "device_map": conversion.profiles.first().map(|profile| &profile.map),
            "worst": worst_json(&outcome),
        }))?;
    } else {
        show_bundle(conversion, &outcome);
    }
    Ok(Verdict::Good)
}

pub(super) fn plan(args: &PlanArgs) -> Result<Verdict> {
    show_plan(&prepare(&args.recipe, None)?, args.json)
}

/// Finds the model and decides everything. `fetch`: what is missing is downloaded, with progress shown so.
fn prepare(recipe: &RecipeArgs, fetch: Option<Option<ProgressMode>>) -> Result<Conversion> {
    let places = places(recipe);
    let is_tiny = locate::is_tiny(&recipe.model);
    if let Some(progress) = fetch.filter(|_| !is_tiny) {
        super::fetch::missing(&recipe.model, &places, progress)?;
    }
    let located = if is_tiny {
        locate::tiny(|name| std::env::var_os(name), &places.cwd, &ui::Notes)?
    } else {
        locate::checkpoint(&recipe.model, &places)?
    };
    let options = Options { name: is_tiny.then(|| tiny::BUNDLE_NAME.to_owned()), ..options(recipe) };
    Conversion::prepare(located, &places, options)
}

/// Where models and towers are looked for.
pub(super) fn places(recipe: &RecipeArgs) -> Places {
    let mut places = Places::from_env(|name| std::env::var_os(name));
    places.towers.clone_from(&recipe.towers);
    places.revision.clone_from(&recipe.revision);
    places
}

/// The conversion's options, as the words on the command line say.
pub(super) fn options(recipe: &RecipeArgs) -> Options {
    let storage = recipe.storage.chosen();
    Options {
        precision: storage.precision,
        layout: storage.layout,
        ignore: storage.ignore,
        max_shard_len: recipe.max_shard_size.0,
        on_overflow: recipe.on_overflow.into(),
        stats: !recipe.no_stats,
        name: None,
        max_memory: recipe.max_memory.0,
        keep_towers: recipe.keep_towers,
        threads: super::thread_count(recipe.threads),
        isa: recipe.isa.unwrap_or_else(Isa::detect),
        capabilities: super::map::capabilities(&recipe.map),
        map: super::map::request(&recipe.map),
    }
}

pub(super) fn show_plan(conversion: &Conversion, as_json: bool) -> Result<Verdict> {
    if as_json {
        super::print_json(&plan_json(conversion))?;
    } else {
        show_plan_text(conversion);
    }
    Ok(Verdict::Good)
}

fn plan_json(conversion: &Conversion) -> Value {
    let shards = &conversion.plan.shards;
    let tensors: Vec<Value> = conversion
        .plan
        .tensors
        .iter()
        .map(|tensor| {
            let outputs: Vec<Value> = tensor
                .outputs
                .iter()
                .map(|output| {
                    json!({
                        "name": output.name, "kind": output.kind, "dtype": output.dtype, "shape": output.shape,
                        "shard": shards[output.shard].name, "offset": output.offset, "bytes": output.byte_len,
                    })
                })
                .collect();
            let source = &conversion.checkpoint.tensors()[tensor.source];
            json!({
                "name": tensor.name, "dtype": tensor.dtype, "shape": tensor.shape, "fate": tensor.fate,
                "why": tensor.skip.as_ref().map(ToString::to_string),
                "source": { "file": conversion.checkpoint.files()[source.file].path, "offset": source.offset, "bytes": source.byte_len },
                "outputs": outputs,
            })
        })
        .collect();
    let files: Vec<Value> = conversion
        .files
        .iter()
        .map(|file| {
            json!({
                "path": file.path, "tower": file.tower.map(|tower| &conversion.towers[tower].facts.path), "bytes": file.len,
                "fate": file.fate, "target": &file.target, "why": file.note,
            })
        })
        .collect();
    json!({
        "name": conversion.name,
        "family": conversion.family.as_ref().map_or("generic", |found| found.family.name.as_str()),
        "source": { "hub_id": conversion.located.hub_id, "revision": conversion.located.revision },
        "scheme": conversion.plan.scheme,
        "skip_modules": conversion.skip_modules(),
        "totals": conversion.plan.totals(),
        "bundle_bytes": conversion.bundle_len,
        "resources": {
            "threads": conversion.resources.threads, "lanes": conversion.resources.lanes,
            "batch_bytes": conversion.resources.batch_len, "peak_memory_bytes": conversion.resources.peak,
            "instruction_set": conversion.isa().name(),
        },
        "requirements": conversion.requirements(),
        "device_maps": conversion.profiles,
        "shards": shards.iter().map(|shard| json!({ "name": shard.name, "bytes": shard.data_len })).collect::<Vec<_>>(),
        "tensors": tensors,
        "files": files,
        "notices": conversion.notices,
    })
}

/// The plan, with what it comes to at the end, where the prompt will be.
fn show_plan_text(conversion: &Conversion) {
    let mut screen = ui::Screen::new();
    screen.toned(Tone::Strong, &title(conversion));
    screen.gap();
    show_tensors(conversion, &mut screen);
    screen.gap();
    screen.table(&files_table(conversion));
    screen.gap();
    screen.table(&requirements_table(conversion));
    screen.gap();
    super::map::show_profiles(&conversion.profiles, &mut screen);
    screen.gap();
    for notice in &conversion.notices {
        screen.labelled(Tone::Doubtful, "note", notice);
    }
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
        count => (Tone::Doubtful, format!(", with {} above", counted(count, "note"))),
    };
    screen.toned(tone, &format!("can be converted{notes}; nothing was written"));
    screen.print();
}

fn title(conversion: &Conversion) -> String {
    format!("{}  ({})", conversion.name, kind(conversion))
}

/// The family and the scheme.
fn kind(conversion: &Conversion) -> String {
    let family = conversion.family.as_ref().map_or("generic", |found| found.family.name.as_str());
    format!("{family}, {}", conversion.plan.scheme.name())
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
/// some stay float stand below, each once.
fn show_tensors(conversion: &Conversion, screen: &mut ui::Screen) {
    let tensors = &conversion.plan.tensors;
    let why = |tensor: &TensorPlan| tensor.skip.as_ref().map(ToString::to_string);
    let alike = |tensor: &TensorPlan| {
        let stored = tensor.outputs.first().map(|output| format!("{:?}", output.dtype));
        (format!("{:?}", tensor.dtype), tensor.shape.clone(), tensor.fate as u8, stored, why(tensor))
    };
    let mut reasons = IndexSet::new();
    let folded = ui::folded(tensors.iter().map(|tensor| (tensor.name.to_string(), alike(tensor))));
    let rows: Vec<Vec<Cell>> = folded
        .into_iter()
        .map(|(name, members)| {
            let tensor = &tensors[members[0]];
            let fate = match tensor.fate {
                Fate::Copy => "copy",
                Fate::Cast => "cast",
                Fate::Quantize => conversion.plan.scheme.name(),
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
            FileFate::Copied => "copied",
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

fn show_bundle(conversion: &Conversion, outcome: &Outcome) {
    let (manifest, path) = (&outcome.manifest, outcome.path.display().to_string());
    let totals = &manifest.totals;
    let mut screen = ui::Screen::new();
    screen.whole(&path);
    let rows = manifest.files.iter().map(|file| vec![file.path.as_str().into(), Cell::Size(file.size)]);
    screen.table(&Table::new(&["file", "size"]).with_rows(rows));
    screen.gap();
    super::map::show_profiles(&conversion.profiles, &mut screen);
    let worst = convert::worst(manifest, WORST);
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
    screen.whole(&format!("id sha256:{}", outcome.id));
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

fn worst_json(outcome: &Outcome) -> Vec<Value> {
    convert::worst(&outcome.manifest, WORST)
        .into_iter()
        .map(|(name, error)| json!({ "tensor": name, "error": error }))
        .collect()
}
