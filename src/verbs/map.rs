//! `map`: which device has which module.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::words::{self, Room};
use super::{Work, Writer};
use crate::device_map::Profile;
use crate::drawing;
use crate::error::Result;
use crate::locate;
use crate::map::{Model, Planned, Planner};
use crate::plan::WeightOptions;

/// What `map` takes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MapCall {
    /// A bundle, or an alias, a hub id or a checkpoint's folder with options for its weights.
    pub model: String,
    /// How the weights of what is no bundle would be stored.
    #[serde(deserialize_with = "words::weights_if_given")]
    pub weights: Option<WeightOptions>,
    /// What the map is planned for.
    pub room: Room,
    /// Who plans.
    pub planner: Planner,
    /// File that the memory bars are drawn into.
    #[serde(deserialize_with = "words::path_if_given")]
    pub svg: Option<PathBuf>,
    /// Whether a file that mgpack did not make is replaced.
    pub force: bool,
    /// Branch, tag or commit in the hub's cache.
    pub revision: Option<String>,
}

/// The maps of a model. Serializes as what `--json` prints.
#[derive(Debug, Serialize)]
pub struct Mapped {
    /// The model's name, with the scheme where it is no bundle.
    pub model: String,
    /// Whether the maps are those that the bundle has already; otherwise they were planned now.
    pub recorded: bool,
    /// The maps, the first first.
    pub maps: Vec<Planned>,
}

impl Mapped {
    /// Whether no map breaks a rule of MGM.
    pub fn is_good(&self) -> bool {
        self.maps.iter().all(|one| one.broken.is_empty())
    }
}

/// Plans a map for every memory table, or gives those of a bundle where none is given. Writes the drawing.
///
/// # Errors
/// As [`Model::find`] and [`Model::map`]; [`crate::error::OutputError`] for the drawing.
pub fn map(call: &MapCall, work: Work<'_>) -> Result<Mapped> {
    let places = work.places(call.revision.as_deref());
    let model = Model::find(&call.model, call.weights.as_ref(), &places)?;
    let (request, _) = call.room.asked(work);
    let recorded = request.memory.is_empty() && call.planner == Planner::Mgm && !model.profiles.is_empty();
    let maps = if recorded {
        let recorded = model.profiles.iter().cloned();
        recorded.map(|profile| Planned { profile, broken: Vec::new() }).collect()
    } else {
        model.map(call.planner, &request)?
    };
    if let (Some(file), Some(first)) = (&call.svg, maps.first()) {
        let drawing = drawing::memory_bars(&first.profile, &title(&model.name, &first.profile));
        let path = Path::new(&call.model);
        let inputs = if locate::is_there(path)? { &[path][..] } else { &[] };
        Writer { inputs, force: call.force }.markup(file, &drawing, work)?;
    }
    Ok(Mapped { model: model.name, recorded, maps })
}

/// The model's name, and who planned where that was asked for.
pub fn title(name: &str, profile: &Profile) -> String {
    if profile.memory.given { format!("{name} by {}", profile.planner.name) } else { name.to_owned() }
}
