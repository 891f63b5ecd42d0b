//! A bundle changed by someone who can make its digests and its seal agree again: everyone can.

// Every test binary needs another part of this.
#![allow(dead_code)]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::world::contents;

pub(crate) const MANIFEST: &str = "mgpack.json";

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn manifest(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join(MANIFEST)).unwrap()).unwrap()
}

/// Writes a manifest with the seal that belongs to its content.
pub(crate) fn seal(dir: &Path, mut manifest: Value) {
    manifest["seal"] = "0".repeat(64).into();
    manifest["seal"] = sha256(format!("{manifest:#}\n").as_bytes()).into();
    fs::write(dir.join(MANIFEST), format!("{manifest:#}\n")).unwrap();
}

/// Makes the manifest list what is in the folder, with its digests, and seals it.
pub(crate) fn reseal(dir: &Path) {
    let mut manifest = manifest(dir);
    let record =
        |path: &str, bytes: &[u8]| json!({ "path": path, "size": bytes.len(), "sha256": sha256(bytes) });
    let files = contents(dir);
    let listed = files.iter().filter(|(path, _)| *path != MANIFEST && *path != "SHA256SUMS");
    let mut records: Vec<Value> = listed.map(|(path, bytes)| record(path, bytes)).collect();
    let line =
        |file: &Value| format!("{}  {}\n", file["sha256"].as_str().unwrap(), file["path"].as_str().unwrap());
    let sums: String = records.iter().map(line).collect();
    fs::write(dir.join("SHA256SUMS"), &sums).unwrap();
    records.push(record("SHA256SUMS", sums.as_bytes()));
    records.sort_by(|a, b| a["path"].as_str().unwrap().cmp(b["path"].as_str().unwrap()));
    manifest["totals"]["file_bytes"] =
        records.iter().map(|file| file["size"].as_u64().unwrap()).sum::<u64>().into();
    manifest["files"] = records.into();
    seal(dir, manifest);
}
