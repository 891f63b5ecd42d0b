//! Another program, run to its end within a time and a length of output.
//!
//! The one place where mgpack starts anything: `nvidia-smi`, and a Python interpreter that is asked for its
//! package metadata. Also how a text is written as a word of a shell. Leaves to the callers what they run and what the output means.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use crate::progress::Stop;

/// Bytes of each stream that are kept; a listing of 128 GPUs or of all packages takes a tenth.
const MAX_OUTPUT_LEN: u64 = 4 << 20;
/// Pause between two looks at a running program.
const POLL: Duration = Duration::from_millis(5);

/// What a program left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Its standard output, at most 4 MiB of it; bytes that are not UTF-8 replaced.
    pub(crate) out: String,
    /// Its standard error, likewise.
    pub(crate) err: String,
}

/// Why a program gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramFault {
    /// It could not be started.
    #[error("it cannot be started: {0}")]
    Start(#[source] io::Error),
    /// It did not end in time and was killed.
    #[error("it gave no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It was killed, because a stop was requested.
    #[error("it was stopped")]
    Stopped,
    /// Its end could not be waited for.
    #[error("it was lost: {0}")]
    Lost(#[source] io::Error),
}

/// A text as one word of a shell.
pub(crate) fn shell_word(text: &str) -> String {
    let is_plain = |character: char| character.is_alphanumeric() || "._-/:=,+@%".contains(character);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Runs `command` without input; kills it after `limit`, or when `stop` is requested.
pub(crate) fn run(command: &mut Command, limit: Duration, stop: &Stop) -> Result<Ran, ProgramFault> {
    let deadline = Instant::now() + limit;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(ProgramFault::Start)?;
    let out = child.stdout.take().map(collect);
    let err = child.stderr.take().map(collect);
    let Some(status) = wait(&mut child, deadline, stop).map_err(ProgramFault::Lost)? else {
        // It may have ended in between; either way it must not stay behind.
        let _ = child.kill();
        let _ = child.wait();
        return Err(if stop.requested() { ProgramFault::Stopped } else { ProgramFault::TimedOut(limit) });
    };
    // A child of the program may hold a pipe open after its end: what comes later is not waited for.
    let text = |stream: Option<Receiver<String>>| {
        let left = deadline.saturating_duration_since(Instant::now());
        stream.and_then(|stream| stream.recv_timeout(left).ok()).unwrap_or_default()
    };
    Ok(Ran { status, out: text(out), err: text(err) })
}

/// Reads a stream to its end on a thread of its own, so that a full pipe does not stop the program.
fn collect(mut stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    // Where no thread can be started the sender is dropped, and nothing is what comes.
    let _ = thread::Builder::new().spawn(move || {
        let mut kept = Vec::new();
        // What was read before a failure is what there is.
        let _ = stream.by_ref().take(MAX_OUTPUT_LEN).read_to_end(&mut kept);
        let _ = io::copy(&mut stream, &mut io::sink());
        let _ = sender.send(String::from_utf8_lossy(&kept).into_owned());
    });
    receiver
}

/// The program's end, or `None` at the deadline or a request to stop.
fn wait(child: &mut Child, deadline: Instant, stop: &Stop) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline || stop.requested() {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Result<Ran, ProgramFault> {
        run(Command::new("sh").args(["-c", script]), limit, &Stop::new())
    }

    #[test]
    fn output_and_exit_code_come_back() {
        let ran = shell("echo out; echo err >&2; exit 3", Duration::from_secs(20)).unwrap();
        assert_eq!((ran.out.as_str(), ran.err.as_str(), ran.status.code()), ("out\n", "err\n", Some(3)));
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let started = Instant::now();
        let fault = shell("exec sleep 60", Duration::from_millis(200)).unwrap_err();
        assert!(matches!(fault, ProgramFault::TimedOut(_)), "{fault}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_program_is_killed_when_a_stop_is_requested() {
        let (stop, started) = (Stop::new(), Instant::now());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(100));
                stop.request();
            });
            let fault = run(Command::new("sleep").arg("60"), Duration::from_secs(60), &stop).unwrap_err();
            assert!(matches!(fault, ProgramFault::Stopped), "{fault}");
        });
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn more_output_than_is_kept_neither_blocks_nor_grows() {
        let ran = shell("head -c 20000000 /dev/zero", Duration::from_secs(60)).unwrap();
        assert_eq!(ran.out.len() as u64, MAX_OUTPUT_LEN);
        assert!(ran.status.success());
    }

    #[test]
    fn a_program_that_is_not_there_says_so() {
        let fault =
            run(&mut Command::new("/nowhere/mgpack-test"), Duration::from_secs(1), &Stop::new()).unwrap_err();
        assert!(matches!(fault, ProgramFault::Start(_)), "{fault}");
    }
}
