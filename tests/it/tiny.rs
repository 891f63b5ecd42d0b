//! The tiny checkpoint is what it claims: MGM-7B's structure, the same bytes everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::Path;

use crate::world::{self, World};
use mgpack::error::{Error, Explain, OutputError};
use mgpack::internals::family::{Detected, Family, TowerRole, Variant};
use mgpack::internals::tiny;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn bytes<'a>(files: &'a [tiny::TinyFile], path: &str) -> &'a [u8] {
    &files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("no {path}")).bytes
}

/// Name and shape of every parameter of MGM-7B, towers included.
fn tree_of_the_7b() -> BTreeMap<String, Vec<usize>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/device_map/models/MGM-7B.full.json.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    let tree: Value = serde_json::from_str(&text).unwrap();
    let parameters = tree["tensors"].as_array().unwrap().iter().filter(|tensor| tensor["kind"] == "param");
    let entry = |tensor: &Value| {
        (
            tensor["name"].as_str().unwrap().to_owned(),
            serde_json::from_value(tensor["shape"].clone()).unwrap(),
        )
    };
    parameters.map(entry).collect()
}

/// False for names of layers that the tiny one does not have.
fn is_in_four_layers(name: &str) -> bool {
    let Some((_, rest)) = name.split_once("layers.") else { return true };
    rest.split('.').next().unwrap().parse::<usize>().unwrap() < 4
}

/// All shards' tensors: name to (shard, shape).
fn shard_tensors(files: &[tiny::TinyFile]) -> BTreeMap<String, (String, Vec<usize>)> {
    let mut found = BTreeMap::new();
    for file in files.iter().filter(|file| file.path.starts_with("model-")) {
        let (_, metadata) = SafeTensors::read_metadata(&file.bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        for (name, tensor) in SafeTensors::deserialize(&file.bytes).unwrap().iter() {
            assert_eq!(tensor.dtype(), Dtype::BF16);
            let entry = (file.path.clone(), tensor.shape().to_vec());
            assert!(found.insert(name.to_owned(), entry).is_none(), "{name} twice");
        }
    }
    found
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_every_machine() {
    let mut hasher = Sha256::new();
    for file in tiny::files(0) {
        hasher.update(format!("{}\0{}\0", file.path, file.bytes.len()));
        hasher.update(&file.bytes);
    }
    let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(found, "a245d1994aaf85ed5ba6506687d787d9460e5a25d89fda20369ef74daebc1536");
}

#[test]
fn another_seed_changes_the_weights_and_nothing_else() {
    let (one, two) = (tiny::files(1), tiny::files(2));
    assert_eq!(one.len(), two.len());
    for (a, b) in one.iter().zip(&two) {
        let is_weights = a.path.ends_with(".safetensors") || a.path.ends_with(".bin");
        assert_eq!((&a.path, a.bytes.len()), (&b.path, b.bytes.len()));
        assert_eq!(a.bytes != b.bytes, is_weights, "{}", a.path);
    }
}

#[test]
fn it_is_written_whole_and_stays_below_40_mb() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("MGM-7B-tiny");
    let byte_len = tiny::write(&dir, 3).unwrap();
    assert!(byte_len < 40_000_000, "{byte_len}");
    let files = tiny::files(3);
    assert_eq!(files.len(), 14);
    for file in files {
        assert_eq!(fs::read(dir.join(&file.path)).unwrap(), file.bytes, "{}", file.path);
    }
}

#[test]
fn a_folder_that_holds_anything_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("notes.txt"), "mine").unwrap();
    let error = tiny::write(temp.path(), 0).unwrap_err();
    assert!(matches!(error, Error::Output(OutputError::NotEmpty { .. })));
    assert_eq!(error.to_string(), "the folder for the tiny checkpoint is not empty");
    assert_eq!(error.explain().place.unwrap(), temp.path().display().to_string());
    assert_eq!(error.explain().help.unwrap(), "give a new or an empty folder with ‹output›");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1, "nothing was written");
}

