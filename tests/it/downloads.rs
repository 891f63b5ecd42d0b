//! Downloads: what is asked of a hub, what becomes of faults, and what is then in the cache.
//!
//! The other side is tests/support/hub.rs. tests/python holds the same cache against huggingface_hub's own.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use mgpack::internals::tiny;
use safetensors::Dtype;

use crate::hub::{Asked, COMMIT, Fault, Hub, digest};
use crate::world::{Ran, Random, World, assert_same, contents, ran, save, tensor, write};

const REPO: &str = "org/model";
const BIG: &str = "model.safetensors";

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).take(len).collect()
}

/// Files of a checkpoint that is downloaded and never read.
fn files() -> BTreeMap<String, Vec<u8>> {
    let file = |name: &str, bytes: Vec<u8>| (name.to_owned(), bytes);
    BTreeMap::from([
        file("config.json", b"{\"model_type\": \"llama\"}".to_vec()),
        file("tokenizer.json", random(1, 5000)),
        file(BIG, random(2, 300_000)),
        file("pytorch_model.bin", random(3, 2000)),
        file("README.md", b"text".to_vec()),
        file("notes/a b.txt", b"in a folder".to_vec()),
    ])
}

fn hub() -> Hub {
    Hub::new(REPO, files())
}

fn pull(hub: &Hub, world: &World, more: &[&str]) -> Ran {
    ran(&mut hub.command(world, &[&["pull", REPO], more].concat()))
}

fn good(hub: &Hub, world: &World, more: &[&str]) -> Ran {
    let ran = pull(hub, world, more);
    assert_eq!(ran.code, 0, "{ran:?}");
    ran
}

fn repo(world: &World) -> PathBuf {
    world.path("hf/hub/models--org--model")
}

fn snapshot(world: &World) -> PathBuf {
    repo(world).join("snapshots").join(COMMIT)
}

fn names_of(world: &World, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(repo(world).join(folder)).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The snapshot has what a conversion reads, and nothing is left of the way there.
fn assert_pulled(world: &World) {
    let all = files();
    let wanted = ["README.md", "config.json", BIG, "tokenizer.json"];
    let there = contents(&snapshot(world));
    assert_eq!(there.keys().map(String::as_str).collect::<Vec<_>>(), wanted);
    let mut digests: Vec<String> = wanted.iter().map(|name| digest(&all[*name])).collect();
    digests.sort();
    assert_eq!(names_of(world, "blobs"), digests);
    for name in wanted {
        assert!(there[name] == all[name], "{name}");
        let link = fs::read_link(snapshot(world).join(name)).unwrap();
        assert_eq!(link, PathBuf::from(format!("../../blobs/{}", digest(&all[name]))));
    }
}

/// The ranges in which a file's bytes were asked for.
fn ranges(asked: &[Asked], path: &str) -> Vec<Option<String>> {
    let is_large = files().get(path).is_none_or(|bytes| bytes.len() >= 1000);
    let of_file = asked.iter().filter(|one| one.path == path && one.elsewhere == is_large);
    of_file.map(|one| one.range.clone()).collect()
}

#[test]
fn a_checkpoint_is_pulled_once_and_found_offline() {
    let (world, hub) = (World::new(), hub());
    let pulled = good(&hub, &world, &[]);
    assert_eq!(pulled.out, format!("{}\n", snapshot(&world).display()));
    assert!(
        pulled.err.contains("fetching org/model at cccccccccccc: 297.88 KiB in 4 files"),
        "{}",
        pulled.err
    );
    assert_pulled(&world);
    assert_eq!(fs::read_to_string(repo(&world).join("refs/main")).unwrap(), COMMIT);
    assert_eq!(hub.asked().len(), 1 + 2 + 2 * 2, "the listing, two small files, two that lie elsewhere");

    let again = good(&hub, &world, &["--json"]);
    assert_eq!(again.json()[0]["path"], snapshot(&world).to_str().unwrap());
    assert_eq!(again.json()[0]["commit"], COMMIT);
    let asked: Vec<String> = hub.asked().into_iter().map(|one| one.path).collect();
    assert_eq!(asked, ["/api/models/org/model/revision/main"], "nothing is fetched twice");
    assert_eq!(good(&hub, &world, &["--offline"]).out, pulled.out);
    assert!(hub.asked().is_empty());
}

#[test]
fn a_dry_run_says_what_is_missing_and_writes_nothing() {
    let (world, hub) = (World::new(), hub());
    let before = good(&hub, &world, &["--dry-run", "--json"]).json();
    assert!(!world.path("hf").exists());
    let all = files();
    let rows = |of: &serde_json::Value| -> Vec<(String, u64, String, bool)> {
        let row = |file: &serde_json::Value| {
            let text = |key: &str| file[key].as_str().unwrap().to_owned();
            (text("path"), file["bytes"].as_u64().unwrap(), text("hash"), file["cached"].as_bool().unwrap())
        };
        let mut rows: Vec<_> = of[0]["files"].as_array().unwrap().iter().map(row).collect();
        rows.sort();
        rows
    };
    let expected = |cached: &[&str]| -> Vec<(String, u64, String, bool)> {
        let row = |name: &str| {
            let bytes = &all[name];
            (name.to_owned(), bytes.len() as u64, digest(bytes), cached.contains(&name))
        };
        ["README.md", "config.json", BIG, "tokenizer.json"].map(row).to_vec()
    };
    assert_eq!(rows(&before), expected(&[]));
    assert_eq!(before[0]["fetch_bytes"], 23 + 5000 + 300_000 + 4);

    good(&hub, &world, &["--include", "*.json"]);
    let after = good(&hub, &world, &["--dry-run", "--json"]).json();
    assert_eq!(rows(&after), expected(&["config.json", "tokenizer.json"]));
    assert_eq!(after[0]["fetch_bytes"], 300_000 + 4);
    let table = good(&hub, &world, &["--dry-run"]).out;
    for (name, state) in [("config.json", "cached"), (BIG, "fetch")] {
        let line = table.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.ends_with(state), "{line}");
    }
}

