//! What someone can do to a bundle who makes its digests and its seal agree again: nothing that a command obeys, and
//! nothing that the bundle's own texts contradict.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::reseal::{self, manifest, reseal, seal};
use crate::world::{self, Ran, World};
use mgpack::internals::manifest::Manifest;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Texts that would leave a folder, end a line, steer a terminal or turn a text.
const HOSTILE: [&str; 6] = [
    "../../x",
    "/etc/passwd",
    "1.0\n--index-url https://evil.example",
    "a\u{1b}]0;owned\u{7}",
    "a\u{9b}2J",
    "gpj.\u{202e}exe",
];

/// Where a manifest has a text that a command writes, opens or shows.
const PLACES: [&str; 19] = [
    "/producer/name",
    "/producer/version",
    "/model/name",
    "/model/family",
    "/model/variant",
    "/model/architecture",
    "/model/model_type",
    "/source/name",
    "/source/revision",
    "/requirements/1/package",
    "/requirements/1/pin",
    "/requirements/1/range",
    "/files/0/path",
    "/files/0/sha256",
    "/tensors/0/shard",
    "/tensors/0/arithmetic",
    "/device_maps/0/planner/name",
    "/device_maps/0/why/0/device",
    "/scheme/name",
];

/// Places of prose: a path is prose too, what ends a line is not.
const PROSE: [&str; 9] = [
    "/requirements/1/reason",
    "/requirements/1/source",
    "/source/files/0/path",
    "/source/files/0/note",
    "/tensors/0/name",
    "/tensors/0/source",
    "/device_maps/0/why/0/module",
    "/device_maps/0/why/0/reason",
    "/model/facts/conversation/template",
];

/// Commands that read a manifest, some of which write what it says.
const COMMANDS: [&[&str]; 7] = [
    &["env", "tiny-bundle"],
    &["doctor", "tiny-bundle", "--no-import"],
    &["inspect", "tiny-bundle"],
    &["map", "tiny-bundle", "--gpus", "24GiB"],
    &["verify", "tiny-bundle", "--quick"],
    &["release", "tiny-bundle", "-o", "out"],
    &["load", "tiny-bundle"],
];

fn assert_plain(ran: &Ran, what: &str) {
    let is_bad = |letter: char| (letter.is_control() && letter != '\n') || letter == '\u{202e}';
    for text in [&ran.out, &ran.err] {
        assert!(!text.chars().any(is_bad), "{what}: {text:?}");
    }
}

fn findings(ran: &Ran) -> Vec<(String, String)> {
    assert_eq!(ran.code, 1, "{ran:?}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let report = ran.json();
    report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (text(&one["path"]), text(&one["kind"])))
        .collect()
}

fn verify(world: &World) -> Ran {
    world.run(&["verify", "tiny-bundle", "--json"])
}

#[test]
fn no_command_writes_obeys_or_shows_what_a_manifest_smuggles() {
    // Once, `env` wrote to ../../x for a family of that name, and lines of a requirement's into requirements.txt.
    let world = World::new();
    let dir = world.tiny();
    let good = manifest(&dir);
    let before = world.names();
    let prose = HOSTILE.iter().filter(|text| !text.contains('/') || text.contains('\n'));
    let cases = PLACES.iter().flat_map(|place| HOSTILE.iter().map(move |text| (*place, *text)));
    let cases: Vec<_> =
        cases.chain(PROSE.iter().flat_map(|place| prose.clone().map(move |text| (*place, *text)))).collect();
    for (number, (place, text)) in cases.into_iter().enumerate() {
        let mut changed = good.clone();
        *changed.pointer_mut(place).unwrap_or_else(|| panic!("no {place}")) = text.into();
        // A tensor's name may turn text: it is escaped wherever it is shown.
        let is_name = place.starts_with("/tensors/0/") && text.contains('\u{202e}');
        let is_module = place.ends_with("/module") || place.starts_with("/source/files/0/path");
        let may_pass = (is_name || is_module) && text.contains('\u{202e}');
        seal(&dir, changed.clone());
        if !may_pass {
            let bytes = fs::read(dir.join(reseal::MANIFEST)).unwrap();
            assert!(Manifest::from_bytes(&bytes).is_err(), "{place}: {text:?}");
        }
        // Each case meets three of the commands, each command more than fifty cases.
        for command in (0..3).map(|step| COMMANDS[(number + step * 2) % COMMANDS.len()]) {
            let what = format!("{} with {text:?} at {place}", command.join(" "));
            let ran = world.run(command);
            assert!(may_pass || ran.code != 0, "{what}: {ran:?}");
            assert_plain(&ran, &what);
            if !may_pass {
                assert_eq!(world.names(), before, "{what}");
            }
        }
        for made in ["out", "mgm-7b-env"] {
            let _ = fs::remove_dir_all(world.path(made));
        }
    }
    seal(&dir, good);
    world.good(&["verify", "tiny-bundle"]);
}

