//! MGM's loader chooses the model's class by a name: what is said where a bundle's folder has another.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::world::{self, World, ran};
use serde_json::Value;

const NAME: &str = "MGM-7B-tiny-int8";

fn named() -> World {
    let world = World::new();
    world.good(&["convert", "tiny", "--int8", "-o", NAME]);
    world
}

/// What `doctor` finds and notes about names, asked from `cwd`.
fn doctor(world: &World, cwd: &str, bundle: &str) -> (Vec<Value>, Vec<String>) {
    let found =
        Command::new("sh").args(["-c", "command -v python3.11 || command -v python3"]).output().unwrap();
    let python = String::from_utf8(found.stdout).unwrap();
    let args = ["doctor", bundle, "--python", python.trim(), "--json"];
    let ran = ran(world.command(&args).current_dir(world.path(cwd)));
    let report = ran.json();
    let about = |value: &&Value| value["what"].as_str().unwrap().starts_with("MGM's loader");
    let findings = report["findings"].as_array().unwrap().iter().filter(about).cloned().collect();
    let notes = report["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap().to_owned());
    (findings, notes.filter(|note| note.starts_with("MGM's")).collect())
}

/// In MGM a 7B in a folder `prod` died in its first forward pass, and 2B and 8x7B in `MGM-prod` loaded with exit code 0,
/// with random weights, and answered nonsense; nothing of ours said a word.
#[test]
fn doctor_finds_a_name_that_leads_mgm_to_another_class() {
    let world = named();
    assert_eq!(doctor(&world, "", NAME), (vec![], vec![]));
    for (name, said, comes) in [
        ("prod", "`prod` does not name an MGM model", "fails in its first forward pass"),
        ("MGM-2B-int8", "`MGM-2B-int8` leads it to `mgm_gemma`: this model is `mgm`", "random weights"),
        ("mgm-8X7B", "leads it to `mgm_mixtral`", "answer nonsense"),
    ] {
        fs::rename(world.path(NAME), world.path(name)).unwrap();
        let (findings, _) = doctor(&world, "", name);
        assert_eq!(findings.len(), 1, "{name}");
        let text = |key: &str| findings[0][key].as_str().unwrap().to_owned();
        assert!(text("what").contains(said) && text("why").contains(comes), "{findings:?}");
        let help = text("help");
        assert!(help.contains(&format!("model_name=\"{NAME}\"")), "{help}");
        // The line that mends it does.
        let (_, line) = help.split_once("link it with `").unwrap();
        let (line, _) = line.split_once('`').unwrap();
        let linked = Command::new("sh").args(["-c", line]).current_dir(world.path("")).status().unwrap();
        assert!(linked.success(), "{line}");
        assert_eq!(doctor(&world, "", NAME), (vec![], vec![]), "behind the link");
        fs::remove_file(world.path(NAME)).unwrap();
        fs::rename(world.path(name), world.path(NAME)).unwrap();
    }
    // Any name that has `mgm` in it and no other size serves a Llama.
    symlink(NAME, world.path("my-mgm")).unwrap();
    assert_eq!(doctor(&world, "", "my-mgm"), (vec![], vec![]));
}

#[test]
fn a_dot_is_no_name_for_mgms_command_line() {
    let world = named();
    for dot in [".", "./", "../MGM-7B-tiny-int8/.", "model_zoo/.."] {
        let (findings, notes) = doctor(&world, NAME, dot);
        assert_eq!(findings, Vec::<Value>::new(), "{dot}");
        let path = world.path(NAME).canonicalize().unwrap();
        let [note] = &notes[..] else { panic!("{dot}: {notes:?}") };
        assert!(note.ends_with(&format!("give --model-path {}", path.display())), "{note}");
    }
    let (findings, notes) = doctor(&world, NAME, "../MGM-7B-tiny-int8");
    assert!(findings.is_empty() && notes.is_empty(), "{notes:?}");
}

#[test]
fn verify_and_load_say_it_and_go_on() {
    let world = named();
    let quiet = world.good(&["verify", NAME, "--json"]).json();
    assert_eq!(quiet["notes"], serde_json::json!([]));
    assert!(!world.good(&["load", NAME, "--until", "embeddings"]).err.contains("MGM's loader"));
    world.good(&["release", NAME, "-o", "release"]);
    fs::rename(world.path(NAME), world.path("prod")).unwrap();
    let report = world.good(&["verify", "prod", "--json"]).json();
    assert_eq!(report["findings"], serde_json::json!([]), "the bytes are good");
    assert!(report["notes"][0].as_str().unwrap().contains("`prod` does not name an MGM model"));
    assert!(world.good(&["verify", "prod"]).out.contains("\nnote: MGM's loader"));
    assert!(world.good(&["load", "prod", "--until", "embeddings"]).err.contains("note: MGM's loader"));
    // What is unpacked from a tar has the bundle's name, whatever the tar's.
    fs::rename(world.path(format!("release/{NAME}.tar").as_str()), world.path("prod.tar")).unwrap();
    assert_eq!(world.good(&["verify", "prod.tar", "--json"]).json()["notes"], serde_json::json!([]));
}

#[test]
fn other_models_may_have_any_name() {
    let world = World::new();
    world::save_zeros(&world.path("ckpt"), 2, 64, 64);
    let ran = world.good(&["convert", "ckpt", "--int8", "-o", "prod"]);
    assert!(!ran.err.contains("MGM"), "{}", ran.err);
    assert_eq!(world.good(&["verify", "prod", "--json"]).json()["notes"], serde_json::json!([]));
    assert_eq!(doctor(&world, "", "prod"), (vec![], vec![]));
}

/// The card's first line went into a folder that was not there, unless the target had the bundle's own name.
#[test]
fn the_card_names_the_folder_that_was_asked_for() {
    let world = World::new();
    for (out, line, word) in [
        ("prod", r#"os.chdir("prod")"#, "prod"),
        ("deep/er/my \"bundle\" é", r#"os.chdir("my \"bundle\" é")"#, "'my \"bundle\" é'"),
        ("with`tick", r#"os.chdir("MGM-7B-tiny-int8")"#, NAME),
    ] {
        world.good(&["convert", "tiny", "--int8", "-o", out]);
        let card = fs::read_to_string(world.path(out).join("README.md")).unwrap();
        assert!(card.contains(line), "{card}");
        assert!(card.contains(&format!("mgpack verify {word}\n")) && card.contains(&format!("cd {word}\n")));
        assert!(card.contains(&format!("model_name=\"{NAME}\"")), "{card}");
        assert!(card.contains("needs an NVIDIA GPU") && card.contains("device=\"cpu\""), "{card}");
        world.good(&["verify", out]);
    }
    world.good(&["convert", "tiny", "--int8"]);
    let card = fs::read_to_string(world.path(NAME).join("README.md")).unwrap();
    assert!(card.contains(&format!("os.chdir(\"{NAME}\")")), "{card}");
}
