//! Texts among a family's facts that must have a form: names, hub ids, sources.
//!
//! Owns the types that only families have; the others are in [`crate::names`]. Carries out the patterns of
//! formats/family.schema.json.

use crate::names::checked_text;

checked_text!(
    /// Where a group of facts comes from: never empty.
    Source,
    "a source is empty",
    |text| !text.is_empty()
);

checked_text!(
    /// `owner/name` on the hub.
    HubId,
    "a hub id is not owner/name",
    |text| text.split_once('/').is_some_and(|(owner, name)| is_word(owner) && is_word(name))
);

checked_text!(
    /// The start of a bundle's folder name. MGM's loader dispatches on it.
    BundleStem,
    "a bundle stem must contain \"mgm\" in any case and be letters, digits, dots, hyphens and underscores",
    |text| is_word(text) && text.to_ascii_lowercase().contains("mgm")
);

/// Letters, digits, `.`, `_` and `-`, the first a letter or digit.
fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}
