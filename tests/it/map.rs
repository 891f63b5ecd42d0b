//! What `mgpack map` claims: the planners through the command, refusals that help, and profiles of a bundle.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::replay;
use crate::world::{World, ran, save, tensor};
use serde_json::Value;

const ACCELERATE: &str = "accelerate-0.25-sequential";

/// What MGM adds to its tree after loading: both towers and `vlm_uni_*`, counted by building them.
const ADDED_PARAMETERS: u64 = 506_698_176;

fn map_of(maps: &Value, at: usize) -> BTreeMap<String, Value> {
    serde_json::from_value(maps["maps"][at]["profile"]["map"].clone()).unwrap()
}

fn weights(maps: &Value) -> u64 {
    let used = maps["maps"][0]["profile"]["used"].as_object().unwrap();
    used.values().map(|used| used["weights"].as_u64().unwrap()).sum()
}

#[test]
fn the_mixtral_that_accelerate_breaks_fits_on_four_gpus() {
    let world = World::new();
    let maps = world
        .good(&["map", "8x7b", "--fp16", "--gpus", "4x24GiB", "--context", "512", "--reserve", "0", "--json"])
        .json();
    assert!(map_of(&maps, 0).values().all(Value::is_u64), "nothing leaves the GPUs");
    assert_eq!(maps["maps"][0]["broken_rules"], Value::Array(Vec::new()));

    let by_accelerate = ["map", "8x7b", "--fp16", "--gpus", "4x24GiB", "--planner", ACCELERATE];
    let ran = ran(world.command(&by_accelerate).env("COLUMNS", "200"));
    assert_eq!(ran.code, 1, "{}", ran.err);
    let offloaded = "offloaded: model.layers.31, model.norm, model.vision_tower, model.mm_projector, \
                     model.vision_tower_aux, lm_head\n";
    assert!(ran.out.contains(offloaded), "{}", ran.out);
    let (_, rule) = ran.out.split_once("broken rule: R1: ").unwrap();
    let rule: Vec<&str> = rule.lines().take(2).collect();
    assert!(rule[0].starts_with("model.mm_projector on "), "{rule:?}");
    assert!(rule[1].contains("Cannot copy out of meta tensor; no data!"), "{rule:?}");
}

/// The totals are those of accelerate's own vectors, where a model fits one GPU exactly.
/// The word is about accelerate's map, whose offloaded modules break its model.
#[test]
fn only_a_map_of_accelerates_is_said_to_offload() {
    let world = World::new();
    let line = ["map", "34b", "--int8", "--gpus", "1x24GiB", "--allow-cpu", "64GiB"];
    let ours = world.good(&line).out;
    assert!(ours.contains("cpu") && !ours.contains("offloaded:"), "{ours}");
    let fits = ["map", "2b", "--int8", "--gpus", "1x24GiB", "--planner", ACCELERATE];
    let fits = world.run(&fits).out;
    assert!(fits.contains("by accelerate-0.25") && !fits.contains("offloaded:"), "{fits}");
}

#[test]
fn weights_of_the_built_in_trees_are_those_that_mgm_builds() {
    let world = World::new();
    for (alias, as_loaded, layers) in
        [("7b", 13_585_903_616, 32), ("34b", 69_021_140_480, 60), ("8x7b", 93_984_419_840_u64, 32)]
    {
        let maps = world.good(&["map", alias, "--fp16", "--json"]).json();
        // Accelerate counts the 64 rotary frequencies of a layer at 2 bytes; in memory they have 4.
        let frequencies = layers * 64 * 2;
        assert_eq!(weights(&maps), as_loaded + 2 * ADDED_PARAMETERS + frequencies, "{alias}");
    }
}

