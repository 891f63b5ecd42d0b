//! `mgpack convert` and `mgpack plan`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mgpack::convert::{Conversion, Options, Outcome};
use mgpack::error::OutputError;
use mgpack::kernels::Isa;
use mgpack::locate::{self, Places};
use mgpack::manifest::FileFate;
use mgpack::plan::Fate;
use mgpack::size::counted;
use mgpack::{Result, convert, tiny};
use serde_json::{Value, json};

use super::args::{ConvertArgs, PlanArgs, ProgressMode, RecipeArgs};
use super::{STOP, ui};

/// Tensors shown as the worst.
const WORST: usize = 10;

pub(super) fn run(args: &ConvertArgs) -> Result<ExitCode> {
    check_target(args)?;
    let may_fetch = !args.dry_run && !args.offline;
    let conversion = prepare(&args.recipe, may_fetch.then_some(args.talk.progress))?;
    if args.dry_run {
        return show_plan(&conversion, args.talk.json);
    }
    carry_out(args, &conversion, |target, bars| conversion.run(target, args.force, bars, &STOP))
}

/// Refuses a target that exists before anything is fetched; what `--force` may replace is looked at later.
pub(super) fn check_target(args: &ConvertArgs) -> Result<()> {
    let target = args.output.as_ref().filter(|_| !args.force && !args.dry_run);
    match target.filter(|target| target.symlink_metadata().is_ok()) {
        Some(target) => Err(OutputError::Exists { path: target.clone() }.into()),
        None => Ok(()),
    }
}

/// Says what should be known before, does the work, and shows the bundle.
pub(super) fn carry_out(
    args: &ConvertArgs,
    conversion: &Conversion,
    work: impl FnOnce(&Path, &ui::Bars) -> Result<Outcome>,
) -> Result<ExitCode> {
    let target = args.output.clone().unwrap_or_else(|| PathBuf::from(&conversion.name));
    for notice in conversion.notices.iter().cloned().chain(conversion.folder_notice(&target)) {
        ui::say(&format!("note: {notice}"));
    }
    let bars = ui::Bars::new(args.talk.progress);
    let outcome = work(&target, &bars);
    drop(bars);
    if outcome.is_err()
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
        ui::print(&describe_bundle(conversion, &outcome));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn plan(args: &PlanArgs) -> Result<ExitCode> {
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
        map: super::map::request(&recipe.map),
    }
}

