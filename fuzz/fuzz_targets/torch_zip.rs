//! A whole torch file: a zip archive, or the form before it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mgpack::internals::checkpoint::torch::probe;

fuzz_target!(|bytes: &[u8]| {
    let _ = probe(bytes.to_vec());
});
