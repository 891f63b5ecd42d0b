//! What `release` claims: the same bundle gives the same tar, any tar reads it, and only a sound one is released.

use std::fs;
use std::process::Command;

use crate::world::{self, World, assert_same, contents, ran};

const NAME: &str = "MGM-7B-tiny-int8";

#[test]
fn the_same_bundle_gives_the_same_bytes_wherever_it_lies_and_whenever() {
    let world = World::new();
    let dir = world.tiny();
    world.good(&["release", "tiny-bundle", "-o", "one"]);
    // Another place, other times, other modes, another order of the files in the folder.
    world::copy(&dir, &world.path("elsewhere/renamed"));
    for path in contents(&dir).keys().rev() {
        let full = world.path("elsewhere/renamed").join(path);
        let mut modes = fs::metadata(&full).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut modes, 0o755);
        fs::set_permissions(&full, modes).unwrap();
    }
    world.good(&["release", "elsewhere/renamed", "-o", "two"]);
    assert_same(&world.path("one"), &world.path("two"), "two releases");
    let names: Vec<String> = contents(&world.path("one")).into_keys().collect();
    assert_eq!(names, [format!("{NAME}.id"), format!("{NAME}.tar"), "SHA256SUMS".to_owned()]);
}

#[test]
fn gnu_tar_lists_it_sorted_without_owners_or_times_and_unpacks_the_bundle() {
    let world = World::new();
    let dir = world.tiny();
    world.good(&["release", "tiny-bundle", "-o", "out"]);
    let tar = world.path(&format!("out/{NAME}.tar"));
    let names = ran(Command::new("tar").arg("tf").arg(&tar));
    assert_eq!((names.code, names.err.as_str()), (0, ""));
    let names: Vec<&str> = names.out.lines().collect();
    let expected: Vec<String> = contents(&dir).into_keys().map(|path| format!("{NAME}/{path}")).collect();
    assert_eq!(names, expected);

    let long = ran(Command::new("tar").args(["--numeric-owner", "--full-time", "--utc", "-tvf"]).arg(&tar));
    assert_eq!(long.out.lines().count(), expected.len());
    for line in long.out.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(fields[..2], ["-rw-r--r--", "0/0"], "{line}");
        assert_eq!(fields[3..5], ["1970-01-01", "00:00:00"], "{line}");
    }

    let unpack = ran(Command::new("tar").arg("xf").arg(&tar).current_dir(world.path("out")));
    assert_eq!((unpack.code, unpack.err.as_str()), (0, ""));
    assert_same(&world.path("out").join(NAME), &dir, "unpacked");
    world.good(&["verify", &format!("out/{NAME}")]);
}

#[test]
fn its_digests_and_its_id_are_right() {
    let world = World::new();
    world.tiny();
    world.good(&["release", "tiny-bundle", "-o", "out", "--part-size", "2MiB"]);
    let check =
        ran(Command::new("sha256sum").args(["-c", "--strict", "SHA256SUMS"]).current_dir(world.path("out")));
    assert_eq!(check.code, 0, "{}", check.err);
    assert!(check.out.lines().count() >= 3, "{}", check.out);
    let id = fs::read_to_string(world.path(&format!("out/{NAME}.id"))).unwrap();
    let sum = ran(Command::new("sha256sum").arg(world.path("tiny-bundle/mgpack.json")));
    assert_eq!(id, format!("sha256:{}\n", sum.out.split(' ').next().unwrap()));
}

#[test]
fn parts_are_of_one_size_and_joined_are_the_tar() {
    let world = World::new();
    world.tiny();
    world.good(&["release", "tiny-bundle", "-o", "whole"]);
    world.good(&["release", "tiny-bundle", "-o", "parts", "--part-size", "1500000"]);
    let whole = fs::read(world.path(&format!("whole/{NAME}.tar"))).unwrap();
    let parts: Vec<(String, Vec<u8>)> =
        contents(&world.path("parts")).into_iter().filter(|(name, _)| name.contains(".part-")).collect();
    assert_eq!(parts.len(), whole.len().div_ceil(1_500_000));
    for (index, (name, bytes)) in parts.iter().enumerate() {
        assert_eq!(*name, format!("{NAME}.tar.part-{index:04}"));
        assert!(bytes.len() == 1_500_000 || index == parts.len() - 1, "{name}: {}", bytes.len());
    }
    assert!(parts.into_iter().flat_map(|(_, bytes)| bytes).eq(whole), "joined");
}

