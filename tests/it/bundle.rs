//! What `verify` claims: nothing in a bundle can change without a finding that names it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::world::{self, Ran, Random, World, contents, write};
use mgpack::internals::bundle;
use mgpack::progress::{Silent, Stop};
use serde_json::Value;

const MANIFEST: &str = "mgpack.json";

/// Paths of all findings; the exit code must be that of findings.
fn found(ran: &Ran) -> Vec<String> {
    assert_eq!(ran.code, 1, "{ran:?}");
    let findings = ran.json()["findings"].as_array().unwrap().clone();
    assert!(!findings.is_empty());
    for finding in &findings {
        for key in ["path", "kind", "expected", "found"] {
            assert!(finding[key].is_string(), "{finding}");
        }
        assert_ne!(finding["expected"], finding["found"], "{finding}");
    }
    findings.iter().map(|finding| finding["path"].as_str().unwrap().to_owned()).collect()
}

/// Checks that `verify` names the file. Without a readable manifest nothing can be checked: exit 2.
fn assert_named(world: &World, path: &str, what: &str) {
    let ran = world.run(&["verify", "tiny-bundle", "--json"]);
    if path == MANIFEST && ran.code == 2 {
        assert!(ran.err.contains(MANIFEST), "{what}: {}", ran.err);
    } else {
        assert_ne!(ran.code, 0, "{what} of {path} was not found");
        assert!(found(&ran).iter().any(|name| name == path), "{what} of {path}: {}", ran.out);
    }
}

/// Changes every file of a bundle in turn, checks that it is named, and puts it back.
fn every_file(what: &str, change: impl Fn(&Path, &[u8])) {
    let world = World::new();
    let dir = world.tiny();
    let files = contents(&dir);
    assert!(files.len() >= 18, "{:?}", files.keys());
    for (path, bytes) in &files {
        let full = dir.join(path);
        change(&full, bytes);
        assert_named(&world, path, what);
        let _ = fs::remove_file(&full);
        let _ = fs::remove_file(moved(&full));
        fs::write(&full, bytes).unwrap();
    }
    world.good(&["verify", "tiny-bundle"]);
}

fn moved(path: &Path) -> std::path::PathBuf {
    path.with_extension("moved")
}

#[test]
fn an_untouched_bundle_verifies() {
    let world = World::new();
    let dir = world.tiny();
    let report = world.good(&["verify", "tiny-bundle", "--json"]).json();
    assert_eq!(report["findings"], Value::Array(vec![]));
    let files = contents(&dir);
    assert_eq!(report["files"], files.len());
    let listed: usize =
        files.iter().filter(|(path, _)| *path != MANIFEST).map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(report["bytes"], listed, "every byte but the manifest's own was hashed");
    let quick = world.good(&["verify", "tiny-bundle", "--quick", "--json"]).json();
    assert_eq!((&quick["bytes"], &quick["findings"]), (&Value::from(0), &Value::Array(vec![])));
}

#[test]
fn sha256sum_accepts_a_bundle_and_the_id_is_the_digest_of_its_manifest() {
    let world = World::new();
    let dir = world.tiny();
    let check = world::ran(
        std::process::Command::new("sha256sum").args(["-c", "--strict", "SHA256SUMS"]).current_dir(&dir),
    );
    assert_eq!(check.code, 0, "{}", check.err);
    let files = contents(&dir);
    assert_eq!(check.out.lines().count(), files.len() - 2, "all but the manifest and the list itself");
    let sum = world::ran(std::process::Command::new("sha256sum").arg(dir.join(MANIFEST)));
    let report = world.good(&["verify", "tiny-bundle", "--json"]).json();
    assert_eq!(report["id"], sum.out.split(' ').next().unwrap());
}

#[test]
fn one_flipped_byte_in_any_file_is_found() {
    for position in [0.0, 0.5, 0.999_999_999] {
        every_file("a flipped byte", |full, bytes| {
            let mut bytes = bytes.to_vec();
            let index = (bytes.len() as f64 * position) as usize;
            bytes[index] ^= 0xff;
            fs::write(full, bytes).unwrap();
        });
    }
}