#[test]
fn patterns_choose_files() {
    let all = |world: &World| contents(&snapshot(world)).into_keys().collect::<Vec<_>>();
    for (options, chosen) in [
        (
            &["--include", "*.json", "--include", "notes/*"][..],
            &["config.json", "notes/a b.txt", "tokenizer.json"][..],
        ),
        (&["--include", "*.json", "--exclude", "tok*"], &["config.json"]),
        (
            &["--exclude", "*.safetensors", "--exclude", "README.md"],
            &["config.json", "pytorch_model.bin", "tokenizer.json"],
        ),
    ] {
        let (world, hub) = (World::new(), hub());
        let ran = pull(&hub, &world, options);
        if options[0] == "--exclude" {
            // What is excluded is excluded of what a conversion needs, so no other weights come in its place.
            assert_eq!(ran.code, 0, "{ran:?}");
            assert_eq!(all(&world), ["config.json", "tokenizer.json"]);
            continue;
        }
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(all(&world), chosen, "{options:?}");
    }
    let (world, hub) = (World::new(), hub());
    let none = pull(&hub, &world, &["--include", "*.gguf"]);
    assert_eq!(none.code, 2);
    assert!(none.err.starts_with("error: `org/model` has no file to download\n"), "{}", none.err);
}

#[test]
fn a_fault_is_overcome_and_what_came_is_kept() {
    let half = Some("bytes=150000-".to_owned());
    for (faults, asked) in [
        (&[Fault::Cut][..], vec![None, half.clone()]),
        (&[Fault::Cut, Fault::NoRange], vec![None, half.clone()]),
        (&[Fault::Cut, Fault::CutNoRange], vec![None, half.clone(), half.clone()]),
        (&[Fault::Wrong], vec![None, None]),
        (&[Fault::Status(503, "")], vec![None, None]),
        (&[Fault::Status(429, "Retry-After: 0")], vec![None, None]),
        (&[Fault::Status(408, "")], vec![None, None]),
    ] {
        let (world, hub) = (World::new(), hub());
        hub.fault(BIG, faults);
        good(&hub, &world, &[]);
        assert_pulled(&world);
        assert_eq!(ranges(&hub.asked(), BIG), asked, "{faults:?}");
    }
    let (world, hub) = (World::new(), hub());
    hub.fault("listing", &[Fault::Status(500, "")]);
    good(&hub, &world, &[]);
    assert_pulled(&world);
}

