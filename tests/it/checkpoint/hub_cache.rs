//! Snapshots in the hub's cache: found by name, read through their links, refused when incomplete.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;

use mgpack::Explain;
use mgpack::error::{CacheError, CheckpointError, Error};
use mgpack::internals::checkpoint::Checkpoint;
use mgpack::internals::checkpoint::hub::HubCache;

use super::kit::*;

const ID: &str = "YanweiLi/MGM-2B";
const SHA256: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const SHA1: &str = "89abcdef0123456789abcdef0123456789abcdef";

fn downloaded() -> Cache {
    cache(&[
        ("model.safetensors", SHA256, &sound(&[("a", 4)])),
        ("config.json", SHA1, b"{}"),
        ("zoo/clip/config.json", &SHA1.replace('8', "7"), b"{\"clip\":1}"),
    ])
}

fn hub(cache: &Cache) -> HubCache {
    HubCache::at(cache.folder.path().join("hub"))
}

fn refused(cache: &HubCache, repo_id: &str, revision: Option<&str>) -> CacheError {
    match cache.find(repo_id, revision) {
        Err(Error::Cache(error)) => {
            assert_well_told(&error);
            error
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn finds_and_reads_a_snapshot_through_its_links() {
    let cache = downloaded();
    let snapshot = hub(&cache).find(ID, None).expect("in the cache");
    assert_eq!((snapshot.repo_id.as_str(), snapshot.commit.as_str()), (ID, COMMIT));
    assert_eq!(snapshot.dir, cache.snapshot);
    let checkpoint = Checkpoint::open(&snapshot.dir).expect("a checkpoint");
    assert_eq!(checkpoint.files()[0].sha256.as_deref(), Some(SHA256));
    let sides: Vec<(&str, Option<&str>)> =
        checkpoint.side_files().iter().map(|side| (side.path.as_str(), side.sha256.as_deref())).collect();
    assert_eq!(sides, [("config.json", None), ("zoo/clip/config.json", None)]);
    let mut bytes = [0; 4];
    checkpoint.read(&checkpoint.tensors()[0], 0, &mut bytes).expect("its bytes");
    assert_eq!(bytes, [0, 1, 2, 3]);
    checkpoint.open_side_file("zoo/clip/config.json").expect("a side file");
    checkpoint.recheck().expect("unchanged");
    let single = Checkpoint::open_file(&snapshot.dir.join("model.safetensors")).expect("one file");
    assert_eq!(single.files()[0].sha256.as_deref(), Some(SHA256));
}

#[test]
fn finds_branches_tags_and_whole_commits() {
    let cache = downloaded();
    for name in ["v1.0", "refs/pr/1", "feature/x"] {
        let path = cache.folder.path().join(REPO).join("refs").join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, format!("{COMMIT}\n")).expect("a ref");
        assert_eq!(hub(&cache).find(ID, Some(name)).expect(name).commit, COMMIT);
    }
    assert_eq!(hub(&cache).find(ID, Some(COMMIT)).expect("by commit").dir, cache.snapshot);
    // A folder in refs/ is no branch.
    assert!(matches!(refused(&hub(&cache), ID, Some("feature")), CacheError::NotInCache { .. }));
}

#[test]
fn names_the_call_that_fetches_what_is_missing() {
    let cache = downloaded();
    let cases = [
        ("YanweiLi/MGM-7B", None, "‹pull(\"YanweiLi/MGM-7B\")›"),
        (ID, Some("v2"), "‹pull(\"YanweiLi/MGM-2B\", revision=\"v2\")›"),
        (
            ID,
            Some(SHA1),
            "‹pull(\"YanweiLi/MGM-2B\", revision=\"89abcdef0123456789abcdef0123456789abcdef\")›",
        ),
    ];
    for (id, revision, line) in cases {
        let error = refused(&hub(&cache), id, revision);
        assert!(matches!(error, CacheError::NotInCache { .. }), "{error:?}");
        assert_eq!(error.explain().help.as_deref(), Some(line));
    }
}

#[test]
fn does_not_complete_a_shortened_commit() {
    let cache = downloaded();
    let error = refused(&hub(&cache), ID, Some(&COMMIT[..12]));
    assert!(matches!(error, CacheError::NotInCache { .. }));
    assert!(error.explain().why.expect("a reason").contains("all 40 digits"), "{}", told(&error));
}

#[test]
fn refuses_a_snapshot_whose_download_was_interrupted() {
    for (gone, file) in [(SHA256, "model.safetensors"), (&SHA1.replace('8', "7"), "zoo/clip/config.json")] {
        let cache = downloaded();
        fs::remove_file(cache.folder.path().join(REPO).join("blobs").join(gone)).expect("removed");
        let error = refused(&hub(&cache), ID, None);
        assert!(
            matches!(&error, CacheError::IncompleteSnapshot { files, .. } if *files == [file]),
            "{error:?}"
        );
        assert_eq!(error.explain().help.as_deref(), Some("‹pull(\"YanweiLi/MGM-2B\")›"));
        // By its path, without the name, it is refused as well.
        let opened = Checkpoint::open(&cache.snapshot);
        assert!(matches!(opened, Err(Error::Checkpoint(CheckpointError::DanglingLink { .. }))), "{opened:?}");
    }
}

/// `find_checkpoint`'s missing files.
fn missing(cache: &Cache) -> Vec<String> {
    match hub(cache).find_checkpoint(ID, None) {
        Ok(_) => Vec::new(),
        Err(Error::Cache(CacheError::IncompleteSnapshot { files, .. })) => files,
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_checkpoint_is_whole_by_the_listing_that_huggingface_hub_left() {
    let cache = downloaded();
    assert_eq!(missing(&cache), [""; 0]);
    let tree = cache.folder.path().join(REPO).join(format!("trees/{COMMIT}.json"));
    fs::create_dir_all(tree.parent().expect("a folder")).expect("folders");
    let files =
        r#"{"config.json": {}, "model.safetensors": {}, "pytorch_model.bin": {}, "vocab.txt": {"size": 1}}"#;
    let listing = |version: u64| format!(r#"{{"format_version": {version}, "files": {files}}}"#);
    fs::write(&tree, listing(1)).expect("a listing");
    assert_eq!(missing(&cache), ["vocab.txt"]);
    // Another form, or none: what the snapshot itself tells.
    for other in [listing(2), "{".to_owned(), "[]".to_owned()] {
        fs::write(&tree, other).expect("a listing");
        assert_eq!(missing(&cache), [""; 0]);
    }
}

#[test]
fn what_is_not_of_the_commit_is_no_file_of_its_checkpoint() {
    // Once, what a killed download left in a snapshot was sealed into the next bundle.
    let cache = downloaded();
    let left = |name: &str, bytes: &[u8]| fs::write(cache.snapshot.join(name), bytes).expect("a file");
    left(".28512.config.json", b"{}");
    left("tmpabc.incomplete", b"{");
    left(".123.safetensors", b"x");
    left("tmp8h2k", b"x");
    left("zoo/clip/tmp9", b"x");
    left("zoo/clip/vocab.txt", b"x");
    std::os::unix::fs::symlink("../../blobs/none", cache.snapshot.join(".28513.config.json"))
        .expect("a link");
    let sides = || -> Vec<String> {
        assert_eq!(missing(&cache), [""; 0]);
        let checkpoint = Checkpoint::open(&cache.snapshot).expect("a checkpoint");
        assert_eq!(checkpoint.files().len(), 1);
        checkpoint.side_files().iter().map(|side| side.path.clone()).collect()
    };
    // Without a listing, a name says so or nothing does.
    assert_eq!(
        sides(),
        ["config.json", "tmp8h2k", "zoo/clip/config.json", "zoo/clip/tmp9", "zoo/clip/vocab.txt"]
    );
    let files = r#"{"config.json": {}, "model.safetensors": {}, "zoo/clip/config.json": {}, "zoo/clip/vocab.txt": {}}"#;
    let tree = cache.folder.path().join(REPO).join(format!("trees/{COMMIT}.json"));
    fs::create_dir_all(tree.parent().expect("a folder")).expect("folders");
    fs::write(&tree, format!(r#"{{"format_version": 1, "files": {files}}}"#)).expect("a listing");
    assert_eq!(sides(), ["config.json", "zoo/clip/config.json", "zoo/clip/vocab.txt"]);
    let tower =
        mgpack::internals::checkpoint::Folder::open(&cache.snapshot.join("zoo/clip")).expect("a folder");
    let paths: Vec<&str> = tower.files().iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["config.json", "vocab.txt"]);
}

#[test]
fn without_a_listing_an_index_or_a_shard_tells_what_is_missing() {
    let shard = "model-00002-of-00003.safetensors";
    let weights = sound(&[("a", 4)]);
    let cache = cache(&[(shard, SHA256, &weights)]);
    let all = ["config.json", "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"];
    assert_eq!(missing(&cache), [&all[..], &["model.safetensors.index.json"]].concat());
    let index = format!(r#"{{"weight_map": {{"a": "{shard}", "b": "{}"}}}}"#, all[1]);
    fs::write(cache.snapshot.join("model.safetensors.index.json"), index).expect("an index");
    fs::write(cache.snapshot.join("config.json"), "{}").expect("a config");
    assert_eq!(missing(&cache), &all[1..]);
    fs::remove_file(cache.snapshot.join(shard)).expect("removed");
    assert_eq!(missing(&cache), [all[1], shard]);
}

#[test]
fn refuses_names_that_could_become_other_paths() {
    let cache = downloaded();
    for id in ["../x", "a/../b", "gpt2", "a--b/c", "/a", "a/b/c", "a/b;c"] {
        assert!(matches!(refused(&hub(&cache), id, None), CacheError::BadRepoId { .. }), "{id}");
    }
    for revision in ["../../x", "/main", "", "a b", "$(x)", "-f"] {
        assert!(
            matches!(refused(&hub(&cache), ID, Some(revision)), CacheError::BadRevision { .. }),
            "{revision}"
        );
    }
}

#[test]
fn refuses_a_ref_that_holds_no_commit() {
    for text in ["", "main", "../../../../etc", "0123456789ABCDEF0123456789ABCDEF01234567"] {
        let cache = downloaded();
        fs::write(cache.folder.path().join(REPO).join("refs/main"), text).expect("a ref");
        assert!(matches!(refused(&hub(&cache), ID, None), CacheError::BadRef { .. }), "{text}");
    }
    let cache = downloaded();
    fs::write(cache.folder.path().join(REPO).join("refs/main"), "0".repeat(5000)).expect("a ref");
    let found = hub(&cache).find(ID, None);
    assert!(matches!(found, Err(Error::Checkpoint(CheckpointError::TextTooLarge { .. }))), "{found:?}");
}

#[test]
fn links_lead_only_to_contents_of_the_same_cache() {
    let other = format!("hub/models--YanweiLi--MGM-7B/blobs/{SHA256}");
    let shared = format!("hub/blobs/00/{SHA256}");
    let targets = [
        (format!("../../../models--YanweiLi--MGM-7B/blobs/{SHA256}"), true, "another repository's blob"),
        (format!("../../../blobs/00/{SHA256}"), true, "a content of the shared store"),
        (format!("../../../blobs/00/{SHA256}.refs"), false, "another file of the shared store"),
        (format!("../../../blobs/{SHA256}"), false, "a file beside those of the shared store"),
        (format!("../../../../{SHA256}"), false, "a file outside of the cache"),
        ("../../../notes.txt".to_owned(), false, "another file in the cache"),
        ("../../refs/main".to_owned(), false, "a file beside the blobs"),
        ("../../blobs/deep/x".to_owned(), false, "a file below the blobs"),
        ("../0000000000000000000000000000000000000000/x".to_owned(), false, "another snapshot"),
    ];
    for (target, is_allowed, what) in targets {
        let mut cache = downloaded();
        cache.folder = cache
            .folder
            .file(&other, "x")
            .file(&shared, "x")
            .file(&format!("{shared}.refs"), "x")
            .file(&format!("hub/blobs/{SHA256}"), "x")
            .file(SHA256, "x")
            .file("hub/notes.txt", "x")
            .file(&format!("{REPO}/blobs/deep/x"), "x")
            .file(&format!("{REPO}/snapshots/0000000000000000000000000000000000000000/x"), "x")
            .link(&format!("{REPO}/snapshots/{COMMIT}/extra.txt"), target);
        let opened = Checkpoint::open(&cache.snapshot);
        let is_refused = matches!(opened, Err(Error::Checkpoint(CheckpointError::LinkLeavesRoot { .. })));
        assert_eq!((opened.is_ok(), is_refused), (is_allowed, !is_allowed), "{what}: {opened:?}");
    }
}

#[test]
fn blobs_moved_to_another_disk_give_their_contents_and_nothing_else() {
    let mut cache = downloaded();
    let blobs = cache.folder.path().join(REPO).join("blobs");
    let moved = cache.folder.path().join("elsewhere");
    fs::rename(&blobs, &moved).expect("moved");
    std::os::unix::fs::symlink(&moved, &blobs).expect("a link");
    let checkpoint = Checkpoint::open(&cache.snapshot).expect("a checkpoint");
    assert_eq!(checkpoint.files()[0].sha256.as_deref(), Some(SHA256));
    // `blobs` may lead to any folder, a home too: what is not named as a content is none.
    let extra = format!("{REPO}/snapshots/{COMMIT}/extra.txt");
    cache.folder = cache.folder.file("elsewhere/id_rsa", "x").link(&extra, "../../blobs/id_rsa");
    let opened = Checkpoint::open(&cache.snapshot);
    assert!(matches!(opened, Err(Error::Checkpoint(CheckpointError::LinkLeavesRoot { .. }))), "{opened:?}");
}

#[test]
fn finds_the_cache_where_huggingface_hub_does() {
    let all = [
        ("HF_HUB_CACHE", "/a", "/a"),
        ("HUGGINGFACE_HUB_CACHE", "/b", "/b"),
        ("HF_HOME", "~/c", "/users/me/c/hub"),
        ("XDG_CACHE_HOME", "/d", "/d/huggingface/hub"),
        ("HOME", "/users/me", "/users/me/.cache/huggingface/hub"),
    ];
    for first in 0..all.len() {
        let mut env: HashMap<&str, &str> =
            all[first..].iter().map(|(name, value, _)| (*name, *value)).collect();
        // An empty value is none.
        env.extend(all[..first].iter().map(|(name, _, _)| (*name, "")));
        let cache = HubCache::from_env(|name| env.get(name).map(OsString::from)).expect("a folder");
        assert_eq!(cache.dir().to_str(), Some(all[first].2));
    }
    assert!(matches!(HubCache::from_env(|_| None), Err(Error::Cache(CacheError::NoCacheFolder))));
}
