//! The command line: one file per command, `args` for every word, `ui` for everything printed.
//!
//! [`run`] is all that is public: the `mgpack` binary calls it, and so does the script of the Python package.

mod args;
mod convert;
mod devices;
mod doctor;
mod env;
mod fetch;
mod inspect;
#[cfg(feature = "load")]
mod load;
mod map;
mod mention;
mod pull;
mod release;
mod report;
mod stream;
mod ui;
mod verify;
mod write;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Cli, Command};
use mgpack::error::{ConvertError, HubError};
use mgpack::progress::Stop;
use mgpack::{Error, Result};

/// Set by the first Ctrl-C, SIGTERM or SIGHUP; all long work looks at it.
static STOP: Stop = Stop::new();

/// Parses the command line and runs it. `args`: the name of the program, then its arguments.
///
/// Exit codes: 0 good, 1 findings or a refusal, 2 could not run, 130 interrupted. Ends the process itself for
/// `--help` and for words it does not know, and takes the handlers of SIGINT, SIGTERM and SIGHUP.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(args);
    if let Err(error) = ctrlc::set_handler(|| STOP.request()) {
        ui::say(&format!("warning: Ctrl-C will not be handled: {error}"));
    }
    let outcome = match cli.command {
        Command::Convert(args) if args.stream => stream::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Plan(args) => convert::plan(&args),
        Command::Map(args) => map::run(&args),
        Command::Verify(args) => verify::run(&args),
        #[cfg(feature = "load")]
        Command::Load(args) => load::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Release(args) => release::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Env(args) => env::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "mgpack", &mut script);
            ui::print(&String::from_utf8_lossy(&script));
            Ok(ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|error| {
        ui::complain(&error);
        exit_code(&error)
    })
}

fn exit_code(error: &Error) -> ExitCode {
    match error {
        Error::Convert(ConvertError::Interrupted) | Error::Hub(HubError::Interrupted) => ExitCode::from(130),
        error if error.is_refusal() => ExitCode::from(1),
        _ => ExitCode::from(2),
    }
}

/// A pool of the threads asked for.
fn pool(threads: Option<u16>) -> Result<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(thread_count(threads)).build();
    pool.map_err(|cause| {
        ConvertError::Io {
            doing: "starting threads",
            path: Default::default(),
            cause: std::io::Error::other(cause),
        }
        .into()
    })
}

fn thread_count(threads: Option<u16>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    threads.map_or_else(cores, usize::from)
}

/// Prints JSON, or fails with an error of its own.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    ui::print_json(value).map_err(|error| {
        ConvertError::Io { doing: "writing JSON", path: "<stdout>".into(), cause: error.into() }.into()
    })
}
