//! Claims about device maps: equal to accelerate's where that is promised, better where it matters.

#![allow(missing_docs, unreachable_pub)]

#[path = "support/replay.rs"]
mod replay;

use std::path::{Path, PathBuf};

use replay::{Models, differences, read_vectors};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/device_map").join(name)
}

/// Replays a file and demands that all of its `count` vectors are equal.
fn all_equal(name: &str, count: usize) {
    let folder = data("models");
    let mut models = Models::new(&folder);
    let vectors = read_vectors(&data(name)).unwrap();
    assert_eq!(vectors.len(), count);
    let mut report = Vec::new();
    for vector in &vectors {
        for difference in differences(vector, &mut models).unwrap() {
            report.push(format!("{}: {difference}", vector.id));
        }
    }
    assert!(report.is_empty(), "{} differences:\n{}", report.len(), report.join("\n"));
}

#[test]
fn equals_accelerate_on_every_mgm_vector() {
    all_equal("mgm.jsonl.gz", 818);
}

#[test]
fn equals_accelerate_on_every_toy_vector() {
    all_equal("toys.jsonl.gz", 362);
}
