//! `convert` with `stream`: the checkpoint is downloaded and converted at once.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::Work;
use super::convert::{ConvertCall, Converted, carry_out};
use super::fetch;
use crate::checkpoint::Limits;
use crate::convert::Conversion;
use crate::error::{Error, HubError, LocateError, Result};
use crate::hub::{Hub, Stream, Wanted};
use crate::locate::{self, Located, Places};
use crate::progress::{Progress, Stage};
use crate::size::shown;

/// The plan of a checkpoint of which nothing is written.
pub(super) fn preview(call: &ConvertCall, work: Work<'_>) -> Result<Conversion> {
    let (hub, hub_id, places) = source(call, work)?;
    let mut stream = open(&hub, &hub_id, &places, call, true, work)?;
    prepare(&mut stream, &places, call, work)
}

pub(super) fn convert(call: &ConvertCall, work: Work<'_>) -> Result<Converted> {
    let (hub, hub_id, places) = source(call, work)?;
    let mut stream = open(&hub, &hub_id, &places, call, false, work)?;
    fetch::towers_of(&stream.download().snapshot().dir, &places, &hub, work)?;
    let conversion = prepare(&mut stream, &places, call, work)?;
    let outcome = carry_out(call, &conversion, work, |target| {
        let reads = conversion.reads(target);
        let awaited = stream.awaited_len(&conversion.checkpoint, &reads);
        let room = stream.room(&conversion.checkpoint, &reads, call.discard_source);
        check_room(&hub, &places, target, room, conversion.bundle_len)?;
        work.progress.announce(&format!(
            "streaming {hub_id}: {} to fetch, at most {} of it on the disk at once",
            shown(awaited),
            shown(room),
        ));
        let both = Both { shown: work.progress, fetched: awaited };
        stream.run(&conversion.checkpoint, &reads, call.discard_source, (&both, work.stop), |arrivals| {
            conversion.run_from(arrivals, target, call.force, &both, work.stop)
        })
    })?;
    Ok(Converted { conversion, outcome })
}

/// The hub, and what the model is called there.
fn source(call: &ConvertCall, work: Work<'_>) -> Result<(Hub, String, Places)> {
    let model = &call.plan.model;
    if locate::is_there(Path::new(model))? {
        return Err(LocateError::NothingToStream { path: model.into() }.into());
    }
    let places = call.plan.places(work);
    places.check_towers()?;
    if let Err(Error::Locate(error @ LocateError::NotHere { near: Some(_), .. })) =
        locate::checkpoint(model, &places)
    {
        return Err(error.into());
    }
    let hub_id = locate::hub_id(model)?;
    let hub = fetch::hub(&places, work)?.ok_or_else(|| HubError::Offline { repo_id: hub_id.clone() })?;
    Ok((hub, hub_id, places))
}

/// All but the weights. `previews`: in memory.
fn open<'a>(
    hub: &'a Hub,
    hub_id: &str,
    places: &Places,
    call: &ConvertCall,
    previews: bool,
    work: Work<'_>,
) -> Result<Stream<'a>> {
    let Work { progress, stop, .. } = work;
    let download = hub.plan(hub_id, places.revision.as_deref(), Wanted::Checkpoint, progress, stop)?;
    let limits = Limits::within(call.plan.max_memory);
    let open = if previews { Stream::preview } else { Stream::open };
    open(download, limits, progress, stop)
}

fn prepare(
    stream: &mut Stream<'_>,
    places: &Places,
    call: &ConvertCall,
    work: Work<'_>,
) -> Result<Conversion> {
    let snapshot = stream.download().snapshot();
    let located =
        Located { dir: snapshot.dir, hub_id: Some(snapshot.repo_id), revision: Some(snapshot.commit) };
    let checkpoint = stream.checkpoint()?;
    Conversion::prepare_opened(checkpoint, located, places, call.plan.options(work))
}

/// Room for the files that come, and for the bundle where it lies on the same disk; the bundle's own disk is looked
/// at when it is begun.
fn check_room(hub: &Hub, places: &Places, target: &Path, room: u64, bundle: u64) -> Result<()> {
    let disk = |path: &Path| path.ancestors().find_map(|path| Some(fs::metadata(path).ok()?.dev()));
    let target = std::path::absolute(target).unwrap_or_else(|_| target.to_owned());
    let kept = Conversion::unfinished_len(&target);
    let shared = places.cache.as_ref().is_some_and(|cache| disk(cache.dir()) == disk(&target));
    let needed = if shared { room.saturating_add(bundle.saturating_sub(kept)) } else { room };
    hub.check_space(needed)
}

/// One bar for what is fetched and what is written.
struct Both<'a> {
    shown: &'a dyn Progress,
    /// Bytes that are fetched.
    fetched: u64,
}

impl Progress for Both<'_> {
    fn begin(&self, stage: Stage, total: u64) {
        match stage {
            Stage::Tensors => self.shown.begin(Stage::Stream, total.saturating_add(self.fetched)),
            stage => self.shown.begin(stage, total),
        }
    }

    fn advance(&self, bytes: u64) {
        self.shown.advance(bytes);
    }

    fn finish(&self) {
        self.shown.finish();
    }

    fn note(&self, text: &str) {
        self.shown.note(text);
    }

    fn announce(&self, text: &str) {
        self.shown.announce(text);
    }
}