#[test]
fn what_cannot_be_overcome_is_named() {
    for (file, fault, error, help) in [
        (
            "listing",
            (401, ""),
            "error: the hub wants a token for `org/model`, or has no such repository",
            "hf auth login",
        ),
        ("listing", (403, ""), "error: the hub denies access to `org/model`", "a token that may read it"),
        (
            "listing",
            (403, "X-Error-Code: GatedRepo"),
            "error: the hub denies access to `org/model`",
            "accept the terms",
        ),
        (
            "listing",
            (404, "X-Error-Code: RepoNotFound"),
            "error: the hub does not have `org/model` at revision `main`",
            "check the name",
        ),
        (
            "listing",
            (404, "X-Error-Code: RevisionNotFound"),
            "error: `org/model` has no revision `main`",
            "--revision",
        ),
        ("listing", (400, ""), "error: the hub did not answer as it should", "HTTP status 400"),
        (
            BIG,
            (404, ""),
            "error: the hub lists `model.safetensors` in `org/model` and does not have it",
            "--exclude",
        ),
        (
            BIG,
            (416, "Content-Range: bytes */7"),
            "error: the hub does not send `model.safetensors` as long as its listing says",
            "the answer 7",
        ),
    ] {
        let (world, hub) = (World::new(), hub());
        hub.fault(file, &vec![Fault::Status(fault.0, fault.1); 3]);
        let ran = pull(&hub, &world, &[]);
        assert_eq!(ran.code, 2, "{fault:?}: {ran:?}");
        assert!(ran.err.contains(error), "{fault:?}: {}", ran.err);
        assert!(ran.err.contains(help), "{fault:?}: {}", ran.err);
        assert!(!snapshot(&world).exists(), "a snapshot that looks whole");
    }
}

#[test]
fn an_address_that_is_none_says_what_one_is() {
    let (world, hub) = (World::new(), hub());
    for bad in ["ftp://hub.test", "hub.test", "https://"] {
        let ran = ran(hub.command(&world, &["pull", REPO]).env("HF_ENDPOINT", bad));
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains("error: the hub's address is not usable"), "{}", ran.err);
        assert!(
            ran.err.contains("give https://HOST, or http://HOST for a server of your own"),
            "{}",
            ran.err
        );
    }
    assert!(hub.asked().is_empty());
}

#[test]
fn bytes_that_stay_wrong_never_get_a_name() {
    let (world, hub) = (World::new(), hub());
    hub.fault(BIG, &[Fault::Wrong, Fault::Wrong]);
    let ran = pull(&hub, &world, &[]);
    assert_eq!(ran.code, 2);
    let received = digest(&files()[BIG].iter().map(|byte| !byte).collect::<Vec<_>>());
    let listed = digest(&files()[BIG]);
    assert!(ran.err.contains("what was received is not the file that the hub lists"), "{}", ran.err);
    assert!(ran.err.contains(&format!("the listing says {listed}, the bytes are {received}")), "{}", ran.err);
    assert!(!repo(&world).join("blobs").join(&listed).exists());
    let left = fs::metadata(repo(&world).join("blobs").join(format!("{listed}.incomplete"))).unwrap();
    assert_eq!(left.len(), 0, "the next run would go on with wrong bytes");
    good(&hub, &world, &[]);
    assert_pulled(&world);
}

#[test]
fn a_file_of_another_length_than_listed_is_given_up_the_second_time() {
    for listed in [300_001, 299_999] {
        let (world, hub) = (World::new(), hub());
        hub.lists(BIG, listed);
        let ran = pull(&hub, &world, &[]);
        assert_eq!(ran.code, 2);
        let why = format!("the listing says {listed} bytes, the answer 300000");
        assert!(ran.err.contains(&why), "{}", ran.err);
        assert_eq!(ranges(&hub.asked(), BIG).len(), 2);
    }
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let (world, hub) = (World::new(), hub());
    let token = ran(hub.command(&world, &["pull", REPO]).env("HF_TOKEN", " hf_secret\n"));
    assert_eq!(token.code, 0, "{token:?}");
    let asked = hub.asked();
    assert!(asked.iter().any(|one| one.elsewhere) && asked.iter().any(|one| !one.elsewhere));
    for one in asked {
        let sent = (!one.elsewhere).then(|| "Bearer hf_secret".to_owned());
        assert_eq!(one.authorization, sent, "{one:?}");
    }
    let world = World::new();
    hub.fault("listing", &[Fault::Status(401, "")]);
    let refused = ran(hub.command(&world, &["pull", REPO]).env("HF_TOKEN", "hf_secret"));
    assert!(refused.err.contains("does not accept the token for `org/model`"), "{}", refused.err);
    assert!(!refused.err.contains("hf_secret"));
}