#[test]
fn a_broken_bundle_is_refused_and_nothing_is_left() {
    let world = World::new();
    let dir = world.tiny();
    let shard = dir.join("model-00001-of-00002.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&shard, &bytes).unwrap();
    let ran = world.run(&["release", "tiny-bundle", "-o", "out"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("only a bundle that verifies is released"), "{}", ran.err);
    assert!(!world.path("out").exists());
}

#[test]
fn a_folder_that_holds_anything_is_refused_and_kept() {
    // Once, a second release overwrote the first one's digests and left its last parts.
    let world = World::new();
    world.tiny();
    world.good(&["release", "tiny-bundle", "-o", "out", "--part-size", "1MiB"]);
    let before = contents(&world.path("out"));
    let ran = world.run(&["release", "tiny-bundle", "-o", "out", "--part-size", "2MiB"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("error: the folder for the release is not empty"), "{}", ran.err);
    assert!(contents(&world.path("out")) == before);
}

#[test]
fn a_part_size_below_a_mebibyte_is_refused() {
    let world = World::new();
    world.tiny();
    let ran = world.run(&["release", "tiny-bundle", "-o", "out", "--part-size", "1000"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("a part is at least 1 MiB"), "{}", ran.err);
    assert!(!world.path("out").exists());
}

#[test]
fn verify_takes_the_folder_of_a_release_and_finds_what_is_wrong_in_it() {
    let world = World::new();
    world.tiny();
    world.good(&["release", "tiny-bundle", "-o", "whole"]);
    world.good(&["release", "tiny-bundle", "-o", "parts", "--part-size", "2MiB"]);
    let id = fs::read_to_string(world.path(&format!("whole/{NAME}.id"))).unwrap();
    let folders = ["whole", "parts"];
    for folder in folders {
        // A signature beside the tar is no business of ours.
        fs::write(world.path(folder).join("SHA256SUMS.sig"), "signature").unwrap();
        for more in [&[][..], &["--quick"]] {
            let report = world.good(&[&["verify", folder, "--json"], more].concat()).json();
            assert_eq!(format!("sha256:{}\n", report["id"].as_str().unwrap()), id);
        }
    }
    let tar = |folder: &str| match folder {
        "whole" => format!("{NAME}.tar"),
        _ => format!("{NAME}.tar.part-0001"),
    };
    type Change = fn(&mut Vec<u8>);
    let last: Change = |bytes| *bytes.last_mut().unwrap() ^= 1;
    let middle: Change = |bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 0x40;
    };
    for folder in folders {
        let (sums, of_id) = ("SHA256SUMS".to_owned(), format!("{NAME}.id"));
        let cut: Change = |bytes| bytes.truncate(70);
        let none: Change = |bytes| bytes.clear();
        let changes = [
            (tar(folder), last),
            (tar(folder), middle),
            (of_id.clone(), middle),
            (of_id, none),
            (sums.clone(), cut),
            (sums, middle),
        ];
        for (name, change) in changes {
            let path = world.path(folder).join(&name);
            let before = fs::read(&path).unwrap();
            let mut after = before.clone();
            change(&mut after);
            fs::write(&path, &after).unwrap();
            let ran = world.run(&["verify", folder, "--json"]);
            assert_eq!(ran.code, 1, "{folder}/{name}: {ran:?}");
            let findings = ran.json()["findings"].as_array().unwrap().clone();
            let is_named =
                |one: &serde_json::Value| one["path"].as_str().unwrap().starts_with(&format!("{folder}/"));
            assert!(findings.iter().any(is_named), "{folder}/{name}: {findings:?}");
            fs::write(&path, before).unwrap();
        }
        world.good(&["verify", folder]);
    }
    // Each part in turn is missing: found, and named.
    for name in contents(&world.path("parts")).keys().filter(|name| name.contains(".part-")) {
        let (path, kept) = (world.path("parts").join(name), world.path("kept"));
        fs::rename(&path, &kept).unwrap();
        let ran = world.run(&["verify", "parts"]);
        assert_eq!(ran.code, 1, "{name}: {ran:?}");
        assert!(ran.out.contains(&format!("parts/{name}\n")), "{name}: {}", ran.out);
        fs::rename(&kept, &path).unwrap();
    }
    // Of an older release with more parts, one is left.
    fs::write(world.path(&format!("parts/{NAME}.tar.part-0099")), "old").unwrap();
    let older = world.run(&["verify", "parts"]);
    assert_eq!(older.code, 1);
    assert!(older.out.contains(&format!("parts/{NAME}.tar.part-0099\n")), "{}", older.out);
    fs::remove_file(world.path(&format!("parts/{NAME}.tar.part-0099"))).unwrap();
    // Two releases in one folder: which is meant?
    fs::copy(world.path(&format!("whole/{NAME}.tar")), world.path("parts/other.tar")).unwrap();
    let two = world.run(&["verify", "parts"]);
    assert!(two.code == 2 && two.err.contains("several tars"), "{two:?}");
}
