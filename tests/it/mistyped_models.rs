//! What is said of a model or a folder of towers that is not where it was looked for.

use std::fs;

use crate::world::{self, World, ran, save_zeros, write};
use mgpack::internals::tiny;
use serde_json::json;

/// `ck/minlm` beside `ck/minilm` went to the hub and ended there with 404.
#[test]
fn a_mistyped_path_names_both_readings_and_the_likely_one() {
    let world = World::new();
    save_zeros(&world.path("ck/minilm"), 2, 64, 64);
    save_zeros(&world.path("deep/er/minilm"), 2, 64, 64);
    // Where the hub may be asked: nobody listens there, and nobody is asked.
    let online = |args: &[&str]| {
        ran(world.command(args).env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", "http://127.0.0.1:9"))
    };
    for args in [
        &["convert", "ck/minlm", "--int8"][..],
        &["convert", "ck/minlm", "--int8", "--stream"],
        &["plan", "ck/minlm", "--int8"],
        &["map", "ck/minlm", "--int8", "--gpus", "24GiB"],
    ] {
        let ran = online(args);
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.err);
        assert!(
            ran.err.contains("error: `ck/minlm` is neither a path here nor in the hub's cache"),
            "{}",
            ran.err
        );
        assert!(ran.err.contains("read as a path: there is `ck/minilm`"), "{}", ran.err);
        assert!(ran.err.contains("read as a hub id: ") && ran.err.contains("likely a path"), "{}", ran.err);
        assert!(ran.err.contains("help: did you mean `ck/minilm`?"), "{}", ran.err);
        assert!(ran.err.contains("`mgpack pull ck/minlm`"), "{}", ran.err);
        assert!(!ran.err.contains("127.0.0.1"), "the hub was asked: {}", ran.err);
    }
    // Nothing of like name: it is likelier a hub id, and is said before the hub is asked.
    let ran = world.run(&["plan", "ck/bert", "--int8"]);
    assert!(
        ran.err.contains("the folder `ck` has no `bert`") && ran.err.contains("likely a hub id"),
        "{}",
        ran.err
    );
    // What can only be a path is compared too.
    for (path, near) in [("./ck/minlm", "./ck/minilm"), ("depe/er/minilm", "deep/er/minilm")] {
        let ran = world.run(&["plan", path, "--int8"]);
        assert_eq!(ran.code, 2);
        assert!(ran.err.contains(&format!("did you mean `{near}`?")), "{path}: {}", ran.err);
    }
    // A name that is an alias of nothing, beside a folder.
    save_zeros(&world.path("minilm"), 2, 64, 64);
    let ran = world.run(&["plan", "minlm", "--int8"]);
    assert!(ran.err.contains("did you mean the folder `minilm`?"), "{}", ran.err);
    // And a hub id that looks like nothing here stays one.
    let ran = world.run(&["plan", "YanweiLi/MGM-2B", "--int8"]);
    assert!(ran.err.contains("`YanweiLi/MGM-2B` is not in the hub's cache"), "{}", ran.err);
}

#[test]
fn without_a_network_the_help_names_what_there_is_to_do() {
    let world = World::new();
    let alone = world.run(&["convert", "org/model", "--int8", "--stream"]);
    assert_eq!(alone.code, 2);
    for word in ["--offline", "HF_HUB_OFFLINE", "HF_ENDPOINT"] {
        assert!(alone.err.contains(word), "{word}: {}", alone.err);
    }
}

#[test]
fn the_built_in_checkpoint_is_among_the_aliases() {
    let world = World::new();
    let ran = world.run(&["plan", "qwen", "--int8"]);
    assert!(ran.err.contains("why: the aliases are tiny, 2b, 7b"), "{}", ran.err);
    assert!(world.run(&["plan", "tinny", "--int8"]).err.contains("did you mean `tiny`?"));
    // It is on no hub.
    let ran = world.run(&["pull", "tiny"]);
    assert!(ran.err.contains("`tiny` is built in, and not on the hub"), "{}", ran.err);
    assert!(ran.err.contains("`mgpack convert tiny --int8`"), "{}", ran.err);
}

