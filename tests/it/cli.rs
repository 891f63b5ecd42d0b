//! What the command line claims: its exit codes, its texts, and where it finds a model.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::world::{World, assert_same, contents, ran, save, tensor, write};
use mgpack::internals::tiny;
use safetensors::Dtype;
use serde_json::Value;
use sha2::{Digest, Sha256};

const COMMANDS: [&str; 12] = [
    "convert",
    "pull",
    "plan",
    "map",
    "load",
    "report",
    "verify",
    "inspect",
    "release",
    "doctor",
    "env",
    "completions",
];
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const CLIP: &str = "model_zoo/OpenAI/clip-vit-large-patch14-336";
const AUX: &str = "model_zoo/OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup";

/// Writes the tiny checkpoint without its towers to `dir`, and its towers below `towers`.
fn checkpoint(dir: &Path, towers: Option<&Path>) {
    for file in tiny::files(7) {
        match (file.path.starts_with("model_zoo/"), towers) {
            (false, _) => write(&dir.join(&file.path), &file.bytes),
            (true, Some(towers)) => write(&towers.join(&file.path), &file.bytes),
            (true, None) => {}
        }
    }
}

/// Puts files into a hub cache as huggingface_hub does: blobs by digest, and a snapshot of links into them.
fn into_cache(cache: &Path, hub_id: &str, prefix: &str) {
    let repo = cache.join(format!("models--{}", hub_id.replace('/', "--")));
    write(&repo.join("refs/main"), COMMIT.as_bytes());
    let snapshot = repo.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    for file in tiny::files(7) {
        let name = match (prefix, file.path.strip_prefix(prefix)) {
            ("", _) if file.path.starts_with("model_zoo/") => continue,
            ("", _) => file.path.as_str(),
            (_, Some(name)) => name.trim_start_matches('/'),
            (_, None) => continue,
        };
        let digest: String = Sha256::digest(&file.bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        write(&repo.join("blobs").join(&digest), &file.bytes);
        symlink(PathBuf::from("../../blobs").join(&digest), snapshot.join(name)).unwrap();
    }
}

#[test]
fn exit_codes_tell_findings_refusals_and_what_could_not_run_apart() {
    let world = World::new();
    world.tiny();
    let code = |args: &[&str]| world.run(args).code;
    assert_eq!(code(&["verify", "tiny-bundle"]), 0);
    assert_eq!(code(&["inspect", "tiny-bundle"]), 0);
    assert_eq!(code(&["plan", "tiny", "--bf16"]), 0);
    assert_eq!(code(&["--version"]), 0);
    assert_eq!(code(&["convert", "tiny", "--int8", "-o", "tiny-bundle"]), 1);
    assert_eq!(code(&["convert", "tiny-bundle", "--int8", "-o", "again"]), 0);
    let coded = [
        tensor("l.qweight", Dtype::I32, &[2, 2], vec![0; 16]),
        tensor("l.scales", Dtype::F16, &[2, 2], vec![0; 8]),
    ];
    save(&world.path("coded"), &[&coded]);
    assert_eq!(code(&["convert", "coded", "--bf16", "-o", "third"]), 1);
    assert_eq!(code(&["verify", "absent"]), 2);
    assert_eq!(code(&["verify", "cache"]), 2);
    assert_eq!(code(&["plan", "./absent", "--int8"]), 2);
    assert_eq!(code(&["plan", "tiny"]), 2, "no precision");
    assert_eq!(code(&["plan", "tiny", "--int8", "--fp16"]), 2, "two precisions");
    assert_eq!(code(&["plan", "tiny", "--int8", "--max-memory", "1MiB"]), 2);
    assert_eq!(code(&["plan", "tiny", "--int8", "--max-shard-size", "a lot"]), 2);
    assert_eq!(code(&["plan", "tiny", "--int8", "-j", "0"]), 2);
    assert_eq!(code(&["frobnicate"]), 2);
    fs::write(world.path("tiny-bundle/extra"), "").unwrap();
    assert_eq!(code(&["verify", "tiny-bundle"]), 1);
    assert_eq!(code(&["release", "tiny-bundle", "-o", "out"]), 1);
}

#[test]
fn an_error_says_what_where_why_and_what_to_do() {
    let world = World::new();
    world.tiny();
    fs::remove_file(world.path("tiny-bundle/config.json")).unwrap();
    let ran = world.run(&["release", "tiny-bundle", "-o", "out", "--progress", "none"]);
    assert_eq!(ran.out, "");
    assert_eq!(
        ran.err,
        "error: the bundle does not match its seal: 1 finding\n\
         where: tiny-bundle\n  \
           why: only a bundle that verifies is released or loaded\n \
          help: `mgpack verify tiny-bundle` lists the findings\n"
    );
}

#[test]
fn every_help_ends_with_two_examples_and_fits_100_columns() {
    let world = World::new();
    for command in [&[][..]].into_iter().chain(COMMANDS.iter().map(std::slice::from_ref)) {
        for flag in ["--help", "-h"] {
            let help = world.good(&[command, &[flag]].concat()).out;
            let (_, examples) =
                help.split_once("Examples:\n").unwrap_or_else(|| panic!("{command:?}: {help}"));
            let start = format!("  mgpack {}", command.first().copied().unwrap_or_default());
            let count = examples.lines().filter(|line| line.starts_with(&start)).count();
            assert_eq!(count, 2, "{command:?}: {examples}");
            for line in help.lines() {
                assert!(line.chars().count() <= 100, "{command:?}: {line}");
            }
            for line in help.lines().filter(|line| !line.contains("mgpack ")) {
                assert!(!line.contains("[default: ") || line.matches("[default: ").count() == 1, "{line}");
            }
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let world = World::new();
    world.tiny();
    for args in [
        &["inspect", "tiny-bundle", "--json"][..],
        &["plan", "tiny", "--int8"],
        &["completions", "bash"],
        &["verify", "tiny-bundle"],
    ] {
        let mut child = world.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{args:?}: {err}");
        assert!(!err.contains("error") && !err.contains("panicked"), "{args:?}: {err}");
    }
}

#[test]
fn data_goes_to_stdout_and_talk_to_stderr() {
    let world = World::new();
    let converted = world.good(&["convert", "tiny", "--int8", "-o", "out", "--json"]);
    assert_eq!(converted.json()["name"], "MGM-7B-tiny-int8");
    assert!(converted.err.contains("note: "), "{}", converted.err);
    for args in [
        &["verify", "out", "--json"][..],
        &["plan", "tiny", "--int8", "--json"],
        &["inspect", "out", "--json"],
        &["release", "out", "-o", "rel", "--json"],
    ] {
        assert!(world.good(args).json().is_object(), "{args:?}");
    }
    let silent = world.good(&["verify", "out", "--json", "--progress", "none"]);
    assert_eq!(silent.err, "");
    let plain = world.good(&["verify", "out"]);
    assert!(plain.err.lines().count() == 1 && !plain.err.contains(['\r', '\u{1b}']), "{:?}", plain.err);
}

#[test]
fn an_unknown_alias_suggests_the_nearest() {
    let world = World::new();
    for (alias, nearest) in [("7bb", "7b"), ("34bhd", "34b-hd"), ("8x7", "8x7b")] {
        let ran = world.run(&["plan", alias, "--int8"]);
        assert_eq!(ran.code, 2);
        assert!(
            ran.err.starts_with("error: ") && ran.err.contains(&format!("`{nearest}`")),
            "{alias}: {}",
            ran.err
        );
    }
}

#[test]
fn a_model_that_is_not_in_the_cache_is_named_with_the_line_that_fetches_it() {
    let world = World::new();
    for (model, hub_id) in [
        ("34b-hd", "YanweiLi/MGM-34B-HD"),
        ("YanweiLi/MGM-2B", "YanweiLi/MGM-2B"),
        ("8x7b", "YanweiLi/MGM-8x7B"),
    ] {
        let ran = world.run(&["plan", model, "--int8"]);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains(&format!("mgpack pull {hub_id}")), "{model}: {}", ran.err);
    }
}

#[test]
fn a_target_that_exists_is_refused_before_the_hub_is_asked() {
    let world = World::new();
    fs::create_dir(world.path("out")).unwrap();
    for more in [&[][..], &["--stream"]] {
        let arguments = [&["convert", "org/model", "--int8", "-o", "out"], more].concat();
        // The hub may not be asked here, and would be the next to be named.
        let ran = world.run(&arguments);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.starts_with("error: the target already exists\n"), "{}", ran.err);
    }
}

#[test]
fn a_missing_tower_is_named_with_every_place_and_the_line_that_fetches_it() {
    let world = World::new();
    checkpoint(&world.path("ckpt"), None);
    let ran = world.run(&["plan", "ckpt", "--int8"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.starts_with("error: the vision tower `clip-vit-large-patch14-336` was not found\n"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("`mgpack pull openai/clip-vit-large-patch14-336`"), "{}", ran.err);
    assert!(ran.err.contains(&format!("ckpt/{CLIP}")), "{}", ran.err);

    // Only the second one is missing.
    checkpoint(&world.path("ckpt"), Some(&world.path("ckpt")));
    fs::remove_dir_all(world.path("ckpt").join(AUX)).unwrap();
    let ran = world.run(&["plan", "ckpt", "--int8"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("`mgpack pull laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup`"),
        "{}",
        ran.err
    );
}

#[test]
fn towers_are_found_wherever_they_may_lie_and_the_bundle_is_the_same() {
    let world = World::new();
    // Inside the checkpoint: the reference.
    checkpoint(&world.path("a/ckpt"), Some(&world.path("a/ckpt")));
    world.good(&["convert", "a/ckpt", "--int8", "-o", "inside"]);
    // A model_zoo beside the checkpoint.
    checkpoint(&world.path("b/ckpt"), Some(&world.path("b")));
    world.good(&["convert", "b/ckpt", "--int8", "-o", "beside/MGM"]);
    // --towers names the folder that holds both.
    checkpoint(&world.path("c/ckpt"), Some(&world.path("t")));
    for (index, towers) in ["t/model_zoo/OpenAI", "t/model_zoo", "t"].into_iter().enumerate() {
        let out = format!("towers{index}/MGM");
        world.good(&["convert", "c/ckpt", "--int8", "--towers", towers, "-o", &out]);
        assert_same(&world.path("beside/MGM"), &world.path(&out), towers);
    }
    // --towers wins over towers inside the checkpoint, which the manifest still accounts for.
    world.good(&["convert", "a/ckpt", "--int8", "--towers", "t", "-o", "over"]);
    let manifest = String::from_utf8(contents(&world.path("over"))["mgpack.json"].clone()).unwrap();
    assert!(manifest.contains("\"path\": \"model_zoo/OpenAI/clip-vit-large-patch14-336/config.json\""));
    assert!(manifest.contains("a tower's place; the tower is listed for itself"));
    // The hub's cache.
    into_cache(&world.path("hub"), "openai/clip-vit-large-patch14-336", CLIP);
    into_cache(&world.path("hub"), "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup", AUX);
    let cached = ran(world
        .command(&["convert", "c/ckpt", "--int8", "-o", "cached"])
        .env("HF_HUB_CACHE", world.path("hub")));
    assert_eq!(cached.code, 0, "{}", cached.err);
    // The working directory's model_zoo.
    checkpoint(&world.path("d/ckpt"), Some(&world.path("")));
    world.good(&["convert", "d/ckpt", "--int8", "-o", "cwd/MGM"]);
    assert_same(&world.path("beside/MGM"), &world.path("cwd/MGM"), "the working directory");

    let shards = |dir: &str| {
        let files = contents(&world.path(dir));
        files.into_iter().filter(|(path, _)| path.contains("model")).collect::<Vec<_>>()
    };
    for dir in ["inside", "cached"] {
        assert!(shards(dir) == shards("beside/MGM"), "{dir}");
        world.good(&["verify", dir]);
    }
    assert!(contents(&world.path("cwd/MGM")).contains_key(&format!("{CLIP}/model.safetensors")));
    assert!(contents(&world.path("cwd/MGM")).contains_key(&format!("{AUX}/open_clip_pytorch_model.bin")));
}

#[test]
fn an_alias_and_a_hub_id_are_found_in_the_hubs_cache_and_recorded() {
    let world = World::new();
    let towers = world.path("towers");
    checkpoint(&world.path("unused"), Some(&towers));
    fs::remove_dir_all(world.path("unused")).unwrap();
    into_cache(&world.path("hub"), "YanweiLi/MGM-7B", "");
    let convert = |model: &str, more: &[&str], out: &str, (name, value): (&str, &str)| {
        let out = format!("{out}/MGM");
        let args = [&["convert", model, "--int8", "--towers", "towers", "-o", &out], more].concat();
        let ran = ran(world.command(&args).env(name, world.path(value)));
        assert_eq!(ran.code, 0, "{model}: {}", ran.err);
    };
    let cache = ("HF_HUB_CACHE", "hub");
    convert("7b", &[], "alias", cache);
    let manifest: Value =
        serde_json::from_slice(&fs::read(world.path("alias/MGM/mgpack.json")).unwrap()).unwrap();
    assert_eq!(manifest["model"]["name"], "MGM-7B-int8");
    assert_eq!(manifest["source"]["name"], "YanweiLi/MGM-7B");
    assert_eq!(manifest["source"]["revision"], COMMIT);
    let files = manifest["source"]["files"].as_array().unwrap();
    let mut digests = Vec::new();
    for shard in tiny::files(7).iter().filter(|file| file.path.starts_with("model-")) {
        let digest: String = Sha256::digest(&shard.bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let record = files.iter().find(|file| file["path"] == shard.path.as_str()).unwrap();
        // The blob's name is a digest too, and nobody computed it.
        assert_eq!(record["sha256"], Value::Null);
        digests.push((shard.path.clone(), digest));
    }
    assert!(digests.len() > 1, "{digests:?}");
    world.good(&["verify", "alias/MGM"]);
    convert("7b", &["--hash-source"], "hashed", cache);
    let manifest: Value =
        serde_json::from_slice(&fs::read(world.path("hashed/MGM/mgpack.json")).unwrap()).unwrap();
    let files = manifest["source"]["files"].as_array().unwrap();
    let converted = files.iter().filter(|file| file["fate"] == "converted");
    assert!(converted.clone().all(|file| file["sha256"].is_string()), "a tower's weights too: {files:?}");
    assert!(converted.clone().any(|file| file["path"].as_str().unwrap().starts_with("tower:")));
    for (path, digest) in digests {
        let record = files.iter().find(|file| file["path"] == path.as_str()).unwrap();
        assert_eq!(record["sha256"], digest);
    }
    world.good(&["verify", "hashed/MGM"]);
    convert("YanweiLi/MGM-7B", &[], "id", cache);
    assert_same(&world.path("alias/MGM"), &world.path("id/MGM"), "by hub id");
    convert("7b", &["--revision", COMMIT], "commit", cache);
    assert_same(&world.path("alias/MGM"), &world.path("commit/MGM"), "by commit");
    let snapshot = format!("hub/models--YanweiLi--MGM-7B/snapshots/{COMMIT}");
    convert(&snapshot, &[], "path", ("HF_HUB_CACHE", "nowhere"));
    assert_same(&world.path("alias/MGM"), &world.path("path/MGM"), "by the snapshot's path");
    convert("7b", &[], "home", ("HF_HOME", ""));
    assert_same(&world.path("alias/MGM"), &world.path("home/MGM"), "through HF_HOME");
    // What the snapshot links to is in the bundle as files.
    assert!(fs::symlink_metadata(world.path("alias/MGM/tokenizer.model")).unwrap().is_file());
    assert_eq!(
        ran(world
            .command(&["plan", "7b", "--int8", "--revision", "other"])
            .env("HF_HUB_CACHE", world.path("hub")))
        .code,
        2
    );
}

#[test]
fn every_shell_has_completions() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = world.good(&["completions", shell]).out;
        assert!(script.len() > 1000 && COMMANDS.iter().all(|command| script.contains(command)), "{shell}");
    }
}

#[test]
fn the_short_name_of_the_tiny_model_needs_nothing_but_the_binary() {
    let world = World::new();
    let ran = ran(world.command(&["convert", "tiny", "--int8"]).env_clear().env("HOME", world.path("home")));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.out.contains("worst tensors") && ran.out.contains("check it: mgpack verify MGM-7B-tiny-int8"),
        "{}",
        ran.out
    );
    world.good(&["verify", "MGM-7B-tiny-int8"]);
    for way in ["--fp16", "--bf16"] {
        world.good(&["convert", "tiny", way, "-o", way.trim_start_matches('-')]);
        world.good(&["verify", way.trim_start_matches('-')]);
    }
}