#[test]
fn any_missing_file_is_found() {
    every_file("absence", |full, _| fs::remove_file(full).unwrap());
}

#[test]
fn any_file_cut_by_one_byte_is_found() {
    every_file("a cut", |full, bytes| fs::write(full, &bytes[..bytes.len() - 1]).unwrap());
}

#[test]
fn any_file_longer_by_one_byte_is_found() {
    for byte in [b"\0", b"\n", b" "] {
        every_file("an added byte", |full, bytes| fs::write(full, [bytes, byte].concat()).unwrap());
    }
}

#[test]
fn any_renamed_file_is_found_under_both_names() {
    every_file("a new name", |full, _| fs::rename(full, moved(full)).unwrap());
    let world = World::new();
    let dir = world.tiny();
    fs::rename(dir.join("config.json"), dir.join("Config.json")).unwrap();
    let names = found(&world.run(&["verify", "tiny-bundle", "--json"]));
    assert_eq!(names, ["Config.json", "config.json"]);
}

#[test]
fn any_file_replaced_by_a_link_to_the_same_bytes_is_found() {
    let outside = World::new();
    every_file("a link", |full, bytes| {
        fs::write(outside.path("copy"), bytes).unwrap();
        fs::remove_file(full).unwrap();
        symlink(outside.path("copy"), full).unwrap();
    });
}

#[test]
fn any_file_replaced_by_a_folder_is_found() {
    let world = World::new();
    let dir = world.tiny();
    for path in contents(&dir).keys().filter(|path| *path != MANIFEST) {
        let (full, aside) = (dir.join(path), world.path("aside"));
        fs::rename(&full, &aside).unwrap();
        fs::create_dir(&full).unwrap();
        let names = found(&world.run(&["verify", "tiny-bundle", "--json"]));
        assert!(names.iter().any(|name| name.trim_end_matches('/') == path), "{path}: {names:?}");
        fs::remove_dir(&full).unwrap();
        fs::rename(&aside, &full).unwrap();
    }
}

#[test]
fn two_swapped_shards_are_both_found() {
    let world = World::new();
    let dir = world.tiny();
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    fs::rename(dir.join(shards[0]), dir.join("aside")).unwrap();
    fs::rename(dir.join(shards[1]), dir.join(shards[0])).unwrap();
    fs::rename(dir.join("aside"), dir.join(shards[1])).unwrap();
    assert_eq!(found(&world.run(&["verify", "tiny-bundle", "--json"])), shards);
}

#[test]
fn whatever_was_added_is_found() {
    for added in
        ["extra.txt", ".hidden", "model_zoo/x/y.bin", "model-00003-of-00003.safetensors", "MGPACK.json"]
    {
        let world = World::new();
        let dir = world.tiny();
        write(&dir.join(added), b"new");
        assert_eq!(found(&world.run(&["verify", "tiny-bundle", "--json"])), [added]);
        assert_eq!(found(&world.run(&["verify", "tiny-bundle", "--quick", "--json"])), [added]);
    }
    for folder in ["empty", "model_zoo/empty"] {
        let world = World::new();
        fs::create_dir(world.tiny().join(folder)).unwrap();
        assert_eq!(found(&world.run(&["verify", "tiny-bundle", "--json"])), [format!("{folder}/")]);
    }
    let world = World::new();
    symlink("config.json", world.tiny().join("link")).unwrap();
    assert_eq!(found(&world.run(&["verify", "tiny-bundle", "--json"])), ["link"]);
}

#[test]
fn several_changes_are_all_told_at_once() {
    let world = World::new();
    let dir = world.tiny();
    fs::remove_file(dir.join("tokenizer.model")).unwrap();
    fs::write(dir.join("config.json"), "{}").unwrap();
    fs::write(dir.join("extra"), "").unwrap();
    let names = found(&world.run(&["verify", "tiny-bundle", "--json"]));
    assert_eq!(names, ["config.json", "extra", "tokenizer.model"]);
}

