//! Families: what is known of each size of MiniGemini, as data.
//!
//! Owns the list of families, and the ways to one of them by alias and by hub id. `facts` has the types of what is
//! known, `text` those of texts that must have a form, `detect` tells a family from a checkpoint's config.json, and
//! `folder` has what MGM's own programs read from a folder's name.

mod detect;
mod facts;
mod folder;
mod text;

use std::sync::LazyLock;

use crate::error::{FamilyError, Result};
use crate::tiny;

pub use crate::names::FamilyName;
pub use detect::{Detected, Match, ShapeDifference};
pub use facts::{
    Conversation, Failure, Family, KeepRule, ModelClass, ModelType, NameEnd, Placement, Published,
    QuantizationRules, Requirement, Shapes, Sizes, Tower, TowerRole, Variant, VariantConfig,
};
pub use folder::{Misnamed, class_by_name, name_from_path, template_by_name};
pub use text::{BundleStem, HubId, Source};

/// The embedded files, smallest model first.
const FILES: [&str; 6] = [
    include_str!("../../formats/families/mgm-2b.json"),
    include_str!("../../formats/families/mgm-7b.json"),
    include_str!("../../formats/families/mgm-8b.json"),
    include_str!("../../formats/families/mgm-13b.json"),
    include_str!("../../formats/families/mgm-34b.json"),
    include_str!("../../formats/families/mgm-8x7b.json"),
];

impl Family {
    /// All families, smallest model first.
    pub fn all() -> &'static [Family] {
        static ALL: LazyLock<Vec<Family>> = LazyLock::new(|| {
            let read = |text: &&str| match serde_json::from_str(text) {
                Ok(family) => family,
                // The files are part of the program, and tests read every one of them.
                Err(error) => unreachable!("an embedded family file is wrong: {error}"),
            };
            FILES.iter().map(read).collect()
        });
        &ALL
    }

    /// The family and variant that an alias such as `34b`, `8x7B-hd` or `mgm-7b` means, in any case.
    ///
    /// # Errors
    /// [`FamilyError::UnknownAlias`] names the nearest alias; [`FamilyError::NotPublished`] where the family
    /// is known and the variant has no checkpoint (`2b-hd`).
    pub fn by_alias(alias: &str) -> Result<(&'static Family, Variant), FamilyError> {
        let wanted = alias.to_ascii_lowercase();
        match every_checkpoint().find(|(_, published)| published.aliases.contains(&wanted)) {
            Some((family, published)) if published.hub_id.is_some() => Ok((family, published.variant)),
            Some((_, published)) => Err(FamilyError::NotPublished {
                alias: alias.to_owned(),
                source_of_fact: published.source.to_string(),
            }),
            None => Err(unknown_alias(alias, &wanted)),
        }
    }

    /// The family and variant published under a hub id (`YanweiLi/MGM-7B-HD`), in any case; `None` for
    /// every other id, which is then a generic checkpoint or one to be told by its config.json.
    pub fn by_hub_id(hub_id: &str) -> Option<(&'static Family, Variant)> {
        let same = |known: &HubId| known.as_str().eq_ignore_ascii_case(hub_id);
        every_checkpoint()
            .find(|(_, published)| published.hub_id.as_ref().is_some_and(same))
            .map(|(family, published)| (family, published.variant))
    }
}

fn every_checkpoint() -> impl Iterator<Item = (&'static Family, &'static Published)> {
    Family::all()
        .iter()
        .flat_map(|family| family.checkpoints.iter().map(move |published| (family, published)))
}

fn unknown_alias(alias: &str, lower_case: &str) -> FamilyError {
    // Below this, what the two words share is chance. `70b` and `7b` give 0.9, `mgm-7` and `mgm-7b` 0.97.
    const RESEMBLES: f64 = 0.8;
    let published = || every_checkpoint().filter(|(_, published)| published.hub_id.is_some());
    let aliases = published().flat_map(|(_, published)| published.aliases.iter().map(String::as_str));
    let nearest = aliases
        .chain([tiny::ALIAS])
        .map(|known| (strsim::jaro_winkler(lower_case, known), known))
        .filter(|(likeness, _)| *likeness >= RESEMBLES)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known.to_owned());
    let short = published().filter_map(|(_, published)| published.aliases.first().cloned());
    let known = std::iter::once(tiny::ALIAS.to_owned()).chain(short).collect();
    FamilyError::UnknownAlias { alias: alias.to_owned(), nearest, known, folder: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Explain;

    #[test]
    fn every_alias_leads_to_its_family_in_any_case() {
        let mut seen = 0;
        for (family, published) in every_checkpoint().filter(|(_, published)| published.hub_id.is_some()) {
            for alias in &published.aliases {
                let found = Family::by_alias(&alias.to_ascii_uppercase()).unwrap();
                assert_eq!((&found.0.name, found.1), (&family.name, published.variant), "{alias}");
                seen += 1;
            }
        }
        assert_eq!(seen, 22, "6 plain and 5 HD checkpoints with two aliases each");
    }

    #[test]
    fn no_alias_and_no_hub_id_means_two_checkpoints() {
        let mut names: Vec<String> = every_checkpoint()
            .flat_map(|(_, published)| {
                published.aliases.iter().cloned().chain(published.hub_id.clone().map(String::from))
            })
            .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn an_unknown_alias_names_the_nearest_one() {
        let error = Family::by_alias("34-b").unwrap_err();
        assert_eq!(error.to_string(), "no model has the alias `34-b`");
        let known = "tiny, 2b, 7b, 7b-hd, 8b, 8b-hd, 13b, 13b-hd, 34b, 34b-hd, 8x7b, 8x7b-hd";
        assert_eq!(error.explain().why.unwrap(), format!("the aliases are {known}"));
        assert_eq!(error.explain().help.unwrap(), "did you mean `34b`?");
    }

    #[test]
    fn an_alias_like_no_other_gets_no_guess() {
        let help = Family::by_alias("qwen").unwrap_err().explain().help.unwrap();
        assert_eq!(help, "give an alias, a hub id such as YanweiLi/MGM-7B, or a folder");
    }

    #[test]
    fn the_2b_hd_is_not_published_but_is_detected() {
        let error = Family::by_alias("2b-HD").unwrap_err();
        assert_eq!(error.to_string(), "`2b-HD` is not published");
        assert!(error.explain().why.unwrap().contains("README.md lists no 2B-HD checkpoint"));
        let config = Family::by_alias("2b").unwrap().0.config(Variant::Hd);
        let Detected::Mgm(found) = Family::detect(&config) else { panic!("{config}") };
        assert_eq!((found.family.name.as_str(), found.variant), ("mgm-2b", Variant::Hd));
    }

    #[test]
    fn hub_ids_lead_to_their_checkpoint_and_others_to_none() {
        let (family, variant) = Family::by_hub_id("yanweili/mgm-34b-hd").unwrap();
        assert_eq!((family.name.as_str(), variant), ("mgm-34b", Variant::Hd));
        assert!(Family::by_hub_id("meta-llama/Meta-Llama-3-8B-Instruct").is_none());
    }
}