#[test]
fn a_bundle_that_not_every_system_can_hold_is_found_though_it_is_sealed() {
    let world = World::new();
    for names in [
        &["README.md", "readme.md"][..],
        &["Größe", "gRÖSSE", "GRÖßE"],
        &["extra/x", "Extra/y"],
        &["CON"],
        &["folder/aux.txt"],
        &["ends."],
        &["ends "],
        &["gpj.\u{202e}exe"],
        &["\u{fffd}"],
        &["a\nb"],
        &["a:b"],
    ] {
        let dir = world.tiny();
        for name in names {
            world::write(&dir.join(name), name.as_bytes());
        }
        reseal(&dir);
        let found = findings(&verify(&world));
        assert!(
            found.iter().any(|(path, kind)| path == "mgpack.json" && kind == "manifest"),
            "{names:?}: {found:?}"
        );
        fs::remove_dir_all(dir).unwrap();
    }
    // Not listed, and no UTF-8: once it passed for the file with U+FFFD in its place.
    let dir = world.tiny();
    fs::write(dir.join(OsStr::from_bytes(b"a\xff")), "").unwrap();
    assert_eq!(findings(&verify(&world)), [("a\\xff".to_owned(), "extra".to_owned())]);
    fs::remove_file(dir.join(OsStr::from_bytes(b"a\xff"))).unwrap();
    reseal(&dir);
    world.good(&["verify", "tiny-bundle"]);
}

#[test]
fn texts_that_say_otherwise_than_the_manifest_are_found_though_they_are_sealed() {
    let world = World::new();
    let dir = world.tiny();
    let index = "model.safetensors.index.json";
    let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let (of_index, of_map, of_pins) = (text(index), text("device_map.json"), text("requirements.txt"));
    let elsewhere = of_index.replacen("model-00001-of-00002.safetensors", "../../x.safetensors", 1);
    let other_shard = of_index.replacen("00001-of", "00002-of", 1);
    let other_device = of_map.replacen(": 0", ": 1", 1);
    let cases = [
        (index, String::new()),
        (index, "{}".to_owned()),
        (index, elsewhere),
        (index, other_shard),
        (index, of_index.replacen("\"total_size\": ", "\"total_size\": 1", 1)),
        ("config.json", String::new()),
        ("config.json", "[]".to_owned()),
        ("config.json", "{".to_owned()),
        ("device_map.json", other_device),
        ("device_map.json", "null\n".to_owned()),
        ("requirements.txt", format!("{of_pins}--index-url https://evil.example\n")),
        ("requirements.txt", of_pins.replacen("torch==2.0.1", "torch==2.0.2", 1)),
        ("requirements.txt", String::new()),
    ];
    for (name, changed) in cases {
        let before = text(name);
        assert_ne!(before, changed, "{name}");
        fs::write(dir.join(name), &changed).unwrap();
        reseal(&dir);
        for more in [&[][..], &["--quick"]] {
            let ran = world.run(&[&["verify", "tiny-bundle", "--json"], more].concat());
            assert_eq!(findings(&ran), [(name.to_owned(), "manifest".to_owned())], "{name}: {changed}");
        }
        fs::write(dir.join(name), before).unwrap();
    }
    reseal(&dir);
    world.good(&["verify", "tiny-bundle"]);
}

#[test]
fn what_every_bundle_has_is_missed_though_it_is_not_listed() {
    let world = World::new();
    let dir = world.tiny();
    for name in ["SHA256SUMS", "model.safetensors.index.json", "device_map.json", "requirements.txt"] {
        let before = fs::read(dir.join(name)).unwrap();
        fs::remove_file(dir.join(name)).unwrap();
        reseal(&dir);
        if name == "SHA256SUMS" {
            fs::remove_file(dir.join(name)).unwrap();
            let mut changed = manifest(&dir);
            let files = changed["files"].as_array_mut().unwrap();
            files.retain(|file| file["path"] != name);
            let total: u64 = files.iter().map(|file| file["size"].as_u64().unwrap()).sum();
            changed["totals"]["file_bytes"] = total.into();
            seal(&dir, changed);
        }
        assert_eq!(findings(&verify(&world)), [("mgpack.json".to_owned(), "manifest".to_owned())], "{name}");
        fs::write(dir.join(name), before).unwrap();
    }
}

