//! `mgpack convert --stream`: the checkpoint is fetched and converted at once.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use mgpack::checkpoint::Limits;
use mgpack::convert::Conversion;
use mgpack::error::{HubError, LocateError};
use mgpack::hub::{Hub, Stream, Wanted};
use mgpack::locate::{self, Located, Places};
use mgpack::progress::{Progress, Stage};
use mgpack::{Error, Result};

use super::args::ConvertArgs;
use super::{STOP, Verdict, convert, fetch, ui};

pub(super) fn run(args: &ConvertArgs) -> Result<Verdict> {
    let model = &args.recipe.model;
    if Path::new(model).exists() {
        return Err(LocateError::NothingToStream { path: model.into() }.into());
    }
    convert::check_target(args)?;
    let places = convert::places(&args.recipe);
    places.check_towers()?;
    if let Err(Error::Locate(error @ LocateError::NotHere { near: Some(_), .. })) =
        locate::checkpoint(model, &places)
    {
        return Err(error.into());
    }
    let hub_id = locate::hub_id(model)?;
    let hub = fetch::hub(&places)?.ok_or_else(|| HubError::Offline { repo_id: hub_id.clone() })?;
    let download = hub.plan(&hub_id, places.revision.as_deref(), Wanted::Checkpoint, &ui::Notes, &STOP)?;
    let bars = ui::Bars::new(args.talk.progress);
    let options = convert::options(&args.recipe);
    let limits = Limits::within(options.max_memory);
    let open = if args.dry_run { Stream::preview } else { Stream::open };
    let mut stream = open(download, limits, &bars, &STOP)?;
    drop(bars);
    let snapshot = stream.download().snapshot();
    if !args.dry_run {
        fetch::towers_of(&snapshot.dir, &places, &hub, args.talk.progress)?;
    }
    let located =
        Located { dir: snapshot.dir, hub_id: Some(snapshot.repo_id), revision: Some(snapshot.commit) };
    let checkpoint = stream.checkpoint()?;
    let conversion = Conversion::prepare_opened(checkpoint, located, &places, options)?;
    if args.dry_run {
        return convert::show_plan(&conversion, args.talk.json);
    }
    convert::carry_out(args, &conversion, |target, bars| {
        let reads = conversion.reads(target);
        let awaited = stream.awaited_len(&conversion.checkpoint, &reads);
        let room = stream.room(&conversion.checkpoint, &reads, args.discard_source);
        check_room(&hub, &places, target, room, conversion.bundle_len)?;
        ui::say(&format!(
            "streaming {hub_id}: {} to fetch, at most {} of it on the disk at once",
            ui::bytes(awaited),
            ui::bytes(room),
        ));
        let both = Both { bars, fetched: awaited };
        stream.run(&conversion.checkpoint, &reads, args.discard_source, (&both, &STOP), |arrivals| {
            conversion.run_from(arrivals, target, args.force, &both, &STOP)
        })
    })
}

/// Room for the files that come, and for the bundle where it lies on the same disk; the bundle's own disk is looked
/// at when it is begun.
fn check_room(hub: &Hub, places: &Places, target: &Path, room: u64, bundle: u64) -> Result<()> {
    let disk = |path: &Path| path.ancestors().find_map(|path| Some(fs::metadata(path).ok()?.dev()));
    let target = std::path::absolute(target).unwrap_or_else(|_| target.to_owned());
    let kept = Conversion::unfinished_len(&target);
    let shared = places.cache.as_ref().is_some_and(|cache| disk(cache.dir()) == disk(&target));
    let needed = if shared { room.saturating_add(bundle.saturating_sub(kept)) } else { room };
    Ok(hub.check_space(needed)?)
}

/// One bar for what is fetched and what is written.
struct Both<'a> {
    bars: &'a ui::Bars,
    /// Bytes that are fetched.
    fetched: u64,
}

impl Progress for Both<'_> {
    fn begin(&self, stage: Stage, total: u64) {
        match stage {
            Stage::Tensors => self.bars.begin(Stage::Stream, total.saturating_add(self.fetched)),
            stage => self.bars.begin(stage, total),
        }
    }

    fn advance(&self, bytes: u64) {
        self.bars.advance(bytes);
    }

    fn finish(&self) {
        self.bars.finish();
    }

    fn note(&self, text: &str) {
        self.bars.note(text);
    }
}
