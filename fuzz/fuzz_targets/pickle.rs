//! A pickle, and views of 4 KiB of storage. Whatever it says, reading ends and stays inside the storage.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mgpack::internals::checkpoint::torch::probe_pickle;

fuzz_target!(|text: &[u8]| {
    let _ = probe_pickle(text, vec![7; 4096]);
});