#[test]
fn a_file_that_an_earlier_run_began_goes_on_where_it_ended() {
    let all = files();
    let listed = digest(&all[BIG]);
    for (left, range) in [
        (all[BIG][..100_000].to_vec(), Some(Some("bytes=100000-".to_owned()))),
        (Vec::new(), Some(None)),
        // More than the file has: none of it counts.
        (random(9, 300_001), Some(None)),
        // All of it: nothing is asked for.
        (all[BIG].clone(), None),
    ] {
        let (world, hub) = (World::new(), hub());
        write(&repo(&world).join("blobs").join(format!("{listed}.incomplete")), &left);
        let dry = good(&hub, &world, &["--dry-run", "--json"]).json();
        let missing = 23 + 5000 + 4 + 300_000 - if left.len() > 300_000 { 300_000 } else { left.len() };
        assert_eq!(dry[0]["fetch_bytes"], missing);
        good(&hub, &world, &[]);
        assert_pulled(&world);
        assert_eq!(ranges(&hub.asked(), BIG), Vec::from_iter(range), "{} bytes", left.len());
    }
    // Of the right length, with other bytes: fetched again, once.
    let (world, hub) = (World::new(), hub());
    write(&repo(&world).join("blobs").join(format!("{listed}.incomplete")), &random(9, 300_000));
    good(&hub, &world, &[]);
    assert_pulled(&world);
    assert_eq!(ranges(&hub.asked(), BIG), [None]);
}

#[test]
fn a_large_file_comes_in_pieces_and_every_request_names_its_range() {
    // More pieces than are asked for ahead of the one that is written.
    const LEN: usize = (44 << 20) + 5;
    let all = BTreeMap::from([
        ("config.json".to_owned(), b"{}".to_vec()),
        ("tokenizer.json".to_owned(), b"{}".to_vec()),
        (BIG.to_owned(), random(4, LEN)),
    ]);
    let (world, hub) = (World::new(), Hub::new(REPO, all.clone()));
    hub.fault(BIG, &[Fault::Cut, Fault::Status(503, "")]);
    good(&hub, &world, &[]);
    assert!(contents(&snapshot(&world)) == all);
    let mut asked: Vec<(u64, u64)> = ranges(&hub.asked(), BIG)
        .into_iter()
        .map(|range| {
            let range = range.expect("a request without a range");
            let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            (first.parse().unwrap(), last.parse::<u64>().map_or(LEN as u64, |last| last + 1))
        })
        .collect();
    asked.sort_unstable();
    assert!(asked.len() >= 8, "{asked:?}");
    assert!(asked.iter().all(|(first, end)| end - first <= 4 << 20), "{asked:?}");
    let mut covered = 0;
    for (first, end) in asked {
        assert!(first <= covered, "a hole before {first}");
        covered = covered.max(end);
    }
    assert_eq!(covered, LEN as u64);
}

#[test]
fn a_server_without_ranges_sends_a_large_file_whole() {
    const LEN: usize = 20 << 20;
    let all = BTreeMap::from([
        ("config.json".to_owned(), b"{}".to_vec()),
        ("tokenizer.json".to_owned(), b"{}".to_vec()),
        (BIG.to_owned(), random(5, LEN)),
    ]);
    let (world, hub) = (World::new(), Hub::new(REPO, all.clone()));
    hub.fault(BIG, &[Fault::NoRange]);
    good(&hub, &world, &[]);
    assert!(contents(&snapshot(&world)) == all);
    assert_eq!(ranges(&hub.asked(), BIG).len(), 1);
}

#[test]
fn a_revision_gets_a_ref_and_a_commit_needs_none() {
    let (world, hub) = (World::new(), hub());
    good(&hub, &world, &["--revision", COMMIT]);
    assert!(!repo(&world).join("refs").exists());
    assert_pulled(&world);
    let none = pull(&hub, &world, &["--revision", "v2"]);
    assert_eq!(none.code, 2);
    assert!(none.err.contains("`org/model` has no revision `v2`"), "{}", none.err);
}