#[test]
fn another_form_of_a_number_is_refused_whatever_library_wrote_it() {
    // serde_json 1.0.145 wrote 1e36: two builds refused each other's bundles.
    let world = World::new();
    let dir = world.tiny();
    let mut changed = manifest(&dir);
    let tensors = changed["tensors"].as_array_mut().unwrap();
    let figures = tensors.iter_mut().find(|tensor| !tensor["error"].is_null()).unwrap();
    figures["error"]["max_abs_error"] = json!(1e36);
    seal(&dir, changed);
    let path = dir.join(reseal::MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    let zeros = "0".repeat(64);
    for (form, is_good) in
        [("1e+36", true), ("1e36", false), ("1E+36", false), ("1.0e+36", false), ("10e+35", false)]
    {
        let seal = manifest(&dir)["seal"].as_str().unwrap().to_owned();
        let unsealed = text.replace("1e+36", form).replace(&seal, &zeros);
        assert!(unsealed.contains(form) && unsealed.contains(&zeros));
        let sealed = unsealed.replace(&zeros, &reseal::sha256(unsealed.as_bytes()));
        assert_eq!(Manifest::from_bytes(sealed.as_bytes()).is_ok(), is_good, "{form}");
    }
}

/// A text with what names must not have among what they may.
fn text() -> impl Strategy<Value = String> {
    let letters = prop_oneof![
        4 => proptest::char::range('a', 'z'),
        1 => proptest::sample::select(vec!['/', '.', '\\', ':', '-', '\n', '\r', '\u{1b}', '\u{202e}', '\u{fffd}', '\0', ' ', '=', 'é', '\'']),
    ];
    proptest::collection::vec(letters, 0..12).prop_map(|letters| letters.into_iter().collect())
}

fn leaves(value: &mut Value, visit: &mut impl FnMut(&mut Value)) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| leaves(value, visit)),
        Value::Object(map) => map.values_mut().for_each(|value| leaves(value, visit)),
        other => visit(other),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is in whatever place: a manifest that is accepted has paths that stay in the folder, and texts that
    /// end no line and steer no terminal.
    #[test]
    fn an_accepted_manifest_has_no_text_that_a_command_could_obey(place in any::<prop::sample::Index>(), text in text()) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("formats/examples/accepted/manifest-mgm-int8.json");
        let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let mut count = 0;
        leaves(&mut value, &mut |leaf| count += usize::from(leaf.is_string()));
        let (chosen, mut at) = (place.index(count), 0);
        leaves(&mut value, &mut |leaf| {
            if leaf.is_string() {
                if at == chosen {
                    *leaf = text.clone().into();
                }
                at += 1;
            }
        });
        value["seal"] = "0".repeat(64).into();
        value["seal"] = reseal::sha256(format!("{value:#}\n").as_bytes()).into();
        if let Ok(manifest) = Manifest::from_bytes(format!("{value:#}\n").as_bytes()) {
            prop_assert_eq!(manifest.expected_seal().unwrap(), manifest.seal);
            leaves(&mut value, &mut |leaf| {
                assert!(!leaf.as_str().unwrap_or_default().chars().any(char::is_control), "{leaf}");
            });
            let dir = Path::new("/bundle");
            for path in manifest.files.iter().map(|file| &file.path).chain(manifest.tensors.iter().map(|tensor| &tensor.shard)) {
                prop_assert!(dir.join(path).starts_with(dir) && !path.contains(".."), "{}", path);
            }
            let parts = |word: &str| Path::new(word).components().count();
            prop_assert_eq!((parts(&manifest.model.name), parts(&manifest.model.family)), (1, 1));
            let listed = mgpack::internals::environment::requirements_txt(&manifest.requirements, &manifest.model.family);
            let lines = listed.lines().filter(|line| !line.starts_with('#')).count();
            prop_assert_eq!(lines, manifest.requirements.iter().filter(|need| need.package != "python").count());
        }
    }
}
