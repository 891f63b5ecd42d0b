//! Planning a device map for eight GPUs, every family and precision, from nothing to the map:
//! `cargo bench --bench planning`.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use mgpack::internals::device_map::MemoryTable;
use mgpack::internals::family::{Family, Variant};
use mgpack::internals::map::{Model, Planner};
use mgpack::internals::modules::MapRequest;
use mgpack::internals::plan::Precision;
use mgpack::internals::plan::WeightOptions;

const RUNS: usize = 21;

fn main() {
    let request =
        MapRequest { memory: vec![MemoryTable::parse("8x24GiB").unwrap()], ..MapRequest::default() };
    println!("{:<10} {:<5} {:>22} {:>22}", "family", "", "mgm (median, worst)", "accelerate-0.25");
    for family in Family::all() {
        for (word, precision) in [("fp16", Precision::Fp16), ("int8", Precision::Int8)] {
            let weights = WeightOptions { precision, layout: None, ignore: Vec::new() };
            let run = |planner| {
                let mut times: Vec<Duration> = (0..RUNS)
                    .map(|_| {
                        let start = Instant::now();
                        let model = Model::of_family(family, Variant::Plain, &weights).unwrap();
                        std::hint::black_box(model.map(planner, &request).unwrap());
                        start.elapsed()
                    })
                    .collect();
                times.sort();
                let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
                format!("{:>8.2} ms {:>8.2} ms", milliseconds(times[RUNS / 2]), milliseconds(times[RUNS - 1]))
            };
            let (mgm, accelerate) = (run(Planner::Mgm), run(Planner::Accelerate));
            println!("{:<10} {word:<5} {mgm:>22} {accelerate:>22}", family.name.to_string());
        }
    }
}