/// `--towers` of a folder that is not there was ignored where a model_zoo was found.
#[test]
fn towers_that_are_not_where_the_user_says_are_an_error() {
    let world = World::new();
    for file in tiny::files(7) {
        write(&world.path("ckpt").join(&file.path), &file.bytes);
    }
    world.good(&["plan", "ckpt", "--int8"]);
    fs::create_dir(world.path("empty")).unwrap();
    write(&world.path("file"), b"");
    for (towers, why) in
        [("nowhere", "it does not exist"), ("file", "it is no folder"), ("empty", "it holds none of")]
    {
        for verb in ["plan", "convert"] {
            let ran = world.run(&[verb, "ckpt", "--int8", "--towers", towers]);
            assert_eq!(ran.code, 2, "{verb} {towers}: {}", ran.err);
            let error = "error: the folder that was given for the vision towers cannot be used";
            assert!(ran.err.contains(error) && ran.err.contains(why), "{towers}: {}", ran.err);
            assert!(
                ran.err.contains(&format!("where: {towers}\n")) && ran.err.contains("--towers"),
                "{}",
                ran.err
            );
        }
    }
    // Where none is found at all, both ways to one are named.
    fs::remove_dir_all(world.path("ckpt/model_zoo")).unwrap();
    let ran = world.run(&["plan", "ckpt", "--int8"]);
    assert!(ran.err.contains("mgpack pull openai/clip") && ran.err.contains("--towers"), "{}", ran.err);
    // Nobody listens there.
    let args = ["convert", "ckpt", "--int8"];
    let asked = world::ran(
        world.command(&args).env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", "http://127.0.0.1:9"),
    );
    assert_eq!(asked.code, 2);
    assert!(
        asked.err.contains("error: the vision tower `clip-vit-large-patch14-336` is not here"),
        "{}",
        asked.err
    );
    for word in ["--towers", "--offline", "HF_ENDPOINT"] {
        assert!(asked.err.contains(word), "{word}: {}", asked.err);
    }
    // A model without towers says that they are not used.
    save_zeros(&world.path("llama"), 2, 64, 64);
    let ran = world.good(&["plan", "llama", "--int8", "--towers", "empty", "--json"]);
    let notices = ran.json()["notices"].to_string();
    assert!(notices.contains("this model has none of MGM's"), "{notices}");
}

/// W8A8 and W8A16 of a MiniLM loaded in sentence-transformers 6.2 and failed in `encode`; bitsandbytes' int8 and fp16
/// gave the cosine 1.0000 to the original.
#[test]
fn a_model_of_sentence_transformers_gets_an_int8_that_encodes() {
    let world = World::new();
    save_zeros(&world.path("ckpt"), 2, 256, 256);
    let scheme = |args: &[&str]| {
        let json = world.good(&[&["plan", "ckpt", "--json"], args].concat()).json();
        (json["scheme"].clone(), json["notices"].to_string())
    };
    assert_eq!(scheme(&["--int8"]).0, json!("W8A8"));
    write(&world.path("ckpt/modules.json"), b"[]");
    let (chosen, said) = scheme(&["--int8"]);
    assert_eq!(chosen, json!("bnb-int8"));
    assert!(said.contains("does not encode in sentence-transformers 6"), "{said}");
    for asked in
        [&["--scheme", "W8A8"][..], &["--scheme", "W8A16"], &["--int8", "--format", "compressed-tensors"]]
    {
        let (chosen, said) = scheme(asked);
        assert_ne!(chosen, json!("bnb-int8"), "{asked:?}");
        assert!(said.contains("does not encode with W8A"), "{said}");
    }
    for silent in [&["--int8", "--format", "bnb"][..], &["--fp16"]] {
        assert!(!scheme(silent).1.contains("sentence"), "{silent:?}");
    }
}
