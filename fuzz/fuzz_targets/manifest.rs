//! The bytes of a manifest. What is accepted is canonical, and so are its checksum list and its seal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mgpack::internals::manifest::{Manifest, sums};

fuzz_target!(|bytes: &[u8]| {
    let Ok(manifest) = Manifest::from_bytes(bytes) else { return };
    assert_eq!(manifest.to_bytes().expect("what was read can be written"), bytes);
    let sealed = manifest.sealed().expect("what was read can be sealed");
    assert_eq!(sealed.expected_seal().expect("a seal"), sealed.seal);
    let _ = sums(&sealed.files);
});