/// A checkpoint that can be converted, in two shards.
fn real() -> BTreeMap<String, Vec<u8>> {
    let folder = World::new();
    let one = |number: usize, rows: usize| {
        let name = format!("model.layers.{number}.mlp.up_proj.weight");
        let bytes = random(number as u64, rows * 64 * 2).iter().map(|byte| byte & 0x3f).collect();
        tensor(&name, Dtype::BF16, &[rows, 64], bytes).linear()
    };
    save(&folder.path("ckpt"), &[&[one(0, 1024)], &[one(1, 960)]]);
    contents(&folder.path("ckpt"))
}

#[test]
fn convert_downloads_what_it_needs_and_gives_the_bundle_of_a_local_checkpoint() {
    let (world, hub) = (World::new(), Hub::new(REPO, real()));
    let convert = |more: &[&str]| {
        let ran = ran(&mut hub.command(&world, &[&["convert", REPO, "--int8"], more].concat()));
        assert_eq!(ran.code, 0, "{ran:?}");
    };
    convert(&["--stream", "-o", "out"]);
    fs::rename(world.path("out"), world.path("streamed")).unwrap();
    let in_stream = ranges(&hub.asked(), "model-00001-of-00002.safetensors");
    assert_eq!(in_stream, [Some("bytes=0-65535".to_owned()), None], "its head, then all of it");
    convert(&["-o", "out"]);
    assert!(hub.asked().iter().all(|one| one.path.starts_with("/api/")), "all was in the cache");
    assert_same(&world.path("streamed"), &world.path("out"), "streamed and not");
    let shown = world.good(&["inspect", "out"]).out;
    assert!(shown.contains(&format!("from {REPO}@{COMMIT}, by mgpack ")), "{shown}");
    let names = contents(&world.path("out"));
    for name in names.keys().filter(|name| name.ends_with(".safetensors")) {
        assert!(names[name].len() > 64 * 960, "{name}");
    }
    // Discarded as they are read: the weights are gone, the rest stays.
    let world = World::new();
    let args = ["convert", REPO, "--int8", "--stream", "--discard-source", "-o", "out"];
    let ran = ran(&mut hub.command(&world, &args));
    assert_eq!(ran.code, 0, "{ran:?}");
    let left = contents(&snapshot(&world));
    assert!(left.contains_key("config.json") && left.keys().all(|name| !name.ends_with(".safetensors")));
    assert_eq!(names_of(&world, "blobs").len(), left.len());
}

#[test]
fn a_stream_that_was_interrupted_goes_on_and_fetches_nothing_again_that_it_is_done_with() {
    const FIRST: &str = "model-00001-of-00002.safetensors";
    const SECOND: &str = "model-00002-of-00002.safetensors";
    let (world, hub) = (World::new(), Hub::new(REPO, real()));
    let args = ["convert", REPO, "--int8", "--max-shard-size", "80KiB", "-o", "out"];
    let streamed = [&args[..], &["--stream", "--discard-source", "-j", "1"]].concat();
    // Its head comes, and then it is gone.
    hub.fault(SECOND, &[Fault::None, Fault::Status(404, "")]);
    let broken = ran(&mut hub.command(&world, &streamed));
    assert_eq!(broken.code, 2, "{broken:?}");
    assert!(!world.path("out").exists());
    let first = ranges(&hub.asked(), FIRST);
    assert!(first.contains(&None), "{first:?}");

    let done = ran(&mut hub.command(&world, &streamed));
    assert_eq!(done.code, 0, "{done:?}");
    let head = Some("bytes=0-65535".to_owned());
    let asked = hub.asked();
    assert!(ranges(&asked, FIRST).iter().all(|range| *range == head), "{asked:?}");
    assert!(ranges(&asked, SECOND).contains(&None), "{asked:?}");
    let other = World::new();
    let whole = ran(&mut hub.command(&other, &args));
    assert_eq!(whole.code, 0, "{whole:?}");
    assert_same(&other.path("out"), &world.path("out"), "in one go and in two");
}

