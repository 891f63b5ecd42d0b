//! What is said of a bundle or a checkpoint is said of the bytes that were read, whoever changes the folder meanwhile.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::reseal::{self, manifest, sha256};
use crate::world::{self, World, save, tensor};
use mgpack::Bundle;
use mgpack::error::{BundleError, ConvertError, Error, Explain as _, IoError};
use mgpack::internals::{bundle, release};
use mgpack::progress::{Progress, Silent, Stage, Stop};
use safetensors::Dtype;

/// Puts another folder in the place of the bundle when a stage begins, and removes the bundle or not.
struct Swap {
    at: Stage,
    bundle: PathBuf,
    other: PathBuf,
    removes: bool,
    done: AtomicBool,
}

impl Swap {
    fn new(world: &World, at: Stage, removes: bool) -> Self {
        let (bundle, other) = (world.path("tiny-bundle"), world.path("other"));
        Self { at, bundle, other, removes, done: AtomicBool::new(false) }
    }
}

impl Progress for Swap {
    fn begin(&self, stage: Stage, _: u64) {
        if stage == self.at && !self.done.swap(true, Ordering::Relaxed) {
            let aside = self.bundle.with_extension("aside");
            fs::rename(&self.bundle, &aside).unwrap();
            fs::rename(&self.other, &self.bundle).unwrap();
            if self.removes {
                fs::remove_dir_all(aside).unwrap();
            }
        }
    }
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}

/// A bundle at `tiny-bundle`, and another of the same checkpoint at `other`. Their ids.
fn two() -> (World, [String; 2]) {
    let world = World::new();
    world.tiny();
    world.good(&["convert", "tiny", "--bf16", "-o", "other"]);
    let id = |dir: &str| sha256(&fs::read(world.path(dir).join(reseal::MANIFEST)).unwrap());
    let ids = [id("tiny-bundle"), id("other")];
    assert_ne!(ids[0], ids[1]);
    (world, ids)
}

#[test]
fn a_bundle_that_is_replaced_while_it_is_checked_has_no_findings_that_never_were() {
    // Once, `verify` during `convert --force` reported 13 findings, and not one of either bundle.
    for quick in [true, false] {
        let (world, _) = two();
        let at = if quick { Stage::Files } else { Stage::Verify };
        let swap = Swap::new(&world, at, true);
        if quick {
            // Nothing is reported before the headers are read: the swap comes before all.
            swap.begin(at, 0);
        }
        match bundle::verify(&world.path("tiny-bundle"), quick, &swap, &Stop::new()) {
            Ok(report) => assert!(quick && report.findings.is_empty(), "{:?}", report.findings),
            Err(Error::Bundle(error @ BundleError::Replaced { .. })) => {
                assert!(!quick && error.explain().help.is_some_and(|help| help.contains("again")));
            }
            Err(error) => panic!("{error}"),
        }
    }
    // While its old name leads elsewhere, and it is whole, what is said of it is true.
    let (world, ids) = two();
    let swap = Swap::new(&world, Stage::Verify, false);
    let report = bundle::verify(&world.path("tiny-bundle"), false, &swap, &Stop::new()).unwrap();
    assert!(swap.done.load(Ordering::Relaxed) && report.findings.is_empty());
    assert_eq!(report.id.unwrap().to_string(), ids[0]);
}

#[test]
fn a_release_is_of_the_bundle_that_was_verified() {
    for stage in [Stage::Verify, Stage::Release] {
        let (world, ids) = two();
        let swap = Swap::new(&world, stage, false);
        let out = world.path("out");
        let made = release::release(&world.path("tiny-bundle"), &out, None, &swap, &Stop::new()).unwrap();
        assert!(swap.done.load(Ordering::Relaxed));
        assert_eq!(made.id.to_string(), ids[0]);
        let report = bundle::verify(&out, false, &Silent, &Stop::new()).unwrap();
        assert_eq!((report.id.unwrap().to_string(), report.findings), (ids[0].clone(), Vec::new()));
    }
}

#[test]
fn an_open_bundle_stays_the_one_that_was_opened() {
    let (world, ids) = two();
    let bundle = Bundle::open(&world.path("tiny-bundle")).unwrap();
    let record = bundle.manifest().tensors[0].clone();
    let before = bundle.read(&record).unwrap();
    Swap::new(&world, Stage::Compare, true).begin(Stage::Compare, 0);
    assert_eq!(bundle.id().to_string(), ids[0]);
    assert_eq!(bundle.read(&record).unwrap(), before);
    bundle.check_shards(&Silent, &Stop::new()).unwrap();
}

