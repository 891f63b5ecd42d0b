//! The texts of a bundle that say what the manifest says: digests, index, device map, requirements, configuration.
//!
//! A loader reads these and not the manifest, so a bundle whose texts say something else is not what its manifest describes,
//! however well the digests agree. Carries out formats/bundle.md, "Verification".

use std::io::Read as _;

use serde::de::IgnoredAny;

use super::contents::{Contents, Entry};
use super::finding::{Finding, FindingKind};
use super::verify::unreadable;
use crate::checkpoint::MAX_CONFIG_LEN;
use crate::error::Result;
use crate::manifest::{MANIFEST_NAME, Manifest, REQUIREMENTS_NAME};

/// Name of the model's configuration in a bundle.
const CONFIG_NAME: &str = "config.json";
/// Longest requirements.txt read: a line and its reason for each of thousands of packages.
const MAX_REQUIREMENTS_LEN: u64 = 16 << 20;

/// What the texts say otherwise than the manifest.
pub(super) fn check_lists(manifest: &Manifest, contents: &dyn Contents) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    match manifest.decided_files() {
        Ok(decided) => {
            for (name, bytes) in decided {
                let is_same = |found: &[u8]| (found == bytes).then_some(()).ok_or("other text");
                findings.extend(check(
                    contents,
                    name,
                    bytes.len() as u64,
                    "the text that follows from the manifest",
                    is_same,
                )?);
            }
        }
        Err(error) => {
            findings.push(Finding::new(
                MANIFEST_NAME,
                FindingKind::Manifest,
                "a manifest that can be written",
                error,
            ));
        }
    }
    let has_pins = |text: &[u8]| match std::str::from_utf8(text) {
        Ok(text) if pins(text).eq(wanted(manifest)) => Ok(()),
        _ => Err("other lines"),
    };
    let pinned = "the pins of the manifest, each on a line, and comments";
    findings.extend(check(contents, REQUIREMENTS_NAME, MAX_REQUIREMENTS_LEN, pinned, has_pins)?);
    let is_object = |text: &[u8]| {
        let parsed = serde_json::from_slice::<std::collections::HashMap<String, IgnoredAny>>(text);
        parsed.map(|_| ()).map_err(|_| "something else")
    };
    findings.extend(check(contents, CONFIG_NAME, MAX_CONFIG_LEN, "a JSON object", is_object)?);
    Ok(findings)
}

/// A finding where a file that is there does not pass, or is longer than `most`.
fn check(
    contents: &dyn Contents,
    name: &str,
    most: u64,
    expected: &str,
    passes: impl Fn(&[u8]) -> std::result::Result<(), &'static str>,
) -> Result<Option<Finding>> {
    let Some(Entry::File { .. }) = contents.entries().get(name) else { return Ok(None) };
    let mut bytes = Vec::new();
    let read = contents.open(name).and_then(|file| file.take(most.saturating_add(1)).read_to_end(&mut bytes));
    if let Err(cause) = read {
        return unreadable(contents, name, cause).map(Some);
    }
    let passed = if bytes.len() as u64 > most { Err("a longer text") } else { passes(&bytes) };
    Ok(passed.err().map(|found| Finding::new(name, FindingKind::Manifest, expected, found)))
}

/// The lines of a list of requirements that pip acts on.
fn pins(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
}

/// Those that the manifest asks for.
fn wanted(manifest: &Manifest) -> impl Iterator<Item = String> {
    let packages = manifest.requirements.iter().filter(|need| need.package != "python");
    packages.map(|need| format!("{}=={}", need.package, need.pin))
}
