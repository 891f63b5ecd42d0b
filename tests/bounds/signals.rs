//! What signals do to a command: it ends soon, says so with 130, leaves nothing, and what was ignored stays ignored.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::world::{World, save_zeros};
use rustix::process::{Pid, Signal, kill_process};

/// A checkpoint whose header alone takes a command seconds to read.
fn save_many_tensors(world: &World) {
    const COUNT: usize = 400_000;
    let mut json = String::from("{");
    for number in 0..COUNT {
        let begin = number * 2;
        let _ = write!(
            json,
            "\"model.layers.{number}.mlp.up_proj.weight\":{{\"dtype\":\"F16\",\"shape\":[1,1],\"data_offsets\":[{begin},{}]}},",
            begin + 2
        );
    }
    json.pop();
    json.push('}');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.into_bytes());
    bytes.resize(bytes.len() + COUNT * 2, 0);
    fs::create_dir(world.path("many")).unwrap();
    fs::write(world.path("many/model.safetensors"), bytes).unwrap();
    fs::write(world.path("many/config.json"), "{}").unwrap();
}

fn quiet(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// True while the process has this file open.
fn has_open(child: &Child, path: &Path) -> bool {
    let files = fs::read_dir(format!("/proc/{}/fd", child.id())).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| target == path)
}

/// Runs a shell's line with the binary as `$0` in this world.
fn shell(world: &World, line: &str) -> Command {
    let mut command = world.command(&[]);
    let mut sh = Command::new("sh");
    sh.args(["-c", line]).arg(command.get_program()).current_dir(world.path("")).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => sh.env(name, value),
            None => sh.env_remove(name),
        };
    }
    command.env_clear();
    sh
}

#[test]
fn the_first_signal_ends_a_command_that_writes_nothing_within_a_second() {
    // Once, these read on for up to 18 seconds and then answered with 0, 1 or 2.
    let world = World::new();
    save_many_tensors(&world);
    let header = fs::canonicalize(world.path("many/model.safetensors")).unwrap();
    let commands: [&[&str]; 3] = [
        &["plan", "many", "--int8", "--max-memory", "8GiB"],
        &["inspect", "many"],
        &["map", "many", "--int8"],
    ];
    for command in commands {
        for kind in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
            let mut child = quiet(world.interruptible(command));
            let started = Instant::now();
            while !has_open(&child, &header) {
                assert!(
                    child.try_wait().unwrap().is_none(),
                    "{command:?} was over before it could be stopped"
                );
                assert!(started.elapsed() < Duration::from_secs(30));
                std::thread::sleep(Duration::from_millis(1));
            }
            kill_process(Pid::from_child(&child), kind).unwrap();
            let asked = Instant::now();
            let output = child.wait_with_output().unwrap();
            assert!(asked.elapsed() < Duration::from_secs(1), "{command:?} {kind:?}: {:?}", asked.elapsed());
            assert_eq!(output.status.code(), Some(130), "{command:?} {kind:?}");
            assert_eq!(String::from_utf8(output.stderr).unwrap(), "error: interrupted\n");
        }
    }
}

#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    // Once, `nohup mgpack convert` died with the terminal.
    let world = World::new();
    save_zeros(&world.path("ckpt"), 8, 2048, 2048);
    let child = quiet(shell(&world, "trap '' HUP; exec \"$0\" convert ckpt --int8 -o out"));
    let started = Instant::now();
    while !world.names().iter().any(|name| name.starts_with('.')) {
        assert!(started.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(2));
    }
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    world.good(&["verify", "out"]);
}

#[test]
fn a_limit_on_file_sizes_is_an_error_that_leaves_nothing() {
    // Once, SIGXFSZ ended the process without a word and left its folder.
    let world = World::new();
    save_zeros(&world.path("ckpt"), 2, 1024, 1024);
    let output = shell(&world, "ulimit -f 64; exec \"$0\" convert ckpt --int8 -o out").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("raise the limit on file sizes"), "{said}");
    assert_eq!(world.names(), ["ckpt"]);
}
