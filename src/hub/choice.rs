//! Which files of a repository are needed. Pure.
//!
//! A checkpoint: what `checkpoint::needed` names. A tower: what MGM opens.

use std::collections::HashMap;

use super::listing::{HubFile, Listing};
use crate::checkpoint::needed;
use crate::family::Tower;

/// Files of a checkpoint.
pub(super) fn checkpoint(listing: &Listing) -> Vec<HubFile> {
    let paths: Vec<&str> = listing.files.iter().map(|file| file.path.as_str()).collect();
    let files: HashMap<&str, &HubFile> =
        listing.files.iter().map(|file| (file.path.as_str(), file)).collect();
    let needed = needed::checkpoint_files(&paths).into_iter();
    needed.filter_map(|path| files.get(path).copied().cloned()).collect()
}

/// Files of one of MGM's towers: those it opens, its weights once, and the texts about its licence.
pub(super) fn tower(listing: &Listing, tower: &Tower) -> Vec<HubFile> {
    let is_listed = |name: &&String| listing.files.iter().any(|file| file.path == **name);
    let mut weights: Vec<&String> = tower.weights_one_of.iter().filter(is_listed).collect();
    // safetensors before others, else in the family's order.
    weights.sort_by_key(|name| !name.ends_with(".safetensors"));
    let weight = weights.first().map(|name| name.as_str());
    let wanted = |file: &&HubFile| {
        let path = file.path.as_str();
        tower.files.iter().any(|name| name == path)
            || Some(path) == weight
            || path == "README.md"
            || path.starts_with("LICENSE")
    };
    listing.files.iter().filter(wanted).cloned().collect()
}

/// True where `pattern`, in which `*` matches any run of characters, fits the whole of `path`.
pub(crate) fn fits(pattern: &str, path: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = path.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run() {
        for (pattern, path) in [("*.json", "a.json"), ("a*c*e", "abcde"), ("a", "a"), ("*", ""), ("*a*", "a")]
        {
            assert!(fits(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [("*.json", "a.jsonl"), ("a*", "ba"), ("a", "ab"), ("aa*aa", "aaa")] {
            assert!(!fits(pattern, path), "{pattern} {path}");
        }
    }
}