#[test]
fn two_hundred_random_bits_are_found_in_the_file_they_are_in() {
    let world = World::new();
    let dir = world.tiny();
    // The manifest's own bits are the next test's.
    let files: BTreeMap<String, Vec<u8>> =
        contents(&dir).into_iter().filter(|(path, _)| path != MANIFEST).collect();
    let total: u64 = files.values().map(|bytes| bytes.len() as u64).sum();
    let mut random = Random(20);
    for _ in 0..200 {
        let mut position = random.below(total) as usize;
        let bit = random.below(8);
        let (path, bytes) = files
            .iter()
            .find(|(_, bytes)| {
                let inside = position < bytes.len();
                if !inside {
                    position -= bytes.len();
                }
                inside
            })
            .unwrap();
        let mut changed = bytes.clone();
        changed[position] ^= 1 << bit;
        fs::write(dir.join(path), &changed).unwrap();
        let names = found(&world.run(&["verify", "tiny-bundle", "--json"]));
        assert_eq!(names.iter().filter(|name| *name != path).count(), 0, "{names:?}");
        assert!(names.contains(path), "bit {bit} of byte {position} of {path}");
        fs::write(dir.join(path), bytes).unwrap();
    }
}

#[test]
fn no_bit_of_the_manifest_can_change_unseen() {
    // Once, a version or a reason could change and the bundle verified: only its id changed.
    let world = World::new();
    let dir = world.tiny();
    let whole = fs::read(dir.join(MANIFEST)).unwrap();
    let mut random = Random(21);
    let version = whole.windows(5).position(|text| text == b"0.1.0").unwrap() + 4;
    let chosen = (0..200).map(|_| random.below(whole.len() as u64) as usize);
    for position in [version].into_iter().chain(chosen) {
        let mut changed = whole.clone();
        changed[position] ^= 1;
        fs::write(dir.join(MANIFEST), changed).unwrap();
        let ran = world.run(&["verify", "tiny-bundle", "--quick", "--json"]);
        assert_eq!(ran.code, 1, "byte {position}: {ran:?}");
        assert!(found(&ran).contains(&MANIFEST.to_owned()), "byte {position}: {ran:?}");
    }
}

#[test]
fn another_bundle_than_the_one_asked_for_is_a_finding() {
    let world = World::new();
    world.tiny();
    let report = world.good(&["verify", "tiny-bundle", "--json"]).json();
    let id = format!("sha256:{}", report["id"].as_str().unwrap());
    world.good(&["verify", "tiny-bundle", "--id", &id]);
    let other = format!("sha256:{}", "0".repeat(64));
    let ran = world.run(&["verify", "tiny-bundle", "--id", &other, "--json"]);
    assert_eq!((ran.code, found(&ran)), (1, vec![MANIFEST.to_owned()]));
}

