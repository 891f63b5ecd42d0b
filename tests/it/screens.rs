//! What people look at: screens that fit, verdicts where they are looked for, and output that cannot be written.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use crate::world::{self, Ran, World, ran, write};

const HELD_BACK: &str = "an id is never broken, so that it can be copied";

/// A bundle, a release of it, and a Python environment with nothing in it.
fn world() -> World {
    let world = World::new();
    world.tiny();
    world.good(&["release", "tiny-bundle", "-o", "release"]);
    let python = ran(Command::new("sh").args(["-c", "command -v python3.11 || command -v python3"]));
    // What venv makes, without its minute of pip: an interpreter, and a file that says whose it is.
    let home = std::path::Path::new(python.out.trim()).canonicalize().unwrap();
    fs::create_dir_all(world.path("env/bin")).unwrap();
    symlink(&home, world.path("env/bin/python")).unwrap();
    let config =
        format!("home = {}\ninclude-system-site-packages = false\n", home.parent().unwrap().display());
    write(&world.path("env/pyvenv.cfg"), config.as_bytes());
    world
}

/// Every command that shows something, each with what it needs. None asks a network.
const SHOWING: [&[&str]; 22] = [
    &["convert", "tiny", "--int8", "-o", "NEW"],
    &["convert", "tiny", "--fp16", "--dry-run"],
    &["plan", "tiny", "--int8"],
    &["plan", "tiny", "--int8", "--gpus", "2x24GiB"],
    &["map", "34b", "--int8", "--gpus", "2x24GiB", "--why"],
    &["map", "8x7b", "--fp16", "--gpus", "5x24GiB", "--why"],
    &["map", "8x7b", "--fp16", "--gpus", "4x24GiB", "--planner", "accelerate-0.25-sequential"],
    &["map", "tiny-bundle"],
    &["verify", "tiny-bundle"],
    &["verify", "release/MGM-7B-tiny-int8.tar"],
    &["verify", "damaged"],
    &["inspect", "tiny-bundle"],
    &["inspect", "cache/mgpack/TINY"],
    // Not the towers, which are most of its bytes and the last.
    &["load", "tiny-bundle", "--until", "layer.3"],
    &["report", "tiny-bundle", "--against", "cache/mgpack/TINY", "-o", "NEW.html"],
    &["release", "tiny-bundle", "-o", "NEW"],
    &["doctor", "tiny-bundle", "--python", "env/bin/python"],
    &["doctor", "--python", "env/bin/python"],
    &["env", "34b", "-o", "NEW"],
    &["pull", "YanweiLi/MGM-2B"],
    &["completions", "bash"],
    &["--help"],
];

