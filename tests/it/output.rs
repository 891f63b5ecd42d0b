//! What every command that writes claims: nothing half-made is visible, nothing finished is lost, nothing of the user's
//! gives way, and no output falls into a bundle or over what is read.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;

use crate::world::{self, World, assert_same, contents, ran};

/// A world with the tiny bundle, a checkpoint beside it and a second bundle to compare with.
fn world() -> World {
    let world = World::new();
    world.tiny();
    world
}

fn checkpoint(world: &World) -> String {
    let cache = world.path("cache/mgpack");
    fs::read_dir(cache).unwrap().next().unwrap().unwrap().path().to_str().unwrap().to_owned()
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap()
}

/// A work folder as a process leaves it that was killed.
fn leftover(world: &World, name: &str) -> std::path::PathBuf {
    let dir = world.path(name);
    fs::create_dir_all(dir.join("content")).unwrap();
    fs::write(dir.join("lock"), boot_id()).unwrap();
    fs::write(dir.join("content/model.safetensors"), vec![7; 5000]).unwrap();
    dir
}

#[test]
fn what_a_killed_process_left_is_named_and_removed_by_the_next_run_of_any_command_that_writes() {
    let world = world();
    let against = checkpoint(&world);
    let commands: [&[&str]; 4] = [
        &["convert", "tiny", "--bf16", "-o", "out"],
        &["release", "tiny-bundle", "-o", "release"],
        &["report", "tiny-bundle", "--against", &against, "-o", "page.html"],
        &["map", "7b", "--int8", "--svg", "map.svg"],
    ];
    for command in commands {
        let dir = leftover(&world, ".mgpack-00112233445566ff");
        let ran = world.good(command);
        let said = "note: removed what an interrupted run left: ./.mgpack-00112233445566ff (4.92 KiB)";
        assert!(
            ran.err.contains(said) || ran.err.contains(&said.replace("./", "")),
            "{command:?}: {}",
            ran.err
        );
        assert!(!dir.exists(), "{command:?}");
    }
}