pub(super) fn show_plan(conversion: &Conversion, as_json: bool) -> Result<ExitCode> {
    if as_json {
        super::print_json(&plan_json(conversion))?;
    } else {
        ui::print(&plan_text(conversion));
    }
    Ok(ExitCode::SUCCESS)
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
                "fate": file.fate, "target": (!file.target.is_empty()).then_some(&file.target), "why": file.note,
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

fn plan_text(conversion: &Conversion) -> String {
    let mut text = heading(conversion);
    let rows = conversion.plan.tensors.iter().map(|tensor| {
        let fate = match tensor.fate {
            Fate::Copy => "copy".to_owned(),
            Fate::Cast => "cast".to_owned(),
            Fate::Quantize => conversion.plan.scheme.name().to_owned(),
        };
        let stored: u64 = tensor.outputs.iter().map(|output| output.byte_len).sum();
        let first = tensor.outputs.first();
        vec![
            tensor.name.to_string(),
            format!("{:?} {:?}", tensor.dtype, tensor.shape),
            fate,
            first.map(|output| format!("{:?}", output.dtype)).unwrap_or_default(),
            ui::bytes(stored),
            first.map(|output| format!("{}@{}", output.shard + 1, output.offset)).unwrap_or_default(),
            tensor.skip.as_ref().map(ToString::to_string).unwrap_or_default(),
        ]
    });
    text.push_str(&ui::table(
        &["tensor", "source", "fate", "as", "bytes", "shard@offset", "why float"],
        &[4, 5],
        rows,
    ));
    text.push('\n');
    text.push_str(&files_text(conversion));
    text.push('\n');
    text.push_str(&super::map::profiles_text(&conversion.profiles));
    text.push('\n');
    text.push_str(&requirements_text(conversion));
    for notice in &conversion.notices {
        text.push_str(&format!("note: {notice}\n"));
    }
    text
}

fn heading(conversion: &Conversion) -> String {
    let totals = conversion.plan.totals();
    let family = conversion.family.as_ref().map_or("generic", |found| found.family.name.as_str());
    format!(
        "{}  ({family}, {})\n{}: {} to codes, {} cast, {} kept; {} of tensors become {} in {}\n\
         peak memory at most {} with {} and {}; bundle about {}\n\n",
        conversion.name,
        conversion.plan.scheme.name(),
        counted(totals.source_tensors, "tensor"),
        totals.quantized,
        totals.cast,
        totals.copied,
        ui::bytes(totals.source_bytes),
        ui::bytes(totals.bytes),
        counted(conversion.plan.shards.len(), "shard"),
        ui::bytes(conversion.resources.peak),
        counted(conversion.resources.threads, "thread"),
        conversion.isa().name(),
        ui::bytes(conversion.bundle_len),
    )
}

fn files_text(conversion: &Conversion) -> String {
    let rows = conversion.files.iter().map(|file| {
        let place =
            file.tower.map_or(String::new(), |tower| format!("{}/", conversion.towers[tower].facts.path));
        let fate = match file.fate {
            FileFate::Converted => "converted",
            FileFate::Copied => "copied",
            FileFate::Replaced => "replaced",
            FileFate::LeftOut => "left out",
        };
        vec![
            format!("{place}{}", file.path),
            ui::bytes(file.len),
            fate.to_owned(),
            file.note.clone().unwrap_or_default(),
        ]
    });
    ui::table(&["file", "size", "fate", "why"], &[1], rows)
}

fn requirements_text(conversion: &Conversion) -> String {
    let rows = conversion
        .requirements()
        .into_iter()
        .map(|requirement| vec![requirement.package, requirement.pin, requirement.range, requirement.reason]);
    ui::table(&["needs", "pin", "works", "because"], &[], rows)
}

fn describe_bundle(conversion: &Conversion, outcome: &Outcome) -> String {
    let manifest = &outcome.manifest;
    let totals = &manifest.totals;
    let mut text = format!("{}\n", outcome.path.display());
    let rows = manifest.files.iter().map(|file| vec![format!("  {}", file.path), ui::bytes(file.size)]);
    text.push_str(&ui::table(&["  file", "size"], &[1], rows));
    let saved = 100.0 - 100.0 * totals.tensor_bytes as f64 / totals.source_tensor_bytes.max(1) as f64;
    text.push_str(&format!(
        "\ntensors {} → {} ({saved:.0} % less), {} of {} as codes; bundle {}\n\n",
        ui::bytes(totals.source_tensor_bytes),
        ui::bytes(totals.tensor_bytes),
        totals.quantized,
        conversion.plan.tensors.len(),
        ui::bytes(totals.file_bytes),
    ));
    text.push_str(&super::map::profiles_text(&conversion.profiles));
    let worst = convert::worst(manifest, WORST);
    if !worst.is_empty() {
        text.push('\n');
        let rows = worst.into_iter().map(|(name, error)| {
            let number = |value: Option<f64>, digits: usize| {
                value.map(|value| format!("{value:.digits$}")).unwrap_or_default()
            };
            vec![
                name.to_string(),
                number(error.sqnr_db, 2),
                format!("{:.3e}", error.max_abs_error),
                number(error.cosine, 6),
                error.clipped.to_string(),
                error.overflowed.to_string(),
                error.flushed.to_string(),
            ]
        });
        let header = ["worst tensors", "SQNR dB", "max error", "cosine", "clipped", "overflowed", "to zero"];
        text.push_str(&ui::table(&header, &[1, 2, 3, 4, 5, 6], rows));
    }
    text.push_str(&format!(
        "\nid sha256:{}\ncheck it: mgpack verify {}\n",
        outcome.id,
        outcome.path.display()
    ));
    text
}

fn worst_json(outcome: &Outcome) -> Vec<Value> {
    convert::worst(&outcome.manifest, WORST)
        .into_iter()
        .map(|(name, error)| json!({ "tensor": name, "error": error }))
        .collect()
}