#[test]
fn the_command_gives_accelerates_own_maps() {
    let world = World::new();
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/device_map/mgm.jsonl.gz");
    let vectors: Vec<_> = replay::read_vectors(&vectors).unwrap().into_iter().map(Result::unwrap).collect();
    let mut seen = 0;
    for (id, model, precision, gpus) in [
        ("MGM-8x7B|as_loaded|float16|2x24", "8x7b", "--fp16", "2x24GiB"),
        ("MGM-8x7B|as_loaded|float16|2x12+cpu64", "8x7b", "--fp16", "2x12GiB,cpu=64GiB"),
        // transformers leaves accelerate 0.9 of every device with bitsandbytes.
        ("MGM-34B|as_loaded|int8_hf|2x24*0.9+cpu64*0.9", "34b", "--int8", "2x24GiB,cpu=64GiB"),
    ] {
        let vector = vectors.iter().find(|vector| vector.id == id).unwrap();
        let ran = world.run(&["map", model, precision, "--gpus", gpus, "--planner", ACCELERATE, "--json"]);
        let got = map_of(&ran.json(), 0);
        let expected = serde_json::to_value(vector.device_map.as_ref().unwrap()).unwrap();
        assert_eq!(got, serde_json::from_value(expected).unwrap(), "{id}");
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[test]
fn a_refusal_tells_what_is_missing_and_that_much_more_fits() {
    let world = World::new();
    world.good(&["map", "34b", "--int8", "--gpus", "2x24GiB", "--attention", "sdpa", "--context", "3000"]);
    let ask = |gpus: &str| world.run(&["map", "34b", "--fp16", "--gpus", gpus, "--attention", "sdpa"]);
    let refused = ask("2x24GiB");
    assert_eq!((refused.code, refused.out.as_str()), (1, ""));
    let missing = refused.err.split(" bytes) are missing on gpu 0").next().unwrap();
    let missing: u64 = missing.rsplit('(').next().unwrap().parse().unwrap();
    assert!(refused.err.contains("it fits with --int8, or with 1 more GPU of 24.00 GiB"), "{}", refused.err);
    assert_eq!(ask("3x24GiB").code, 0);

    // Sizes have units of at least a kilobyte: the first KiB that covers the shortfall, and the one before.
    let kib = ((24 << 30) + missing).div_ceil(1024);
    assert_eq!(ask(&format!("{kib}KiB,24GiB")).code, 0);
    let short = ask(&format!("{}KiB,24GiB", kib - 1));
    assert_eq!(short.code, 1);
    assert!(short.err.contains(" missing on gpu 0"), "{}", short.err);
}

#[test]
fn a_model_that_is_not_converted_yet_has_the_map_that_converting_gives() {
    let world = World::new();
    let gpus = "0=1217MB,1=400MiB";
    let options = ["--int8", "--gpus", gpus, "--context", "64", "--reserve", "1MiB"];
    let planned = world.good(&[&["plan", "tiny", "--json"][..], &options].concat()).json();
    // A plan leaves no checkpoint in the cache; a conversion does.
    world.tiny();
    let checkpoint = fs::read_dir(world.path("cache/mgpack")).unwrap().next().unwrap().unwrap().path();
    let checkpoint = checkpoint.to_str().unwrap();
    let mapped = world.good(&[&["map", checkpoint, "--json"][..], &options].concat()).json();
    assert_eq!(mapped["maps"][0]["profile"], planned["device_maps"][0]);

    // By config.json alone; both towers lie where they are found without weights beside it.
    let bare = world.path("bare");
    fs::create_dir(&bare).unwrap();
    fs::copy(Path::new(checkpoint).join("config.json"), bare.join("config.json")).unwrap();
    let towers = format!("{checkpoint}/model_zoo");
    std::os::unix::fs::symlink(towers, world.path("model_zoo")).unwrap();
    let by_config = world.good(&[&["map", "bare", "--json"][..], &options].concat()).json();
    assert_eq!(by_config["maps"], mapped["maps"]);
}

#[test]
fn a_bundle_keeps_a_profile_for_each_memory_table() {
    let world = World::new();
    let more = ["--context", "64", "--reserve", "1MiB"];
    let tables = ["--gpus", "2GiB", "--gpus", "0=1217MB,1=400MiB"];
    world.good(&[&["convert", "tiny", "--int8", "-o", "bundle"][..], &tables, &more].concat());
    world.good(&["verify", "bundle"]);
    let recorded = world.good(&["map", "bundle", "--json"]).json();
    assert_eq!(recorded["recorded"], true);
    assert_eq!(recorded["maps"].as_array().unwrap().len(), 2);
    let file: BTreeMap<String, Value> =
        serde_json::from_slice(&fs::read(world.path("bundle/device_map.json")).unwrap()).unwrap();
    assert_eq!(map_of(&recorded, 0), file, "the first is the one in device_map.json");
    assert!(map_of(&recorded, 1).values().any(|device| device == 1));

    let again = world.good(&[&["map", "bundle", "--json"][..], &tables, &more].concat()).json();
    assert_eq!(again["recorded"], false);
    assert_eq!(again["maps"], recorded["maps"], "planned from the manifest as from the checkpoint");
}

/// Every layer had a row, 58 of 60 of them alike.
#[test]
fn why_has_every_module_with_its_size_and_room_and_runs_of_layers_in_one_row() {
    let world = World::new();
    let ran =
        ran(world.command(&["map", "34b", "--int8", "--gpus", "2x24GiB", "--why"]).env("COLUMNS", "200"));
    assert_eq!(ran.code, 0, "{ran:?}");
    let rows: Vec<&str> = ran.out.lines().skip_while(|line| !line.starts_with("model.embed")).collect();
    let rows: Vec<&str> = rows.into_iter().take_while(|line| !line.is_empty()).collect();
    let mut layers = Vec::new();
    for row in &rows {
        let Some(range) = row.split(' ').next().unwrap().strip_prefix("model.layers.") else { continue };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        layers.extend(first.parse::<u32>().unwrap()..=last.parse().unwrap());
    }
    assert_eq!(layers, (0..60).collect::<Vec<_>>(), "each once, in order: {}", ran.out);
    // Embedding, norm, projector, head, both towers and three vlm_uni; on two GPUs and the first of the second.
    assert_eq!(rows.len(), 9 + 3, "{}", ran.out);
    let moved = rows.iter().find(|row| row.contains("left, it takes")).unwrap();
    assert!(moved.starts_with("model.layers.") && moved.contains("gpu 1"), "{moved}");
}

#[test]
fn the_drawing_is_xml_that_shows_every_device() {
    let world = World::new();
    world.good(&["map", "8x7b", "--fp16", "--gpus", "6x24GiB", "--svg", "map.svg"]);
    let svg = fs::read_to_string(world.path("map.svg")).unwrap();
    assert!(svg.starts_with("<!-- made by mgpack -->\n<svg ") && svg.trim_end().ends_with("</svg>"));
    for text in ["gpu 0", "gpu 3", "model.layers.31: ", "lm_head: "] {
        assert!(svg.contains(text), "{text}");
    }
}

/// A map promised what it did not hold: the longest prompt was nowhere, and nothing was kept for it.
#[test]
fn a_map_names_the_longest_prompt_it_holds_and_holds_not_one_token_more() {
    let world = World::new();
    let line = ["map", "34b", "--int8", "--gpus", "2x24GiB"];
    let maps = world.good(&[&line[..], &["--json"]].concat()).json();
    let memory = &maps["maps"][0]["profile"]["memory"];
    assert_eq!(memory["attention"], "eager", "what MGM's torch 2.0.1 selects");
    let longest = memory["longest_context"]["eager"].as_u64().unwrap();
    let text = world.good(&line).out;
    assert!(text.contains(&format!("{longest} tokens with eager attention")), "{text}");

    // Planned for the most that these GPUs hold, the longest is what it was planned for.
    let refused = world.run(&[&line[..], &["--context", "4096"]].concat());
    assert_eq!(refused.code, 1);
    let help = refused.err.lines().find_map(|line| line.strip_prefix(" help: ")).unwrap();
    assert!(help.contains("--attention sdpa (torch 2.1.1 or later)") || help.contains("--context"), "{help}");
    let most = help.split("--context ").nth(1).unwrap();
    let most: u64 = most.split(',').next().unwrap().parse().unwrap();
    assert!(most >= longest, "{help}");
    let planned = |context: u64| {
        let context = context.to_string();
        world.run(&[&line[..], &["--context", &context, "--json"]].concat())
    };
    let memory = &planned(most).json()["maps"][0]["profile"]["memory"];
    assert_eq!(memory["longest_context"]["eager"], most);
    let over = planned(most + 1);
    assert_eq!(over.code, 1);
    assert!(over.err.contains("missing on gpu"), "{}", over.err);

    // Mixtral has no sdpa in transformers 4.36.2.
    let line = ["map", "8x7b", "--int8", "--gpus", "2x48GiB", "--attention", "sdpa", "--json"];
    let memory = &world.good(&line).json()["maps"][0]["profile"]["memory"];
    assert_eq!(
        (&memory["attention"], &memory["longest_context"]["sdpa"]),
        (&Value::from("eager"), &Value::Null)
    );
}

/// `no --reserve` was the help, and no option said that: `--reserve 0` was refused.
#[test]
fn what_would_make_a_model_fit_can_be_typed_as_it_is_written() {
    let world = World::new();
    let line = ["map", "2b", "--bf16", "--gpus", "2x6GiB", "--context", "512"];
    let refused = world.run(&[&line[..], &["--reserve", "3GiB"]].concat());
    assert_eq!(refused.code, 1);
    let help = refused.err.lines().find_map(|line| line.strip_prefix(" help: it fits with ")).unwrap();
    let remedies: Vec<&str> = help.split(", or with ").filter(|remedy| remedy.starts_with("--")).collect();
    assert!(remedies.contains(&"--reserve 0"), "{help}");
    for remedy in remedies {
        let words: Vec<&str> = remedy.split(' ').take(2).collect();
        world.good(&[&line[..], &words[..]].concat());
    }
}

#[test]
fn what_cannot_be_mapped_says_why() {
    let world = World::new();
    let absent = world.run(&["map", "34b", "--gpus", "2x24GiB"]);
    assert_eq!(absent.code, 2);
    assert!(absent.err.contains(" help: add --int8, --fp16 or --bf16"), "{}", absent.err);

    let linear = tensor("model.layers.0.mlp.up_proj.weight", safetensors::Dtype::BF16, &[2, 2], vec![0; 8]);
    save(&world.path("other"), &[&[linear.linear()]]);
    let config = fs::read_to_string(world.path("other/config.json")).unwrap();
    fs::write(world.path("other/config.json"), config.replace("LlamaForCausalLM", "ZebraForCausalLM"))
        .unwrap();
    world.good(&["map", "other", "--fp16", "--gpus", "1GiB"]);
    let no_tree = world.run(&["map", "other", "--fp16", "--gpus", "1GiB", "--planner", ACCELERATE]);
    assert_eq!(no_tree.code, 2);
    assert!(
        no_tree.err.contains("no module tree is known for the class `ZebraForCausalLM`"),
        "{}",
        no_tree.err
    );
    let scheme = world.run(&["map", "other", "--int8", "--planner", ACCELERATE]);
    assert_eq!(scheme.code, 2);
}

/// Without GPUs a GPU exactly as large as the model was invented, "34.07 GiB of 34.07 GiB", and called planned.
#[test]
fn without_gpus_nothing_is_called_planned() {
    let world = World::new();
    world.tiny();
    let need = |maps: &Value| maps["maps"][0]["profile"]["used"]["0"]["weights"].as_u64().unwrap();
    let bytes = need(&world.good(&["map", "7b", "--fp16", "--json"]).json());
    let told = format!("the weights need {:.2} GiB in all", bytes as f64 / f64::from(1 << 30));
    let of_family = world.good(&["map", "7b", "--fp16", "--why", "--svg", "map.svg"]).out;
    assert!(of_family.contains(&told), "{told}\n{of_family}");
    let drawn = fs::read_to_string(world.path("map.svg")).unwrap();
    assert!(drawn.contains(&told), "{drawn}");
    let texts = [
        of_family,
        drawn,
        world.good(&["map", "tiny-bundle"]).out,
        world.good(&["plan", "tiny", "--int8"]).out,
        world.good(&["convert", "tiny", "--int8", "-o", "again"]).out,
    ];
    for text in &texts {
        assert!(text.contains("no GPUs given"), "{text}");
        for invented in ["gpu 0", " free", "limit", "by mgm"] {
            assert!(!text.contains(invented), "{invented}\n{text}");
        }
    }
    // What accelerate does follows from the sizes of the devices, so without them there is nothing to say.
    let refused = world.run(&["map", "7b", "--fp16", "--planner", ACCELERATE]);
    assert_eq!((refused.code, refused.out.as_str()), (2, ""));
    assert_eq!(
        refused.err,
        "error: the planner `accelerate-0.25-sequential` needs a memory table\n\
         where: --gpus\n  why: what it places where depends on the size of each device\n \
         help: add the devices: --gpus 2x24GiB\n"
    );
}