#[test]
fn no_figures_are_told_of_bytes_that_the_id_is_not_of() {
    // Once, a report over a flipped byte of a weight had the bundle's id in it, and exit code 0.
    let world = World::new();
    let dir = world.tiny();
    let tiny = fs::read_dir(world.path("cache/mgpack")).unwrap().next().unwrap().unwrap().path();
    let tiny = tiny.to_str().unwrap();
    let against = ["report", "tiny-bundle", "--against", tiny, "-o", "page.html"];
    world.good(&against);
    fs::remove_file(world.path("page.html")).unwrap();
    let shard = dir.join("model-00001-of-00002.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, bytes).unwrap();
    let ran = world.run(&against);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.err.contains("model-00001-of-00002.safetensors") && !world.path("page.html").exists(),
        "{ran:?}"
    );
}

#[test]
fn a_map_is_not_planned_from_a_config_that_was_not_sealed() {
    let world = World::new();
    let dir = world.tiny();
    world.good(&["map", "tiny-bundle", "--gpus", "24GiB"]);
    let config = fs::read_to_string(dir.join("config.json")).unwrap();
    fs::write(
        dir.join("config.json"),
        config.replacen("\"num_hidden_layers\": ", "\"num_hidden_layers\": 1", 1),
    )
    .unwrap();
    let ran = world.run(&["map", "tiny-bundle", "--gpus", "24GiB"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("config.json"), "{ran:?}");
}

/// A checkpoint in a hub's cache whose large files are named by `digests`, not by what they hold.
fn cached(world: &World, wrong: &str) -> PathBuf {
    let weight = tensor("model.layers.0.mlp.up_proj.weight", Dtype::F32, &[2, 8], vec![0; 64]).linear();
    save(&world.path("plain"), &[&[weight]]);
    let repo = world.path("hub/models--a--b");
    let snapshot = repo.join("snapshots").join("0".repeat(40));
    fs::create_dir_all(&snapshot).unwrap();
    for (name, bytes) in world::contents(&world.path("plain")) {
        let digest = sha256(if name == wrong { b"other bytes" } else { bytes.as_slice() });
        world::write(&repo.join("blobs").join(&digest), &bytes);
        symlink(Path::new("../../blobs").join(&digest), snapshot.join(&name)).unwrap();
    }
    snapshot
}

#[test]
fn a_digest_in_a_manifest_is_one_that_was_computed() {
    // Once, a blob's name was sealed as the digest of its bytes, also against the one computed while it was copied.
    let world = World::new();
    let good = cached(&world, "none");
    world.good(&["convert", good.to_str().unwrap(), "--bf16", "-o", "good"]);
    world.good(&["convert", good.to_str().unwrap(), "--bf16", "--hash-source", "-o", "hashed"]);
    for (bundle, has_weights) in [("good", false), ("hashed", true)] {
        for file in manifest(&world.path(bundle))["source"]["files"].as_array().unwrap() {
            let bytes = fs::read(good.join(file["path"].as_str().unwrap())).unwrap();
            let is_known = file["fate"] == "copied" || (has_weights && file["fate"] == "converted");
            let expected = if is_known { sha256(&bytes).into() } else { serde_json::Value::Null };
            assert_eq!(file["sha256"], expected, "{bundle}: {file}");
        }
    }
    for (damaged, more) in [("tokenizer.json", &[][..]), ("model.safetensors", &["--hash-source"])] {
        let world = World::new();
        let snapshot = cached(&world, damaged);
        let args = [&["convert", snapshot.to_str().unwrap(), "--bf16", "-o", "out"], more].concat();
        let ran = world.run(&args);
        assert_eq!(ran.code, 2, "{ran:?}");
        for said in ["a file in the hub's cache is damaged", damaged, "remove ", "mgpack pull"] {
            assert!(ran.err.contains(said), "{said}: {}", ran.err);
        }
        assert!(!world.path("out").exists());
    }
    // The library says the same.
    let error = ConvertError::DamagedCache {
        path: "gone".into(),
        named: mgpack::Digest::ZERO,
        found: mgpack::Digest::of(b""),
    };
    assert!(error.explain().help.unwrap().contains("‹pull()›"));
}

#[test]
fn a_checkpoint_with_a_file_of_the_manifests_name_converts_and_a_bundle_is_called_one() {
    let world = World::new();
    let weight = tensor("model.layers.0.mlp.up_proj.weight", Dtype::F32, &[2, 8], vec![0; 64]).linear();
    save(&world.path("plain"), &[&[weight]]);
    for text in ["{}", "", "{\"format_version\": 1}"] {
        fs::write(world.path("plain/mgpack.json"), text).unwrap();
        world.good(&["convert", "plain", "--bf16", "--force", "-o", "out"]);
        world.good(&["verify", "out"]);
    }
    let ran = world.run(&["convert", "out", "--bf16", "-o", "again"]);
    assert!(ran.code == 0 && ran.err.contains("the source is a bundle (bf16)"), "{ran:?}");
    world.good(&["verify", "again"]);
    // One that is not what its manifest says is no source.
    fs::write(world.path("out/model-00001-of-00001.safetensors"), "").unwrap();
    let ran = world.run(&["convert", "out", "--bf16", "-o", "third"]);
    assert!(ran.code != 0 && !world.path("third").exists(), "{ran:?}");
}

#[test]
fn a_file_of_the_manifests_name_beside_a_release_makes_no_bundle_of_it() {
    let world = World::new();
    world.tiny();
    world.good(&["release", "tiny-bundle", "-o", "out"]);
    fs::write(world.path("out/mgpack.json"), "{}").unwrap();
    world.good(&["verify", "out"]);
}

#[test]
fn a_release_is_verified_in_the_files_that_were_opened() {
    // Once, the parts were opened for the tar, and again by path for their digests: of two files, the finding was neither's.
    let world = World::new();
    world.tiny();
    world.good(&["release", "tiny-bundle", "-o", "tiny-release"]);
    world.good(&["convert", "tiny", "--bf16", "-o", "tiny-bf16"]);
    world.good(&["release", "tiny-bf16", "-o", "other"]);
    let tar = |dir: &Path| {
        let tars = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        tars.into_iter().find(|path| path.extension().is_some_and(|end| end == "tar")).unwrap()
    };
    let (dir, other) = (world.path("tiny-release"), world.path("other"));
    // Its tar's name leads to another file once the first byte is to be hashed.
    let name = tar(&dir);
    let swap = Swap {
        at: Stage::Verify,
        bundle: name.clone(),
        other: tar(&other),
        removes: false,
        done: AtomicBool::new(false),
    };
    let report = bundle::verify(&dir, false, &swap, &Stop::new()).unwrap();
    assert!(swap.done.load(Ordering::Relaxed) && report.findings.is_empty(), "{:?}", report.findings);
    assert!(!bundle::verify(&dir, false, &Silent, &Stop::new()).unwrap().findings.is_empty());
    // The whole folder is another one.
    fs::rename(name.with_extension("aside"), &name).unwrap();
    let aside = world.path("aside");
    fs::create_dir(&aside).unwrap();
    let swap = Swap {
        at: Stage::Verify,
        bundle: dir.clone(),
        other: aside,
        removes: true,
        done: AtomicBool::new(false),
    };
    match bundle::verify(&dir, false, &swap, &Stop::new()) {
        Err(Error::Bundle(BundleError::Replaced { .. })) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_manifest_that_is_a_link_is_refused_by_every_command() {
    // Once, `verify` refused it, and all else read what it leads to.
    let world = World::new();
    let dir = world.tiny();
    fs::rename(dir.join(reseal::MANIFEST), world.path("elsewhere.json")).unwrap();
    symlink("../elsewhere.json", dir.join(reseal::MANIFEST)).unwrap();
    for command in [
        &["verify", "tiny-bundle"][..],
        &["inspect", "tiny-bundle"],
        &["map", "tiny-bundle"],
        &["env", "tiny-bundle"],
        &["doctor", "tiny-bundle"],
        &["load", "tiny-bundle"],
        &["release", "tiny-bundle", "-o", "out"],
        &["convert", "tiny", "--int8", "-o", "tiny-bundle", "--force"],
    ] {
        let ran = world.run(command);
        let code = if command[0] == "convert" { 1 } else { 2 };
        assert_eq!(ran.code, code, "{command:?}: {ran:?}");
        assert!(ran.err.contains("mgpack.json is a symbolic link"), "{command:?}: {ran:?}");
    }
}

#[test]
fn a_release_names_the_file_that_it_could_not_read() {
    // Once, the release's own folder was named, as if writing there had failed.
    struct Remove(PathBuf);
    impl Progress for Remove {
        fn begin(&self, stage: Stage, _: u64) {
            if stage == Stage::Release {
                fs::remove_file(&self.0).unwrap();
            }
        }
        fn advance(&self, _: u64) {}
        fn finish(&self) {}
    }
    let world = World::new();
    let file = world.tiny().join("config.json");
    let made = release::release(
        &world.path("tiny-bundle"),
        &world.path("out"),
        None,
        &Remove(file.clone()),
        &Stop::new(),
    );
    match made {
        Err(Error::Io(IoError { path, .. })) => assert_eq!(path, file),
        other => panic!("{:?}", other.map(|made| made.id)),
    }
    assert_eq!(world.names(), ["tiny-bundle"]);
}

#[test]
fn a_file_that_changes_after_it_was_verified_is_not_released() {
    struct Flip(PathBuf);
    impl Progress for Flip {
        fn begin(&self, stage: Stage, _: u64) {
            if stage == Stage::Release {
                let mut bytes = fs::read(&self.0).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(&self.0, bytes).unwrap();
            }
        }
        fn advance(&self, _: u64) {}
        fn finish(&self) {}
    }
    let world = World::new();
    let file = world.tiny().join("model-00001-of-00002.safetensors");
    let (dir, out) = (world.path("tiny-bundle"), world.path("out"));
    match release::release(&dir, &out, None, &Flip(file.clone()), &Stop::new()) {
        Err(Error::Io(IoError { path, .. })) => assert_eq!(path, file),
        other => panic!("{:?}", other.map(|made| made.id)),
    }
    assert_eq!(world.names(), ["tiny-bundle"]);
}