#[test]
fn what_the_manifest_says_of_files_and_tensors_cannot_be_changed() {
    let world = World::new();
    let dir = world.tiny();
    let text = fs::read_to_string(dir.join(MANIFEST)).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let change = |pointer: &str, value: Value| {
        let mut changed = manifest.clone();
        let place = changed.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}"));
        assert_ne!(*place, value, "{pointer}");
        *place = value;
        // Sealed again, so that it is the contradiction that is found and not the seal.
        changed["seal"] = "0".repeat(64).into();
        let seal = mgpack::Digest::of(format!("{changed:#}\n").as_bytes());
        changed["seal"] = seal.to_string().into();
        fs::write(dir.join(MANIFEST), format!("{changed:#}\n")).unwrap();
        let ran = world.run(&["verify", "tiny-bundle", "--json"]);
        assert_eq!(ran.code, 1, "{pointer}: {ran:?}");
        let findings = found(&ran);
        // It must be the change that is found, not the form it was written in.
        assert!(!ran.out.contains("canonical form"), "{pointer}: {}", ran.out);
        findings
    };
    for (index, file) in manifest["files"].as_array().unwrap().iter().enumerate() {
        let digest = file["sha256"].as_str().unwrap();
        let other = if digest.starts_with('0') { "1" } else { "0" };
        change(&format!("/files/{index}/sha256"), format!("{other}{}", &digest[1..]).into());
        change(&format!("/files/{index}/size"), (file["size"].as_u64().unwrap() + 1).into());
        change(&format!("/files/{index}/path"), format!("{}x", file["path"].as_str().unwrap()).into());
    }
    for (index, tensor) in manifest["tensors"].as_array().unwrap().iter().enumerate().step_by(7) {
        let at = |key: &str| format!("/tensors/{index}/{key}");
        change(&at("name"), format!("{}x", tensor["name"].as_str().unwrap()).into());
        change(&at("dtype"), if tensor["dtype"] == "F64" { "I64" } else { "F64" }.into());
        change(&at("shape"), serde_json::json!([3, 5, 7]));
        change(&at("shard"), "config.json".into());
        change(&at("range/0"), (tensor["range"][0].as_u64().unwrap() + 1).into());
        change(&at("range/1"), (tensor["range"][1].as_u64().unwrap() + 1).into());
    }
    let mut twice = manifest["tensors"].as_array().unwrap().clone();
    twice.push(twice[0].clone());
    assert!(change("/tensors", twice.into()).iter().all(|path| path == MANIFEST));
    assert_eq!(change("/model/name", "../../evil".into()), [MANIFEST]);
    assert_eq!(change("/totals/file_bytes", 1.into()), [MANIFEST]);
    assert_eq!(change("/format_version", 3.into()), [MANIFEST]);
}

#[test]
fn a_manifest_in_another_form_is_found() {
    let world = World::new();
    let path = world.tiny().join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    let forms = [
        value.to_string(),
        text.replace("  \"", "\t\""),
        text.replace('\n', "\r\n"),
        format!("{text}\n"),
        format!(" {text}"),
        text.replacen("{", "{\n  \"more\": 1,", 1),
        text.replacen("\"variant\": \"plain\"", "\"variant\": \"pl\\u0061in\"", 1),
    ];
    for form in forms {
        assert_ne!(form, text);
        fs::write(&path, form).unwrap();
        assert_eq!(found(&world.run(&["verify", "tiny-bundle", "--json"])), [MANIFEST]);
    }
}

