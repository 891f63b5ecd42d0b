//! Memory is bounded over a whole checkpoint, whatever its files say: each case runs the real command in an address space
//! that the unbounded work would not fit in.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A safetensors file of `count` tensors without elements, `name_len` bytes each in its name.
fn write_empty_tensors(path: &Path, count: usize, prefix: &str) {
    let mut header = String::from("{");
    for number in 0..count {
        let comma = if number == 0 { "" } else { "," };
        write!(header, r#"{comma}"{prefix}{number:07}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#)
            .unwrap();
    }
    header.push('}');
    let mut file = BufWriter::new(fs::File::create(path).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.flush().unwrap();
}

fn checkpoint(files: usize, tensors: usize) -> TempDir {
    checkpoint_of_names(files, tensors, "t")
}

/// The same, where each tensor's name begins with the file's number and `prefix`.
fn checkpoint_of_names(files: usize, tensors: usize, prefix: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    for file in 0..files {
        write_empty_tensors(
            &folder.path().join(format!("m{file}.safetensors")),
            tensors,
            &format!("f{file}.{prefix}"),
        );
    }
    folder
}

/// Runs the command in an address space of `mib` MiB.
fn run_within(mib: u64, arguments: &[&str]) -> Output {
    let mut line = Command::new("sh");
    line.arg("-c").arg(format!("ulimit -v {}; exec \"$@\"", mib << 10)).arg("sh");
    line.arg(env!("CARGO_BIN_EXE_mgpack")).args(arguments).env("RAYON_NUM_THREADS", "2").output().unwrap()
}

fn talk(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The headers' texts, 120 MB, took 1.6 GiB: the limits were those of one file.
#[test]
fn headers_of_many_files_are_held_against_max_memory_together() {
    // One of 40 MB is too long alone; of three with long names, only the last.
    for (folder, file) in
        [(checkpoint(3, 600_000), "m0"), (checkpoint_of_names(3, 5_400, &"t".repeat(1_000)), "m2")]
    {
        let model = folder.path().to_str().unwrap();
        let target = folder.path().join("out");
        let done = run_within(
            256,
            &["convert", model, "--bf16", "--max-memory", "64MiB", "-o", target.to_str().unwrap()],
        );
        let said = talk(&done);
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains("the checkpoint's headers have more than 16777216 bytes"), "{said}");
        assert!(said.contains(&format!("{file}.safetensors")), "{said}");
        assert!(said.contains("give more --max-memory"), "{said}");
    }
}

#[test]
fn tensors_of_many_files_are_held_against_max_memory_together() {
    // 3 × 6,000 tensors at 4 KiB are more than 64 MiB; each file alone is not.
    let folder = checkpoint(3, 6000);
    let model = folder.path().to_str().unwrap();
    let target = folder.path().join("out");
    let convert = |memory: &str| {
        run_within(
            512,
            &[
                "convert",
                model,
                "--bf16",
                "--max-memory",
                memory,
                "-o",
                target.to_str().unwrap(),
                "--dry-run",
            ],
        )
    };
    let said = talk(&convert("64MiB"));
    assert!(said.contains("have more than 16384 tensors up to this one"), "{said}");
    assert!(said.contains("m2.safetensors") && said.contains("give more --max-memory"), "{said}");
    let done = convert("256MiB");
    assert_eq!(done.status.code(), Some(0), "{}", talk(&done));
}

#[test]
fn no_command_reads_more_than_a_million_tensors() {
    let folder = checkpoint(2, 510_000);
    let model = folder.path().to_str().unwrap();
    for command in
        [&["inspect"][..], &["plan", "--bf16", "--max-memory", "8GiB"], &["map", "--bf16", "--gpus", "24GiB"]]
    {
        let done = run_within(1024, &[command, &[model]].concat());
        let said = talk(&done);
        assert!(said.contains("have more than 1000000 tensors up to this one"), "{command:?}: {said}");
    }
}

/// A header of 600,000 tensors: its table took 1.9 GiB.
#[test]
fn a_long_listing_is_printed_piece_by_piece() {
    let folder = checkpoint(1, 600_000);
    let file = folder.path().join("m0.safetensors");
    for json in [&[][..], &["--json"]] {
        let arguments = [&["inspect", file.to_str().unwrap()], json].concat();
        let done = run_within(512, &arguments);
        assert_eq!(done.status.code(), Some(0), "{}", talk(&done));
        let text = String::from_utf8(done.stdout).unwrap();
        assert_eq!(text.matches("f0.t").count(), 600_000);
        assert!(text.contains("f0.t0599999"));
    }
}

/// Entries of two letters took ninety bytes of memory for each of seven in the file.
#[test]
fn the_metadata_of_a_header_is_counted_by_what_it_takes() {
    let folder = TempDir::new().unwrap();
    let mut header = String::from(r#"{"__metadata__":{"format":"pt""#);
    for number in 0..4_000_000 {
        write!(header, r#","{number:x}":"""#).unwrap();
    }
    header.push_str("}}");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    let file = folder.path().join("m.safetensors");
    fs::write(&file, bytes).unwrap();
    let done = run_within(512, &["inspect", file.to_str().unwrap()]);
    assert!(talk(&done).contains("the checkpoint's headers have more than"), "{}", talk(&done));
}

/// A tar of 12 KiB on the disk whose entry for a long name is 6 GB long (a hole): it was read whole.
#[test]
fn a_long_name_or_an_extended_header_of_a_tar_takes_no_memory_for_its_length() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("b.tar");
    for (kind, said) in [
        (tar::EntryType::GNULongName, "a name that is longer than any path"),
        (tar::EntryType::GNULongLink, "an extended header"),
        (tar::EntryType::XHeader, "an extended header"),
        (tar::EntryType::XGlobalHeader, "an extended header"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_path("././@LongLink").unwrap();
        header.set_size(6 << 30);
        header.set_cksum();
        fs::write(&path, header.as_bytes()).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len((6 << 30) + 4096).unwrap();
        let done = run_within(256, &["verify", path.to_str().unwrap()]);
        assert_eq!(done.status.code(), Some(2), "{}", talk(&done));
        assert!(talk(&done).contains(said), "{}", talk(&done));
    }
}
