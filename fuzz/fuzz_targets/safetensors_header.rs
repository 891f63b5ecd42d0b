//! A safetensors header: eight bytes of data length, then the header's text. What is accepted covers its data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mgpack::internals::checkpoint::safetensors::parse;
use mgpack::internals::tensor::byte_len;

fuzz_target!(|input: &[u8]| {
    let Some((len, text)) = input.split_first_chunk() else { return };
    let data_len = u64::from_le_bytes(*len);
    let Ok(header) = parse(text, data_len) else { return };
    let mut covered = 0;
    for tensor in &header.tensors {
        assert!(tensor.start <= tensor.end && tensor.end <= data_len);
        assert_eq!(Some(tensor.end - tensor.start), byte_len(tensor.dtype, &tensor.shape));
        covered += tensor.end - tensor.start;
    }
    assert_eq!(covered, data_len);
});
