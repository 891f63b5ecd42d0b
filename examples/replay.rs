//! Replays vectors of accelerate's device map through the planner and prints every difference.
//!
//! `cargo run --release --example replay -- VECTORS.jsonl[.gz] [--models DIR]`; the last line is
//! `equal N of M`, and the exit code is 0 only if all are. The form of the vectors is in
//! `tests/data/device_map/README.md`.

// An example prints; the library does not.
#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs, unreachable_pub)]

#[path = "../tests/support/replay.rs"]
mod replay;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use replay::{Failure, Models, differences, read_vectors};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, Failure> {
    let (mut vectors, mut models) = (None, None);
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--models" {
            models = Some(PathBuf::from(args.next().ok_or("--models takes a folder")?));
        } else if vectors.is_none() {
            vectors = Some(PathBuf::from(arg));
        } else {
            return Err("one file of vectors at a time".into());
        }
    }
    let vectors = vectors.ok_or("usage: replay VECTORS.jsonl[.gz] [--models DIR]")?;
    let models =
        models.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/device_map/models"));
    let mut models = Models::new(&models);
    let vectors = read_vectors(&vectors)?;
    let mut equal = 0;
    for vector in &vectors {
        let (id, found) = match vector {
            Ok(vector) => (vector.id.as_str(), differences(vector, &mut models)),
            Err(failure) => ("unreadable", Ok(vec![failure.to_string()])),
        };
        let found = found.unwrap_or_else(|failure| vec![failure.to_string()]);
        equal += usize::from(found.is_empty());
        for difference in found {
            println!("{id}: {difference}");
        }
    }
    println!("equal {equal} of {}", vectors.len());
    Ok(equal == vectors.len() && !vectors.is_empty())
}