#[test]
fn its_config_is_detected_as_a_plain_7b_of_other_shapes() {
    let config: Value = serde_json::from_slice(bytes(&tiny::files(0), "config.json")).unwrap();
    let Detected::Mgm(found) = Family::detect(&config) else { panic!("generic") };
    assert_eq!((found.family.name.as_str(), found.variant), ("mgm-7b", Variant::Plain));
    assert!(found.differences.iter().any(|one| one.key == "hidden_size" && one.found == 256));
    // The first command of a newcomer opened with a note of eight shapes in which mgpack's own checkpoint differs.
    assert_eq!(found.notice(), None);
    // One shape more or less is a checkpoint of somebody else.
    for (key, value) in
        [("vocab_size", 32000), ("vocab_size", 513), ("mm_hidden_size", 1024), ("head_dim", 2)]
    {
        let mut other = config.clone();
        other[key] = value.into();
        let Detected::Mgm(found) = Family::detect(&other) else { panic!("generic") };
        let notice = found.notice().unwrap();
        assert!(
            notice.starts_with("taken as mgm-7b, but its shapes differ: hidden_size 256 (not 4096)"),
            "{notice}"
        );
    }
    assert_eq!(config["architectures"][0], found.family.model.architecture.as_str());
}

#[test]
fn its_tensors_are_those_of_the_7b_at_the_sizes_of_its_config() {
    let files = tiny::files(0);
    let config: Value = serde_json::from_slice(bytes(&files, "config.json")).unwrap();
    let size = |key: &str| config[key].as_u64().unwrap() as usize;
    // Sizes of the real model to sizes of the tiny one. The two meanings of 1024 and 4096 do not meet:
    // CLIP's width is 1024, the language model's 4096.
    let scaled = |dim: usize| match dim {
        4096 => size("hidden_size"),
        11008 => size("intermediate_size"),
        32000 => size("vocab_size"),
        1024 => size("mm_hidden_size"),
        2880 => size("mm_hidden_size_aux"),
        other => panic!("unexpected size {other}"),
    };
    let expected: BTreeMap<String, Vec<usize>> = tree_of_the_7b()
        .into_iter()
        .filter(|(name, _)| !name.starts_with("model.vision_tower") && is_in_four_layers(name))
        .map(|(name, shape)| (name, shape.into_iter().map(scaled).collect()))
        .collect();
    let found: BTreeMap<String, Vec<usize>> =
        shard_tensors(&files).into_iter().map(|(name, (_, shape))| (name, shape)).collect();
    assert_eq!(found, expected);
    assert_eq!(found.len(), 55);
    assert_eq!(size("num_hidden_layers"), 4);
}

#[test]
fn the_index_names_every_tensors_shard_and_the_total_size() {
    let files = tiny::files(0);
    let index: Value = serde_json::from_slice(bytes(&files, "model.safetensors.index.json")).unwrap();
    let tensors = shard_tensors(&files);
    let map: BTreeMap<String, String> = serde_json::from_value(index["weight_map"].clone()).unwrap();
    let expected: BTreeMap<String, String> =
        tensors.iter().map(|(name, (shard, _))| (name.clone(), shard.clone())).collect();
    assert_eq!(map, expected);
    assert_eq!(map.values().collect::<BTreeSet<_>>().len(), 3);
    let total: usize = tensors.values().map(|(_, shape)| 2 * shape.iter().product::<usize>()).sum();
    assert_eq!(index["metadata"]["total_size"], total);
}

#[test]
fn both_towers_have_the_files_and_names_that_the_family_asks_for() {
    let files = tiny::files(0);
    let config: Value = serde_json::from_slice(bytes(&files, "config.json")).unwrap();
    let family = Family::by_alias("7b").unwrap().0;
    for tower in &family.towers {
        assert_eq!(config[&tower.config_key], tower.path.as_str());
        let has = |name: &String| files.iter().any(|file| file.path == format!("{}/{name}", tower.path));
        assert!(tower.files.iter().all(has), "{}", tower.path);
        assert!(tower.weights_one_of.iter().any(has), "{}", tower.path);
    }
}

#[test]
fn the_clip_tower_has_the_real_names() {
    let files = tiny::files(0);
    let tower = Family::by_alias("7b").unwrap().0.tower(TowerRole::Clip).unwrap();
    let tensors =
        SafeTensors::deserialize(bytes(&files, &format!("{}/model.safetensors", tower.path))).unwrap();
    let config: Value =
        serde_json::from_slice(bytes(&files, &format!("{}/config.json", tower.path))).unwrap();
    let size = |key: &str| config[key].as_u64().unwrap() as usize;
    let positions = 1 + (size("image_size") / size("patch_size")).pow(2);
    let expected: BTreeMap<String, Vec<usize>> = tree_of_the_7b()
        .into_iter()
        .filter_map(|(name, shape)| {
            Some((name.strip_prefix("model.vision_tower.vision_tower.")?.to_owned(), shape))
        })
        .filter(|(name, _)| is_in_four_layers(name))
        .map(|(name, shape)| {
            let scaled = |dim: usize| match dim {
                1024 => size("hidden_size"),
                4096 => size("intermediate_size"),
                577 => positions,
                other => other,
            };
            (name, shape.into_iter().map(scaled).collect())
        })
        .collect();
    let found: BTreeMap<String, Vec<usize>> =
        tensors.iter().map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec())).collect();
    assert_eq!(found, expected);
    assert_eq!(size("num_hidden_layers"), 4);
}

