//! A manifest in which texts are replaced and the seal is made right again, as anyone can do. Which texts: pairs of two
//! bytes and a line. What is accepted has paths below its folder, and no text that ends a line or steers a terminal.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mgpack::Digest;
use mgpack::internals::environment::requirements_txt;
use mgpack::internals::manifest::{Manifest, to_canonical};
use serde_json::Value;

const GOOD: &str = include_str!("../../formats/examples/accepted/manifest-mgm-int8.json");

fn texts<'a>(value: &'a mut Value, found: &mut Vec<&'a mut String>) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| texts(value, found)),
        Value::Object(map) => map.values_mut().for_each(|value| texts(value, found)),
        Value::String(text) => found.push(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fuzz_target!(|input: &[u8]| {
    let mut value: Value = serde_json::from_str(GOOD).expect("the example is JSON");
    let mut found = Vec::new();
    texts(&mut value, &mut found);
    for change in input.split(|byte| *byte == 0) {
        let Some((place, text)) = change.split_first_chunk::<2>() else { continue };
        let place = usize::from(u16::from_le_bytes(*place)) % found.len();
        *found[place] = String::from_utf8_lossy(text).into_owned();
    }
    value["seal"] = Digest::ZERO.to_string().into();
    let unsealed = to_canonical(&value).expect("JSON can be written");
    value["seal"] = Digest::of(&unsealed).to_string().into();
    let sealed = to_canonical(&value).expect("JSON can be written");
    let Ok(manifest) = Manifest::from_bytes(&sealed) else { return };
    assert_eq!(manifest.expected_seal().expect("a seal"), manifest.seal);
    let mut found = Vec::new();
    texts(&mut value, &mut found);
    assert!(!found.iter().any(|text| text.chars().any(char::is_control)));
    let dir = Path::new("/bundle");
    let shards = manifest.tensors.iter().map(|tensor| &tensor.shard);
    for path in manifest.files.iter().map(|file| &file.path).chain(shards) {
        assert!(dir.join(path).starts_with(dir) && !path.split('/').any(|part| part == ".."));
    }
    assert_eq!(Path::new(manifest.model.family.as_str()).components().count(), 1);
    assert_eq!(Path::new(manifest.model.name.as_str()).components().count(), 1);
    let list = requirements_txt(&manifest.requirements, &manifest.model.family);
    let packages = manifest.requirements.iter().filter(|need| need.package != "python");
    assert_eq!(list.lines().filter(|line| !line.starts_with('#')).count(), packages.count());
    let _ = manifest.contradictions();
});
