//! Whole conversions against `cp` and `sha256sum` on the same files, with peak memory, in one run:
//! `cargo bench --bench pipeline -- [GIB…]` (2 and 8 by default; needs that much disk twice, and `/usr/bin/time`).
#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const HIDDEN: u64 = 4096;
const INTERMEDIATE: u64 = 11008;
const SHARD: u64 = 1 << 30;

fn main() {
    let sizes: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    for gib in if sizes.is_empty() { vec![2, 8] } else { sizes } {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let source = dir.path().join("checkpoint");
        let bytes = write_checkpoint(&source, gib << 30);
        println!("checkpoint of {:.2} GiB, bf16", bytes as f64 / (1u64 << 30) as f64);
        run(dir.path(), bytes, "cp", &["cp", "-r", "checkpoint", "out"]);
        run(dir.path(), bytes, "sha256sum", &["sh", "-c", "sha256sum checkpoint/*.safetensors > out"]);
        let mgpack = env!("CARGO_BIN_EXE_mgpack");
        for options in [
            &["--int8", "--format", "bnb"][..],
            &["--int8", "--format", "bnb", "--no-stats"],
            &["--int8", "--format", "compressed-tensors"],
            &["--fp16"],
            &["--bf16"],
        ] {
            let mut line = vec![mgpack, "convert", "checkpoint", "-o", "out", "--progress", "none"];
            line.extend(options);
            run(dir.path(), bytes, &format!("convert {}", options.join(" ")), &line);
        }
    }
}

/// Runs a command that writes `out`, and removes what it wrote.
fn run(dir: &Path, bytes: u64, name: &str, line: &[&str]) {
    let start = Instant::now();
    let output =
        Command::new("/usr/bin/time").args(["-f", "%M %U %S"]).args(line).current_dir(dir).output().unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{name}: {told}");
    let figures: Vec<f64> =
        told.lines().last().unwrap_or("").split(' ').filter_map(|word| word.parse().ok()).collect();
    let [peak, user, system] = figures[..] else { panic!("{name}: {told}") };
    println!(
        "  {name:<42} {seconds:>7.2} s  {:>6.2} GB/s  {user:>6.2} s user {system:>6.2} s system  peak {:>4.0} MiB",
        bytes as f64 / seconds / 1e9,
        peak / 1024.0
    );
    let out = dir.join("out");
    if out.is_dir() { fs::remove_dir_all(out).unwrap() } else { fs::remove_file(out).unwrap() }
}

/// Writes a Llama-shaped checkpoint of about `len` bytes in shards of about a gibibyte.
fn write_checkpoint(dir: &Path, len: u64) -> u64 {
    fs::create_dir(dir).unwrap();
    let linears = [
        ("self_attn.q_proj", HIDDEN, HIDDEN),
        ("self_attn.k_proj", HIDDEN, HIDDEN),
        ("self_attn.v_proj", HIDDEN, HIDDEN),
        ("self_attn.o_proj", HIDDEN, HIDDEN),
        ("mlp.gate_proj", INTERMEDIATE, HIDDEN),
        ("mlp.up_proj", INTERMEDIATE, HIDDEN),
        ("mlp.down_proj", HIDDEN, INTERMEDIATE),
    ];
    let layer: u64 = linears.iter().map(|(_, rows, columns)| rows * columns * 2).sum();
    let layers: Vec<u64> = (0..len / layer).collect();
    for (shard, layers) in layers.chunks((SHARD / layer) as usize).enumerate() {
        let mut json = String::from("{");
        let mut offset = 0;
        for layer in layers {
            for (name, rows, columns) in linears {
                let comma = if offset == 0 { "" } else { "," };
                let end = offset + rows * columns * 2;
                json += &format!(
                    "{comma}\"model.layers.{layer}.{name}.weight\":{{\"dtype\":\"BF16\",\"shape\":[{rows},{columns}],\"data_offsets\":[{offset},{end}]}}"
                );
                offset = end;
            }
        }
        json.push('}');
        let mut file =
            BufWriter::new(File::create(dir.join(format!("model-{shard:05}.safetensors"))).unwrap());
        file.write_all(&(json.len() as u64).to_le_bytes()).unwrap();
        file.write_all(json.as_bytes()).unwrap();
        let row: Vec<u8> = (0..1u32 << 20).flat_map(|i| weight(i).to_le_bytes()).collect();
        let mut left = offset as usize;
        while left > 0 {
            let part = left.min(row.len());
            file.write_all(&row[..part]).unwrap();
            left -= part;
        }
    }
    fs::write(dir.join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
    layers.len() as u64 * layer
}

fn weight(index: u32) -> u16 {
    let mixed = index.wrapping_mul(0x9e37_79b9) >> 8;
    half::bf16::from_f32((mixed as f32 / 16_777_216.0 - 0.5) * 0.24).to_bits()
}
