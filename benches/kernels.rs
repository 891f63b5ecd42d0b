//! Kernels against memcpy, in one run: `cargo bench --bench kernels`.
//!
//! Each figure is the median of several passes over a matrix larger than the caches, as source bytes a second
//! and as a ratio to copying the same bytes. The row is that of a 7B model's layer.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use mgpack::Isa;
use mgpack::internals::tensor::Float;

const COLUMNS: usize = 4096;
const ROWS: usize = 8192;
const PASSES: usize = 7;

fn main() {
    let source: Vec<u8> = (0..ROWS * COLUMNS).flat_map(|i| weight(i).to_le_bytes()).collect();
    let mut copy = vec![0u8; source.len()];
    let memcpy = median(|| copy.copy_from_slice(black_box(&source)));
    println!("{:<34} {:>8.2} GB/s", "memcpy", rate(&source, memcpy));
    let mut row = vec![0f32; COLUMNS];
    let mut other = vec![0f32; COLUMNS];
    let mut codes = vec![0u8; COLUMNS];
    for isa in Isa::all() {
        let report = |name: &str, work: &mut dyn FnMut(&[u8])| {
            let seconds = median(|| source.chunks(COLUMNS * 2).for_each(|chunk| work(black_box(chunk))));
            println!(
                "{:<34} {:>8.2} GB/s  {:>5.2} of memcpy",
                format!("{} {name}", isa.name()),
                rate(&source, seconds),
                memcpy / seconds
            );
        };
        report("widen bf16", &mut |chunk| isa.widen(Float::BF16, chunk, &mut row));
        report("bf16 to fp16", &mut |chunk| {
            isa.widen(Float::BF16, chunk, &mut row);
            isa.narrow(Float::F16, &row, &mut copy[..COLUMNS * 2]);
        });
        report("bnb-int8", &mut |chunk| {
            isa.widen(Float::BF16, chunk, &mut row);
            black_box(isa.magnitude(&row));
            isa.quantize_f16(&row, 1000.0, &mut codes);
        });
        report("W8A8", &mut |chunk| {
            isa.widen(Float::BF16, chunk, &mut row);
            black_box(isa.magnitude(&row));
            black_box(isa.divide(Float::BF16, &row, 0.001, &mut codes));
        });
        report("zeros of bf16", &mut |chunk| {
            black_box(isa.zeros(Float::BF16, chunk));
        });
        report("bnb-int8 with error figures", &mut |chunk| {
            isa.widen(Float::BF16, chunk, &mut row);
            black_box(isa.magnitude(&row));
            isa.quantize_f16(&row, 1000.0, &mut codes);
            isa.decode(&codes, 0.001, &mut other);
            black_box(isa.measure(&row, &other, 0.12));
        });
    }
}

/// A weight near zero, different for each index, as bf16 bits.
fn weight(index: usize) -> u16 {
    let mixed = (index as u32).wrapping_mul(0x9e37_79b9) >> 8;
    half::bf16::from_f32((mixed as f32 / 16_777_216.0 - 0.5) * 0.24).to_bits()
}

fn median(mut pass: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..PASSES)
        .map(|_| {
            let start = Instant::now();
            pass();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[PASSES / 2]
}

fn rate(source: &[u8], seconds: f64) -> f64 {
    source.len() as f64 / seconds / 1e9
}
