//! A pipe in the place of a file: every command ends by itself, soon, and says what is wrong.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::world::{self, World, contents};
use rustix::fs::{CWD, FileType, Mode, mknodat};

fn make_pipe(path: &Path) {
    fs::remove_file(path).unwrap();
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

/// Runs the binary, which must end within five seconds. Returns its exit code and what it said.
fn soon(world: &World, args: &[&str]) -> (i32, String) {
    let mut child = world.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(5) {
            child.kill().unwrap();
            panic!("{args:?} waits");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.code().unwrap(), said)
}

#[test]
fn no_file_of_a_bundle_makes_a_command_wait() {
    // Once, `mgpack.json` or any other file as a pipe hung every reader, and Ctrl-C was ignored.
    let world = World::new();
    world.tiny();
    let against = fs::read_dir(world.path("cache/mgpack")).unwrap().next().unwrap().unwrap().path();
    let against = against.to_str().unwrap().to_owned();
    let files: Vec<String> = contents(&world.path("tiny-bundle")).into_keys().collect();
    assert!(files.len() > 10);
    for file in files {
        let _ = fs::remove_dir_all(world.path("bundle"));
        world::copy(&world.path("tiny-bundle"), &world.path("bundle"));
        make_pipe(&world.path("bundle").join(&file));
        let (code, said) = soon(&world, &["verify", "bundle"]);
        let is_told = said.contains(&file) && (said.contains("pipe") || said.contains("regular file"));
        assert!(code != 0 && is_told, "{file}: {code} {said}");
        let commands: [&[&str]; 6] = [
            &["inspect", "bundle"],
            &["map", "bundle"],
            &["env", "bundle", "-o", "env"],
            &["report", "bundle", "--against", &against, "-o", "page.html"],
            &["release", "bundle", "-o", "release"],
            &["convert", "bundle", "--bf16", "-o", "out"],
        ];
        for command in commands {
            let (code, said) = soon(&world, command);
            let reads_it = !matches!(command[0], "inspect" | "map" | "env") || file == "mgpack.json";
            assert!(!reads_it || code != 0, "{file} {command:?}: {said}");
            assert_ne!(code, 101, "{file} {command:?}: {said}");
        }
    }
    assert!(!world.path("release").exists() && !world.path("out").exists());
}

#[test]
fn no_pipe_as_the_path_itself_makes_a_command_wait() {
    let world = World::new();
    fs::write(world.path("pipe.tar"), "").unwrap();
    make_pipe(&world.path("pipe.tar"));
    for command in ["verify", "inspect"] {
        let (code, said) = soon(&world, &[command, "pipe.tar"]);
        assert_eq!(code, 2, "{command}: {said}");
    }
}

#[test]
fn no_file_of_a_release_makes_verify_wait() {
    let world = World::new();
    world.tiny();
    for name in ["SHA256SUMS", "MGM-7B-tiny-int8.id", "MGM-7B-tiny-int8.tar"] {
        let _ = fs::remove_dir_all(world.path("release"));
        world.good(&["release", "tiny-bundle", "-o", "release"]);
        make_pipe(&world.path("release").join(name));
        let (code, said) = soon(&world, &["verify", "release"]);
        assert!(code != 0 && code != 101, "{name}: {code} {said}");
    }
}