#[test]
fn a_quick_check_finds_sizes_and_headers_and_reads_no_weights() {
    let world = World::new();
    let dir = world.tiny();
    let shard = "model-00002-of-00002.safetensors";
    let bytes = fs::read(dir.join(shard)).unwrap();
    let quick = || world.run(&["verify", "tiny-bundle", "--quick", "--json"]);

    fs::write(dir.join(shard), &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(found(&quick()), [shard]);

    let mut changed = bytes.clone();
    let name = changed.windows(4).position(|window| window == b"BF16" || window == b"\"F16").unwrap();
    changed[name + 2] ^= 1;
    fs::write(dir.join(shard), &changed).unwrap();
    assert!(found(&quick()).iter().all(|name| name == shard));

    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(dir.join(shard), &changed).unwrap();
    assert_eq!(quick().code, 0, "what --quick leaves out");
    assert_eq!(found(&world.run(&["verify", "tiny-bundle", "--json"])), [shard]);

    fs::write(dir.join(shard), &bytes).unwrap();
    fs::write(dir.join("SHA256SUMS"), fs::read(dir.join("SHA256SUMS")).unwrap().to_ascii_uppercase())
        .unwrap();
    assert_eq!(found(&quick()), ["SHA256SUMS"]);
}

#[test]
fn the_check_before_loading_reads_every_byte_of_small_files() {
    let world = World::new();
    let dir = world.tiny();
    let flip = |name: &str| {
        let mut bytes = fs::read(dir.join(name)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(dir.join(name), bytes).unwrap();
    };
    let paths = || {
        let report = bundle::verify_small(&dir, &Silent, &Stop::new()).unwrap();
        report.findings.into_iter().map(|finding| finding.path).collect::<Vec<_>>()
    };
    assert!(paths().is_empty());
    let (towers, shard) =
        ("model_zoo/OpenAI/clip-vit-large-patch14-336/config.json", "model-00001-of-00002.safetensors");
    flip(towers);
    flip(shard);
    assert_eq!(world.run(&["verify", "tiny-bundle", "--quick"]).code, 0);
    // The shard of this small model is a small file, too.
    assert_eq!(paths(), [shard, towers]);
    assert!((fs::metadata(dir.join(shard)).unwrap().len()) < bundle::SMALL_LEN);
    flip(towers);
    assert_eq!(paths(), [shard]);
}

/// Where each member's content lies in a tar, read from its headers: path in the bundle, start, length.
fn members(tar: &[u8]) -> Vec<(String, usize, usize)> {
    let text =
        |bytes: &[u8]| String::from_utf8(bytes.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap();
    let (mut found, mut at, mut long) = (Vec::new(), 0, None);
    while tar[at] != 0 {
        let header = &tar[at..at + 512];
        let len = usize::from_str_radix(text(&header[124..136]).trim(), 8).unwrap();
        let start = at + 512;
        if header[156] == b'L' {
            long = Some(text(&tar[start..start + len]));
        } else {
            let name = long.take().unwrap_or_else(|| text(&header[..100]));
            found.push((name.split_once('/').unwrap().1.to_owned(), start, len));
        }
        at = start + len.next_multiple_of(512);
    }
    found
}

#[test]
fn a_flipped_byte_in_the_content_of_a_released_tar_is_found_in_its_file() {
    let world = World::new();
    let dir = world.tiny();
    world.good(&["release", "tiny-bundle", "-o", "out"]);
    let tar = world.path("out/MGM-7B-tiny-int8.tar");
    let bytes = fs::read(&tar).unwrap();
    let members = members(&bytes);
    assert_eq!(members.len(), contents(&dir).len());
    let verify = || world.run(&["verify", "out/MGM-7B-tiny-int8.tar", "--json"]);
    assert_eq!(verify().code, 0);
    for (path, start, len) in &members {
        for position in [0, len / 2, len - 1] {
            let mut changed = bytes.clone();
            changed[start + position] ^= 0xff;
            fs::write(&tar, &changed).unwrap();
            let ran = verify();
            assert!(found(&ran).contains(path), "{path}: {}", ran.out);
        }
    }
}

#[test]
fn no_byte_of_a_released_tar_can_change_unseen() {
    let world = World::new();
    world.tiny();
    world.good(&["release", "tiny-bundle", "-o", "out"]);
    let tar = world.path("out/MGM-7B-tiny-int8.tar");
    let bytes = fs::read(&tar).unwrap();
    let seen = |changed: &[u8], what: &str| {
        fs::write(&tar, changed).unwrap();
        let ran = world.run(&["verify", "out/MGM-7B-tiny-int8.tar", "--json"]);
        assert!(ran.code == 1 || ran.code == 2, "{what}: {ran:?}");
    };
    let members = members(&bytes);
    let mut outside: Vec<usize> = (0..bytes.len()).collect();
    for (_, start, len) in members.iter().rev() {
        outside.drain(*start..start + len);
    }
    // Headers, padding, and the two blocks of zeros at the end.
    assert!(outside.len() > 512 * members.len());
    let mut random = Random(4);
    for _ in 0..150 {
        let position = outside[random.below(outside.len() as u64) as usize];
        let mut changed = bytes.clone();
        changed[position] ^= 1 << random.below(8);
        seen(&changed, &format!("a bit of byte {position}"));
    }
    seen(&bytes[..bytes.len() - 1], "a tar cut by one byte");
    seen(&bytes[..bytes.len() - 512], "a tar without its last block");
    seen(&[&bytes[..], b"\0"].concat(), "a tar longer by one byte");
    seen(&[&bytes[..], &[0; 512]].concat(), "a tar longer by one block");
    seen(&bytes[..bytes.len() / 2], "half a tar");
    seen(b"", "an empty tar");
    fs::write(&tar, &bytes).unwrap();
    world.good(&["verify", "out/MGM-7B-tiny-int8.tar"]);
}

#[test]
fn parts_verify_together_and_no_part_can_change_vanish_or_trade_places() {
    let world = World::new();
    world.tiny();
    world.good(&["release", "tiny-bundle", "-o", "out", "--part-size", "1MiB"]);
    let part = |index: usize| world.path(&format!("out/MGM-7B-tiny-int8.tar.part-{index:04}"));
    let parts: Vec<Vec<u8>> =
        (0..).map(&part).take_while(|path| path.exists()).map(|path| fs::read(path).unwrap()).collect();
    assert!(parts.len() >= 6, "{}", parts.len());
    let verify = || world.run(&["verify", "out/MGM-7B-tiny-int8.tar.part-0000", "--json"]);
    assert_eq!(verify().code, 0, "{:?}", verify());
    let seen = |what: &str| {
        let ran = verify();
        assert!(ran.code == 1 || ran.code == 2, "{what}: {ran:?}");
        for (index, bytes) in parts.iter().enumerate() {
            fs::write(part(index), bytes).unwrap();
        }
    };
    for (index, bytes) in parts.iter().enumerate() {
        let mut changed = bytes.clone();
        changed[bytes.len() / 2] ^= 1;
        fs::write(part(index), &changed).unwrap();
        seen(&format!("a bit in part {index}"));
        fs::write(part(index), &bytes[..bytes.len() - 1]).unwrap();
        seen(&format!("a cut in part {index}"));
        fs::write(part(index), [&bytes[..], b"\0"].concat()).unwrap();
        seen(&format!("a byte more in part {index}"));
        fs::remove_file(part(index)).unwrap();
        seen(&format!("part {index} missing"));
    }
    fs::write(part(1), &parts[2]).unwrap();
    fs::write(part(2), &parts[1]).unwrap();
    seen("two parts swapped");
    fs::write(part(parts.len()), &parts[1]).unwrap();
    seen("a part more");
    fs::remove_file(part(parts.len())).unwrap();
    assert_eq!(verify().code, 0);
}

/// The bundles of tests/data/bundles, which an earlier mgpack wrote.
#[test]
fn bundles_of_version_1_are_still_verified_mapped_and_loaded() {
    for (name, map) in [("w8a8", 4), ("bnb", 4), ("fp16", 4)] {
        let world = World::new();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bundles/version-1").join(name);
        fs::create_dir(world.path("old")).unwrap();
        for (path, bytes) in contents(&from) {
            fs::write(world.path("old").join(path), bytes).unwrap();
        }
        world.good(&["verify", "old"]);
        let planned = world.good(&["map", "old", "--gpus", "2x1GiB", "--context", "64", "--json"]).json();
        let recorded = world.good(&["map", "old", "--json"]).json();
        // The modules and their sizes are those that the bundle was planned with.
        let sizes = |map: &Value| {
            let why = map["maps"][0]["profile"]["why"].as_array().unwrap().clone();
            why.iter().map(|why| (why["module"].clone(), why["bytes"].clone())).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&planned), sizes(&recorded), "{name}");
        assert!(sizes(&planned).len() > map, "{planned}");
        let loaded = world.good(&["load", "old", "--json"]).json();
        assert!(loaded["tensors"].as_u64().unwrap() >= 9, "{loaded}");
        // It is of its version: a field of a later one makes no manifest of it.
        let text = fs::read_to_string(world.path("old/mgpack.json")).unwrap();
        let with = text.replacen("  \"device_maps\":", "  \"modules\": [],\n  \"device_maps\":", 1);
        assert_ne!(text, with);
        fs::write(world.path("old/mgpack.json"), with).unwrap();
        let ran = world.run(&["verify", "old"]);
        assert!(ran.code == 1 && ran.out.contains("unknown field `modules`"), "{ran:?}");
    }
}