#[test]
fn a_work_folder_is_no_leftover_while_its_process_lives_or_may_live() {
    let world = world();
    // One that is locked, one of another boot that changed lately, and names that are not mgpack's.
    let live = leftover(&world, ".mgpack-0000000000000001");
    let lock = fs::File::open(live.join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let foreign = leftover(&world, ".mgpack-0000000000000002");
    fs::write(foreign.join("lock"), "another machine").unwrap();
    let others = [".mgpack-mine", ".mgpack-000000000000000G", "mgpack-0000000000000003"];
    for other in others {
        leftover(&world, other);
    }
    let ran = world.good(&["convert", "tiny", "--bf16", "-o", "out"]);
    assert!(!ran.err.contains("interrupted"), "{}", ran.err);
    for there in [".mgpack-0000000000000001", ".mgpack-0000000000000002"].iter().chain(&others) {
        assert!(world.path(there).join("content/model.safetensors").exists(), "{there}");
    }
}

#[test]
fn a_complete_output_whose_last_step_was_interrupted_is_put_in_place_by_the_next_run() {
    let world = world();
    let before = contents(&world.path("tiny-bundle"));
    let dir = world.path(".mgpack-0123456789abcdef");
    fs::create_dir_all(&dir).unwrap();
    fs::rename(world.path("tiny-bundle"), dir.join("content")).unwrap();
    fs::write(dir.join("lock"), boot_id()).unwrap();
    fs::write(dir.join("target"), "finished").unwrap();
    let ran = world.good(&["convert", "tiny", "--bf16", "-o", "other"]);
    assert!(ran.err.contains("finished was complete when an earlier run was interrupted"), "{}", ran.err);
    assert!(contents(&world.path("finished")) == before);
    assert!(!dir.exists());

    // Where the target is taken, the complete output stays, and is named.
    fs::create_dir_all(&dir).unwrap();
    fs::rename(world.path("finished"), dir.join("content")).unwrap();
    fs::write(dir.join("lock"), boot_id()).unwrap();
    fs::write(dir.join("target"), "other").unwrap();
    let ran = world.good(&["convert", "tiny", "--bf16", "-o", "third"]);
    assert!(ran.err.contains("holds the complete output of an earlier run"), "{}", ran.err);
    assert!(contents(&dir.join("content")) == before);
}

#[test]
fn a_mark_never_leads_out_of_its_folder() {
    let world = world();
    for (number, name) in ["../outside", "/tmp/outside", "..", "a/b", ""].iter().enumerate() {
        let dir = leftover(&world, &format!("deep/.mgpack-000000000000000{number}"));
        fs::write(dir.join("target"), name).unwrap();
    }
    world.good(&["convert", "tiny", "--bf16", "-o", "deep/out"]);
    assert_eq!(fs::read_dir(world.path("deep")).unwrap().count(), 1);
    assert!(!world.path("outside").exists());
}

#[test]
fn force_replaces_only_what_the_manifest_lists() {
    // Once, an `mgpack.json` of `{}` was enough for a folder of somebody's files to be deleted.
    let world = world();
    fs::create_dir(world.path("folder")).unwrap();
    fs::write(world.path("folder/mgpack.json"), "{}").unwrap();
    fs::write(world.path("folder/thesis.txt"), "mine").unwrap();
    fs::write(world.path("tiny-bundle/notes.txt"), "mine").unwrap();
    fs::create_dir(world.path("tiny-bundle/empty")).unwrap();
    let refused = [
        ("folder", "it is neither empty nor a bundle: "),
        ("tiny-bundle", "the bundle has files that its manifest does not list: `empty/`, `notes.txt`\n"),
    ];
    for (target, why) in refused {
        let before = contents(&world.path(target));
        let ran = world.run(&["convert", "tiny", "--bf16", "-o", target, "--force"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains(why), "{}", ran.err);
        assert!(contents(&world.path(target)) == before);
    }
    fs::remove_file(world.path("tiny-bundle/notes.txt")).unwrap();
    fs::remove_dir(world.path("tiny-bundle/empty")).unwrap();
    world.good(&["convert", "tiny", "--bf16", "-o", "tiny-bundle", "--force"]);
    world.good(&["verify", "tiny-bundle"]);
}

#[test]
fn no_command_writes_into_a_bundle() {
    let world = world();
    let against = checkpoint(&world);
    world.good(&["convert", "tiny", "--bf16", "-o", "other"]);
    let commands: [&[&str]; 8] = [
        &["convert", "tiny", "--fp16"],
        &["convert", "tiny", "--fp16", "-o", "sub/out", "--force"],
        &["release", ".", "-o", "out"],
        &["release", "../other", "-o", "out"],
        &["report", ".", "--against", &against],
        &["report", "../other", "--against", &against, "-o", "page.html", "--force"],
        &["env", "."],
        &["map", "7b", "--int8", "--svg", "map.svg", "--force"],
    ];
    for command in commands {
        let ran = ran(world.command(command).current_dir(world.path("tiny-bundle")));
        assert_eq!(ran.code, 1, "{command:?}: {ran:?}");
        assert!(ran.err.contains("error: the target lies inside "), "{command:?}: {}", ran.err);
    }
    world.good(&["verify", "tiny-bundle"]);
}

#[test]
fn no_output_goes_over_what_is_read_or_over_a_file_that_mgpack_did_not_make() {
    let world = world();
    let cached = checkpoint(&world);
    world::copy(cached.as_ref(), &world.path("ckpt"));
    let config = fs::read(world.path("ckpt/config.json")).unwrap();
    for force in [&[][..], &["--force"]] {
        let report = ["report", "tiny-bundle", "--against", "ckpt", "-o", "ckpt/config.json"];
        let ran = world.run(&[&report[..], force].concat());
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("error: the target lies inside what is read"), "{}", ran.err);
    }
    assert_eq!(fs::read(world.path("ckpt/config.json")).unwrap(), config);

    fs::create_dir(world.path("env")).unwrap();
    let mine = ["page.html", "map.svg", "env/requirements.txt"];
    let commands: [&[&str]; 3] = [
        &["report", "tiny-bundle", "--against", "ckpt", "-o", "page.html"],
        &["map", "7b", "--int8", "--svg", "map.svg"],
        &["env", "tiny-bundle", "-o", "env"],
    ];
    for (file, command) in mine.iter().zip(commands) {
        fs::write(world.path(file), "my own").unwrap();
        let ran = world.run(command);
        assert_eq!(ran.code, 1, "{command:?}: {ran:?}");
        assert!(ran.err.contains("error: the target already exists\n"), "{}", ran.err);
        assert_eq!(fs::read_to_string(world.path(file)).unwrap(), "my own");
        world.good(&[command, &["--force"]].concat());
        let written = fs::read(world.path(file)).unwrap();
        // What mgpack made it replaces unasked.
        world.good(command);
        assert_eq!(fs::read(world.path(file)).unwrap(), written, "{file}");
    }
    assert_eq!(world.names(), ["ckpt", "env", "map.svg", "page.html", "tiny-bundle"]);
}

#[test]
fn two_releases_at_once_into_one_folder_give_one_release() {
    let world = world();
    for round in 0..4 {
        let out = format!("out-{round}");
        let start = |size: &str| {
            let args = ["release", "tiny-bundle", "-o", &out, "--part-size", size];
            world.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let both = [start("1MiB"), start("2MiB")].map(|mut child| child.wait().unwrap().code().unwrap());
        assert_eq!(both.iter().filter(|code| **code == 0).count(), 1, "{both:?}");
        let check = ran(std::process::Command::new("sha256sum")
            .args(["-c", "--strict", "SHA256SUMS"])
            .current_dir(world.path(&out)));
        assert_eq!(check.code, 0, "{}", check.err);
        let parts = contents(&world.path(&out)).keys().filter(|name| name.contains(".part-")).count();
        assert_eq!(check.out.lines().count(), parts, "no part of the other one");
    }
}

#[test]
fn targets_of_any_legal_name_are_written() {
    // Once, the longer name of the staging folder did not fit, and a name that is not UTF-8 had no words for why.
    let world = World::new();
    let long = "b".repeat(255);
    let names: [&OsStr; 4] =
        [OsStr::new(&long), OsStr::from_bytes(b"not \xff utf-8"), OsStr::new("dot/."), OsStr::new("-o")];
    for name in names {
        let mut output = OsStr::new("--output=").to_owned();
        output.push(name);
        let ran = ran(world.command(&["convert", "tiny", "--bf16"]).arg(output));
        assert_eq!(ran.code, 0, "{name:?}: {}", ran.err);
        assert!(world.path("").join(name).join("mgpack.json").is_file(), "{name:?}");
    }
    for (name, says) in [(".", "the target already exists"), ("..", "the target "), ("/", "the target ")] {
        let ran = world.run(&["convert", "tiny", "--bf16", "-o", name]);
        assert!(ran.code == 1 || ran.code == 2, "{name}: {ran:?}");
        assert!(ran.err.contains(says), "{name}: {}", ran.err);
    }
}

#[test]
fn the_cached_tiny_checkpoint_is_used_only_as_it_was_written() {
    // Once, flipped bytes in the cache gave another bundle, with exit 0.
    let world = world();
    let shard = format!("{}/model-00001-of-00003.safetensors", checkpoint(&world));
    let mut bytes = fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(&shard, bytes).unwrap();
    let ran = world.good(&["convert", "tiny", "--int8", "-o", "again/tiny-bundle"]);
    assert!(ran.err.contains("was not as mgpack wrote it and is written again"), "{}", ran.err);
    assert_same(&world.path("again/tiny-bundle"), &world.path("tiny-bundle"), "the cache is mended");
}