impl World {
    /// A command of [`SHOWING`], with a place of its own to write to.
    fn showing(&self, args: &[&str], number: usize) -> Command {
        let tiny = fs::read_dir(self.path("cache/mgpack")).unwrap();
        let tiny = tiny.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let tiny = tiny.into_iter().find(|name| name.starts_with("MGM-7B-tiny")).unwrap();
        let new = format!("new{number}");
        let args: Vec<String> =
            args.iter().map(|arg| arg.replace("NEW", &new).replace("TINY", &tiny)).collect();
        self.command(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A bundle with one byte changed.
    fn damaged(&self) {
        world::copy(&self.path("tiny-bundle"), &self.path("damaged"));
        let config = fs::read_to_string(self.path("damaged/config.json")).unwrap();
        fs::write(self.path("damaged/config.json"), config.replace("true", "tru3")).unwrap();
    }
}

#[test]
fn no_line_is_wider_than_the_screen() {
    let world = world();
    world.damaged();
    // How long the path of a temporary folder is, is not ours to say.
    let here = world.path("").display().to_string();
    let is_path = |line: &str| line.contains(&here);
    let mut number = 0;
    let mut seen = 0;
    for columns in [60, 80, 120] {
        for args in SHOWING {
            number += 1;
            // Its script has the lines that a shell wants, and help is cut by clap to 100 columns.
            if matches!(args, ["completions", ..] | ["--help"]) {
                continue;
            }
            let mut command = world.showing(args, number);
            let ran = ran(command.env("COLUMNS", columns.to_string()).args(["--color", "never"]));
            assert!(ran.code < 2 || args[0] == "pull", "{args:?}: {ran:?}");
            for line in ran.out.lines().chain(ran.err.lines()) {
                seen += 1;
                let is_id = line.contains("sha256:") && line.split(' ').count() <= 2;
                // A path or a word that is longer than the line is whole, alone or behind its label.
                let words: Vec<&str> = line.split_whitespace().filter(|word| !word.ends_with(':')).collect();
                let is_word = words.len() == 1;
                assert!(
                    line.chars().count() <= columns
                        || ((is_id || is_word) && (columns < 80 || is_path(line))),
                    "{args:?} at {columns} ({HELD_BACK}): {line}"
                );
            }
        }
    }
    assert!(seen > 1000, "only {seen} lines were seen");
}

#[test]
fn a_width_that_nobody_can_mean_is_no_width() {
    let world = world();
    let widest = |columns: &str| {
        let ran = ran(world
            .command(&["map", "34b", "--int8", "--gpus", "2x24GiB", "--why"])
            .env("COLUMNS", columns));
        assert_eq!(ran.code, 0, "{columns}: {}", ran.err);
        ran.out.lines().map(|line| line.chars().count()).max().unwrap()
    };
    let usual = widest("80");
    for none in ["", "0", "-1", "abc", "1e9", "80 columns"] {
        assert_eq!(widest(none), usual, "{none}");
    }
    assert!(widest("1") <= 40);
    assert!((81..=400).contains(&widest("99999999999999999999")));
}

#[test]
fn convert_opens_with_what_it_does() {
    let world = World::new();
    let ran = world.good(&["convert", "tiny", "--int8"]);
    let first = ran.err.lines().next().unwrap();
    assert_eq!(first, "converting 55 tensors, 7.52 MiB, into MGM-7B-tiny-int8  (mgm-7b, bnb-int8)");
    // Eight shapes in which mgpack's own checkpoint differs from the 7B were the first thing that it said.
    assert!(!ran.err.contains("note:"), "{}", ran.err);
    let last: Vec<&str> = ran.out.lines().rev().take(3).collect();
    assert_eq!(last[0], "check it: mgpack verify MGM-7B-tiny-int8");
    assert!(
        last[1].starts_with("id sha256:") && last[2].starts_with("tensors 7.52 MiB → 4.50 MiB"),
        "{last:?}"
    );
}

#[test]
fn plan_ends_with_its_totals_and_verdict_and_folds_layers() {
    let world = World::new();
    let plan = world.good(&["plan", "tiny", "--int8"]);
    let lines: Vec<&str> = plan.out.lines().collect();
    assert_eq!(*lines.last().unwrap(), "can be converted; nothing was written");
    let totals = lines[lines.len() - 4..].join(" ");
    for total in ["55 tensors: 28 to codes, 27 cast, 0 kept", "7.52 MiB", "4.50 MiB", "peak memory at most"] {
        assert!(totals.contains(total), "{total}: {totals}");
    }
    // Four layers of nine tensors are nine rows, each with the count of its tensors.
    let json = world.good(&["plan", "tiny", "--int8", "--json"]).json();
    let of_layers = json["tensors"].as_array().unwrap().iter();
    let of_layers = of_layers.filter(|one| one["name"].as_str().unwrap().starts_with("model.layers."));
    let rows: Vec<&&str> = lines.iter().filter(|line| line.starts_with("model.layers.0-3.")).collect();
    assert_eq!((of_layers.count(), rows.len()), (36, 9), "{}", plan.out);
    assert!(rows.iter().all(|row| row.split_whitespace().nth(1) == Some("4")), "{rows:?}");

    // What is worth a look is above the verdict, which counts it.
    fs::create_dir(world.path("odd")).unwrap();
    for file in mgpack::internals::tiny::files(7) {
        write(&world.path("odd").join(&file.path), &file.bytes);
    }
    let config = fs::read_to_string(world.path("odd/config.json")).unwrap();
    let config = config.replace("\"max_position_embeddings\": 512", "\"max_position_embeddings\": 513");
    fs::write(world.path("odd/config.json"), config).unwrap();
    let odd = world.good(&["plan", "odd", "--int8"]).out;
    assert!(odd.ends_with("\ncan be converted, with 1 note at the top; nothing was written\n"), "{odd}");
    assert!(odd.contains("\nnote: taken as mgm-7b, but its shapes differ: "), "{odd}");
}

/// A column had `512 B` beside `3.77 MiB`.
#[test]
fn sizes_of_a_column_have_one_unit_which_its_header_names() {
    let world = World::new();
    world.tiny();
    for args in [&["inspect", "tiny-bundle"][..], &["plan", "tiny", "--int8"]] {
        let out = world.good(args).out;
        let rows = out.lines().filter(|line| line.starts_with("model"));
        let rows: Vec<&str> = rows.filter(|line| line.contains("F16") || line.contains("I8")).collect();
        assert!(rows.len() > 10, "{out}");
        assert!(rows.iter().all(|row| !row.contains("iB") && !row.contains(" B ")), "{out}");
        let units = out.lines().filter(|line| line.split_whitespace().any(|word| word == "KiB"));
        assert!(units.count() >= 2, "{out}");
    }
}

#[test]
fn a_bars_label_is_one_run_of_modules() {
    let world = World::new();
    let out = world.good(&["map", "34b", "--int8", "--gpus", "2x24GiB"]).out;
    let bars: Vec<&str> = out.lines().filter(|line| line.contains('█')).collect();
    assert_eq!(bars.len(), 2);
    for bar in bars {
        assert_eq!(bar.matches("model.").count(), 1, "{bar}");
        assert!(bar.contains("model.layers.") && bar.contains(" others"), "{bar}");
    }
}

#[test]
fn digests_are_in_the_json_and_not_in_the_tables() {
    let world = world();
    world.damaged();
    let has_digest = |text: &str| {
        let words = text.lines().filter(|line| !line.starts_with("id sha256:"));
        let words = words.flat_map(|line| line.split(|c: char| !c.is_ascii_hexdigit()));
        words.into_iter().any(|word| word.len() == 64)
    };
    for args in [&["inspect", "tiny-bundle"][..], &["verify", "tiny-bundle"], &["verify", "damaged"]] {
        let shown = world.run(args);
        assert!(!shown.out.is_empty() && !has_digest(&shown.out), "{args:?}: {}", shown.out);
        assert!(has_digest(&world.run(&[args, &["--json"]].concat()).out), "{args:?}");
    }
}

/// What a command answers must not depend on who reads it: `verify` of a damaged bundle was 0 on a full disk.
#[test]
fn the_exit_status_is_the_verdicts_whoever_reads_the_output() {
    let world = world();
    world.damaged();
    let mut number = 0;
    let mut json_seen = std::collections::BTreeSet::new();
    for args in SHOWING.into_iter().chain([&["--version"][..], &["verify", "--help"]]) {
        let mut codes = Vec::new();
        for json in [&[][..], &["--json"]] {
            // Every command prints its JSON the same way: one of each is enough.
            let is_help = args.iter().any(|arg| arg.starts_with("-h") || arg.starts_with("--help"));
            let takes_json = !is_help && !matches!(args[0], "completions" | "--version");
            if !json.is_empty() && (!takes_json || !json_seen.insert(args[0])) {
                continue;
            }
            let mut run = |out: Stdio, drop_reader: bool| -> (i32, String) {
                number += 1;
                let mut command = world.showing(args, number);
                let mut child = command.args(json).stdout(out).stderr(Stdio::piped()).spawn().unwrap();
                if drop_reader {
                    drop(child.stdout.take());
                } else if let Some(mut out) = child.stdout.take() {
                    let mut all = Vec::new();
                    out.read_to_end(&mut all).unwrap();
                    assert!(!all.is_empty(), "{args:?} shows nothing");
                }
                let mut err = String::new();
                child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
                (child.wait().unwrap().code().unwrap(), err)
            };
            let prints = args[0] != "pull";
            let verdict = if prints { run(Stdio::piped(), false) } else { run(Stdio::null(), false) };
            codes.push(verdict.0);
            let gone = run(Stdio::piped(), true);
            assert_eq!(gone.0, verdict.0, "{args:?} {json:?}, nobody reads: {}", gone.1);
            if prints {
                assert!(!gone.1.contains("error"), "{args:?}: {}", gone.1);
            }
            let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
            let unwritable = File::open("/dev/null").unwrap();
            for (out, cause) in [(full, "No space left on device"), (unwritable, "Bad file descriptor")] {
                let (code, err) = run(out.into(), false);
                if prints {
                    assert_eq!(code, if verdict.0 == 0 { 2 } else { verdict.0 }, "{args:?}, {cause}: {err}");
                    assert!(err.contains("error: ") && err.contains(cause), "{args:?}: {err}");
                } else {
                    assert_eq!(code, verdict.0, "{args:?}");
                }
            }
        }
        assert!(codes.windows(2).all(|pair| pair[0] == pair[1]), "{args:?}: {codes:?}");
        let expected = if args == ["verify", "damaged"] { 1 } else { codes[0] };
        assert_eq!(codes[0], expected, "{args:?}");
    }
}

/// It was fourteen findings with fourteen lines, one for each package.
#[test]
fn an_empty_environment_is_one_finding_with_one_line() {
    let world = world();
    let doctor = ["doctor", "tiny-bundle", "--python", "env/bin/python"];
    let report = world.run(&[&doctor[..], &["--json"]].concat());
    assert_eq!(report.code, 1, "{report:?}");
    let findings = report.json()["findings"].as_array().unwrap().clone();
    let of_packages: Vec<_> =
        findings.iter().filter(|one| one["help"].as_str().unwrap().contains("pip install")).collect();
    assert_eq!(of_packages.len(), 1, "{findings:?}");
    let what = of_packages[0]["what"].as_str().unwrap();
    assert!(what.contains("packages are not installed: ") && what.contains("torch, "), "{what}");
    // The line on the screen is the one in the JSON, as a shell reads it.
    let shown = world.run(&doctor).out;
    let (_, line) = shown.split_once("   help: ").unwrap();
    let mut words = String::new();
    for part in line.lines() {
        words.push_str(part.trim_end_matches('\\').trim());
        words.push(' ');
        if !part.ends_with('\\') {
            break;
        }
    }
    assert_eq!(words.trim(), of_packages[0]["help"]);
    assert_eq!(shown.matches("finding: ").count(), findings.len());
}

fn has_color(text: &str) -> bool {
    text.contains("\u{1b}[")
}

#[test]
fn colours_are_where_they_are_asked_for() {
    let world = world();
    world.damaged();
    let run = |args: &[&str], set: &[(&str, &str)]| -> Ran {
        let mut command = world.command(args);
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        ran(command.envs(set.iter().copied()))
    };
    let verdicts = [&["verify", "tiny-bundle"][..], &["verify", "damaged"], &["plan", "tiny", "--int8"]];
    for args in verdicts {
        let plain = run(args, &[]);
        assert!(!has_color(&plain.out) && !has_color(&plain.err), "{args:?}: no terminal");
        let always = run(&[args, &["--color", "always"]].concat(), &[("NO_COLOR", "1")]);
        assert!(has_color(&always.out), "{args:?}");
        assert!(has_color(&run(args, &[("CLICOLOR_FORCE", "1")]).out), "{args:?}");
        assert!(!has_color(&run(args, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).out), "{args:?}");
        assert!(!has_color(&run(&[args, &["--color=never"]].concat(), &[("CLICOLOR_FORCE", "1")]).out));
        // Colours are all that differs.
        let bare =
            always.out.split("\u{1b}[").enumerate().map(|(at, part)| match (at, part.split_once('m')) {
                (1.., Some((_, rest))) => rest,
                _ => part,
            });
        assert_eq!(bare.collect::<String>(), plain.out, "{args:?}");
    }
    let json = run(&["verify", "damaged", "--json", "--color", "always"], &[]);
    assert!(!has_color(&json.out) && json.json()["findings"].is_array());
    let wrong = ["verify", "absent"];
    let error = run(&[&wrong[..], &["--color", "always"]].concat(), &[]).err;
    assert!(error.starts_with("\u{1b}[1;31merror:\u{1b}[0m "), "{error:?}");
    assert!(!has_color(&run(&wrong, &[]).err));
    // What is wrong with the words themselves, too.
    assert!(has_color(&run(&["verify", "--color", "always", "--frobnicate"], &[]).err));
    assert!(!has_color(
        &run(&["verify", "--color", "never", "--frobnicate"], &[("CLICOLOR_FORCE", "1")]).err
    ));
}

/// On a terminal, as util-linux's `script` makes one.
#[test]
fn a_terminal_has_colours_and_its_own_width() {
    let world = world();
    let on_terminal = |line: &str, set: &[(&str, &str)]| {
        let command = world.command(&[]);
        let program = command.get_program().to_string_lossy().into_owned();
        let mut script = Command::new("script");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS"] {
            script.env_remove(name);
        }
        script
            .env("TERM", "xterm")
            .envs(set.iter().copied())
            .current_dir(world.path(""))
            .stdin(Stdio::null());
        let line = format!("stty cols 64; {program} {line}");
        ran(script.args(["-q", "-e", "-c", &line, "/dev/null"]))
    };
    let verdict = on_terminal("verify tiny-bundle", &[]);
    assert_eq!(verdict.code, 0, "{verdict:?}");
    assert!(verdict.out.contains("\u{1b}[32m"), "{verdict:?}");
    assert!(!on_terminal("verify tiny-bundle --progress none", &[("NO_COLOR", "1")]).out.contains("\u{1b}["));
    let error = on_terminal("verify absent", &[]);
    assert!(error.code == 2 && error.out.contains("\u{1b}[1;31merror:"), "{error:?}");
    let map = on_terminal("map 34b --int8 --gpus 2x24GiB --why --color never", &[]).out;
    let widest = map.lines().map(|line| line.trim_end().chars().count()).max().unwrap();
    assert!((50..=64).contains(&widest), "{widest}: {map}");
}

/// Names and texts come from files; a terminal obeys what is in them.
#[test]
fn nothing_that_a_file_says_steers_the_terminal() {
    let world = world();
    let hostile = "a\u{1b}[2J\u{7}b\u{202e}c\u{9b}31m\u{2066}";
    let is_ink =
        |text: &str| !text.chars().any(|c| (c.is_control() && c != '\n') || "\u{202e}\u{2066}".contains(c));
    // As a name of a file, and as the name of a tensor in a manifest that is sealed again as an attacker can. No other text
    // of a manifest may have it: tests/it/resealed.rs.
    let name = "a\u{202e}b\u{2066}";
    world::copy(&world.path("tiny-bundle"), &world.path("hostile"));
    write(&world.path("hostile").join(hostile), b"");
    let path = world.path("hostile/mgpack.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    *manifest.pointer_mut("/tensors/0/source").unwrap() = name.into();
    manifest["seal"] = "0".repeat(64).into();
    let seal = mgpack::Digest::of(format!("{manifest:#}\n").as_bytes());
    manifest["seal"] = seal.to_string().into();
    fs::write(&path, format!("{manifest:#}\n")).unwrap();
    let python = ["--python", "env/bin/python"];
    let commands = [
        &["verify", "hostile"][..],
        &["inspect", "hostile"],
        &["doctor", "hostile", python[0], python[1]],
        &["verify", hostile],
        &["plan", hostile, "--int8"],
        &["pull", hostile],
        &["release", "hostile", "-o", hostile],
    ];
    let mut escaped = 0;
    for args in commands {
        let ran = world.run(args);
        assert!(is_ink(&ran.out) && is_ink(&ran.err), "{args:?}: {ran:?}");
        escaped += usize::from(ran.out.contains("\\u{202e}") || ran.err.contains("\\u{202e}"));
        if args[0] == "pull" {
            continue;
        }
        let json = world.run(&[args, &["--json"]].concat());
        assert!(is_ink(&json.out) && is_ink(&json.err), "{args:?}: {json:?}");
    }
    assert!(escaped >= 5, "only {escaped} commands showed it");
    // In JSON it is what it was.
    let findings = world.run(&["verify", "hostile", "--json"]).json();
    let paths: Vec<&str> =
        findings["findings"].as_array().unwrap().iter().map(|one| one["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&hostile), "{paths:?}");
    assert_eq!(world.good(&["inspect", "hostile", "--json"]).json()["tensors"][0]["source"], name);
}
