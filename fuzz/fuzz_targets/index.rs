//! The text of an index. What is accepted names tensors once each and stays below the checkpoint.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mgpack::internals::checkpoint::index::{ShardKind, parse};

fuzz_target!(|text: &[u8]| {
    let Ok(index) = parse(text, ShardKind::Safetensors) else { return };
    assert!(!index.entries.is_empty());
    assert!(index.entries.windows(2).all(|pair| pair[0].name < pair[1].name));
    for shard in index.shards() {
        assert!(!shard.starts_with('/') && !shard.contains(['\\', ':']));
        assert!(shard.split('/').all(|part| !part.is_empty() && part != "." && part != ".."));
    }
});