/// Reads the one form of pickle that the tiny tower has: every BINUNICODE, and the integers of the shape tuple
/// that follows each name.
fn names_and_shapes(pickle: &[u8]) -> BTreeMap<String, Vec<usize>> {
    let mut found = BTreeMap::new();
    let mark = b"J\0\0\0\0(";
    for (at, _) in
        pickle.windows(8).enumerate().filter(|(_, window)| window.starts_with(b"X") && window[5..] == *b"vis")
    {
        let len = u32::from_le_bytes(pickle[at + 1..at + 5].try_into().unwrap()) as usize;
        let name = String::from_utf8(pickle[at + 5..at + 5 + len].to_vec()).unwrap();
        let shape_at =
            at + pickle[at..].windows(mark.len()).position(|window| window == mark).unwrap() + mark.len();
        let integers = pickle[shape_at..].chunks_exact(5).take_while(|chunk| chunk[0] == b'J');
        let shape =
            integers.map(|chunk| u32::from_le_bytes(chunk[1..].try_into().unwrap()) as usize).collect();
        found.insert(name, shape);
    }
    found
}

#[test]
fn the_auxiliary_tower_has_the_real_names_and_the_real_shapes() {
    let files = tiny::files(0);
    let tower = Family::by_alias("7b").unwrap().0.tower(TowerRole::Aux).unwrap();
    let file = bytes(&files, &format!("{}/open_clip_pytorch_model.bin", tower.path));
    assert!(file.len() < 2_000_000, "{}", file.len());
    let pickle_len = u32::from_le_bytes(file[18..22].try_into().unwrap()) as usize;
    let field = |at: usize| usize::from(u16::from_le_bytes(file[at..at + 2].try_into().unwrap()));
    let pickle_at = 30 + field(26) + field(28);
    let found = names_and_shapes(&file[pickle_at..pickle_at + pickle_len]);
    let expected: BTreeMap<String, Vec<usize>> = tree_of_the_7b()
        .into_iter()
        .filter_map(|(name, shape)| {
            let part = name.strip_prefix("model.vision_tower_aux.vision_")?;
            Some((format!("visual.trunk.{part}"), shape))
        })
        .collect();
    assert_eq!(found, expected);
    assert_eq!(found.len(), 340);
    let parameters: usize = found.values().map(|shape| shape.iter().product::<usize>()).sum();
    assert_eq!(parameters as u64, tower.parameters.get());
}

#[test]
fn a_plan_leaves_nothing_behind() {
    // Once, `plan tiny` wrote the checkpoint into the user's cache.
    let world = World::new();
    fs::create_dir(world.path("temporary")).unwrap();
    let run = |args: &[&str]| {
        let ran = world::ran(world.command(args).env("TMPDIR", world.path("temporary")));
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.out
    };
    let plans = [
        &["plan", "tiny", "--int8"][..],
        &["plan", "tiny", "--int8", "--json"],
        &["convert", "tiny", "--bf16", "--dry-run"],
    ];
    let planned: Vec<String> = plans.iter().map(|plan| run(plan)).collect();
    assert_eq!(world.names(), ["temporary"]);
    assert!(!world.path("cache").exists());
    assert_eq!(fs::read_dir(world.path("temporary")).unwrap().count(), 0);
    // What is in the cache is used where it is whole, and left alone where it is not.
    run(&["convert", "tiny", "--int8", "-o", "bundle"]);
    let cached = world::contents(&world.path("cache"));
    assert_eq!(plans.iter().map(|plan| run(plan)).collect::<Vec<_>>(), planned);
    let (name, _) = cached.iter().find(|(name, _)| name.ends_with("config.json")).unwrap();
    fs::write(world.path("cache").join(name), "{}").unwrap();
    let damaged = world::contents(&world.path("cache"));
    assert_eq!(plans.iter().map(|plan| run(plan)).collect::<Vec<_>>(), planned);
    assert!(world::contents(&world.path("cache")) == damaged);
    assert_eq!(fs::read_dir(world.path("temporary")).unwrap().count(), 0);
}