#[test]
fn a_dry_run_of_a_stream_writes_nothing_and_plans_the_same() {
    let (world, hub) = (World::new(), Hub::new(REPO, real()));
    let args = ["convert", REPO, "--int8", "--stream", "--dry-run", "--json", "-o", "out"];
    let dry = ran(&mut hub.command(&world, &args));
    assert_eq!(dry.code, 0, "{dry:?}");
    assert!(!world.path("hf").exists() && !world.path("out").exists());
    good(&hub, &world, &[]);
    let plan = ran(&mut hub.command(&world, &["plan", REPO, "--int8", "--json"])).json();
    assert_eq!(dry.json()["tensors"], plan["tensors"]);
    assert_ne!(plan["tensors"].as_array().map_or(0, Vec::len), 0);
}

#[test]
fn a_tokenizer_that_only_the_hub_has_is_fetched_before_a_conversion() {
    // `AutoModel.from_pretrained` fetches config.json and the weights alone.
    let (world, hub) = (World::new(), Hub::new(REPO, real()));
    good(&hub, &world, &["--include", "config.json", "--include", "*.safetensors*"]);
    assert!(!snapshot(&world).join("tokenizer.json").exists());
    hub.asked();
    let done = ran(&mut hub.command(&world, &["convert", REPO, "--int8", "-o", "out"]));
    assert_eq!(done.code, 0, "{done:?}");
    assert!(hub.asked().iter().any(|one| one.path == "tokenizer.json"));
    assert!(world.path("out/tokenizer.json").exists());
    // With a tokenizer in the cache nothing is asked.
    fs::rename(world.path("out"), world.path("first")).unwrap();
    let again = ran(&mut hub.command(&world, &["convert", REPO, "--int8", "-o", "out"]));
    assert_eq!(again.code, 0, "{again:?}");
    assert!(hub.asked().is_empty());
    assert_same(&world.path("first"), &world.path("out"), "fetched and not");
}

#[test]
fn an_mgm_model_is_pulled_and_converted_with_its_towers() {
    const CLIP: &str = "model_zoo/OpenAI/clip-vit-large-patch14-336/";
    const AUX: &str = "model_zoo/OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup/";
    let mut repos: [BTreeMap<String, Vec<u8>>; 3] = Default::default();
    for file in tiny::files(7) {
        let at = [CLIP, AUX].iter().position(|prefix| file.path.starts_with(prefix));
        let path = file.path.trim_start_matches(CLIP).trim_start_matches(AUX).to_owned();
        repos[at.map_or(0, |at| at + 1)].insert(path, file.bytes.to_vec());
    }
    let [model, clip, aux] = repos;
    assert!(!model.is_empty() && !clip.is_empty() && !aux.is_empty());
    let hub = Hub::new("YanweiLi/MGM-7B", model);
    let mut clip = clip;
    clip.insert("tf_model.h5".to_owned(), b"MGM does not open it".to_vec());
    hub.add("openai/clip-vit-large-patch14-336", clip);
    hub.add("laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup", aux);
    let world = World::new();
    let pulled = ran(&mut hub.command(&world, &["pull", "7b", "--json"]));
    assert_eq!(pulled.code, 0, "{pulled:?}");
    let repos: Vec<String> =
        pulled.json().as_array().unwrap().iter().map(|one| one["repo"].to_string()).collect();
    assert_eq!(repos.len(), 3, "{repos:?}");
    let tower = World::new();
    let alone = ran(&mut hub.command(&tower, &["pull", "openai/clip-vit-large-patch14-336", "--json"]));
    let files = contents(alone.json()[0]["path"].as_str().unwrap().as_ref());
    assert!(files.contains_key("preprocessor_config.json"), "{:?}", files.keys());
    assert!(!files.contains_key("tf_model.h5"), "{:?}", files.keys());
    let alone = ran(&mut hub.command(&World::new(), &["pull", "7b", "--json", "--no-towers"]));
    assert_eq!(alone.json().as_array().unwrap().len(), 1);
    hub.asked();
    let out = ran(&mut hub.command(&world, &["convert", "7b", "--int8", "-o", "MGM-7B-int8"]));
    assert_eq!(out.code, 0, "{out:?}");
    assert!(hub.asked().iter().all(|one| one.path.starts_with("/api/")), "all was pulled");
    // Without a pull, the same.
    let fresh = World::new();
    let out = ran(&mut hub.command(&fresh, &["convert", "7b", "--int8", "-o", "MGM-7B-int8"]));
    assert_eq!(out.code, 0, "{out:?}");
    assert_same(&world.path("MGM-7B-int8"), &fresh.path("MGM-7B-int8"), "pulled and not");
}
