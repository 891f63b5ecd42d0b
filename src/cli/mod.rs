//! The command line: one file per command, `args` for every word, `ui` for everything printed.
//!
//! [`run`] is all that is public: the `mgpack` binary calls it, and so does the script of the Python package.

mod args;
mod convert;
mod doctor;
mod env;
mod inspect;
#[cfg(feature = "load")]
mod load;
mod map;
mod mention;
mod pull;
mod release;
mod report;
mod signals;
mod ui;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ColorChoice, CommandFactory as _, FromArgMatches as _};

use args::{Cli, ColorMode, Command};
use mgpack::error::IoError;
use mgpack::progress::{Progress, Stop};
use mgpack::verbs::Work;
use mgpack::{Error, Result};

/// Exit code of a command that was interrupted.
const INTERRUPTED: u8 = 130;

/// Set by the first signal while work is attended; that work looks at it.
static STOP: Stop = Stop::new();

/// What a command that ran found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// All is as it should be.
    Good,
    /// There are findings.
    Findings,
}

/// Parses the command line and runs it. `args`: the name of the program, then its arguments.
///
/// Exit codes: 0 good, 1 findings or a refusal, 2 could not run, 130 interrupted. Output that cannot be written is an
/// error, but never hides findings: 2 in place of 0 only. Takes the handlers of signals.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    ui::choose_colors(color_mode(&args));
    let code = match parse(&args) {
        Ok(cli) => carry_out(cli),
        Err(code) => code,
    };
    let Some(cause) = ui::failure() else { return ExitCode::from(code) };
    let error = IoError::new("writing the output", "<stdout>", cause);
    ui::complain(&error.into());
    ExitCode::from(if code == 0 { 2 } else { code })
}

/// The command that the words mean. Prints help and what is wrong with them, and then has the exit code.
fn parse(args: &[OsString]) -> std::result::Result<Cli, u8> {
    let colors = |stream| if ui::has_colors(stream) { ColorChoice::Always } else { ColorChoice::Never };
    let mut command = Cli::command().color(colors(ui::Stream::Err));
    let parsed = command.try_get_matches_from_mut(args).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| {
        if error.use_stderr() {
            // Talk that nobody can hear is dropped.
            let _ = error.print();
        } else if ui::has_colors(ui::Stream::Out) {
            ui::print(&error.render().ansi().to_string());
        } else {
            ui::print(&error.render().to_string());
        }
        error.exit_code().try_into().unwrap_or(2)
    })
}

fn carry_out(cli: Cli) -> u8 {
    signals::handle();
    let outcome = match cli.command {
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
            Ok(Verdict::Good)
        }
    };
    match outcome {
        Ok(Verdict::Good) => 0,
        Ok(Verdict::Findings) => 1,
        Err(error) => {
            ui::complain(&error);
            exit_code(&error)
        }
    }
}

fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Interrupted { .. } => INTERRUPTED,
        error if error.is_refusal() => 1,
        _ => 2,
    }
}

/// `--color`, before the other words are read: what is wrong with them is shown in colour, or not, as well.
fn color_mode(args: &[OsString]) -> ColorMode {
    let words = args.iter().map(|word| word.to_str().unwrap_or_default());
    let words = words.take_while(|word| *word != "--");
    let values = words.clone().zip(words.skip(1).chain([""])).filter_map(|(word, next)| match word {
        "--color" => Some(next),
        word => word.strip_prefix("--color="),
    });
    match values.last() {
        Some("always") => ColorMode::Always,
        Some("never") => ColorMode::Never,
        _ => ColorMode::Auto,
    }
}

/// Work that a signal stops.
fn work(progress: &dyn Progress) -> Work<'_> {
    Work::new(progress, &STOP)
}

/// Prints JSON, or fails with an error of its own.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    ui::print_json(value).map_err(|error| IoError::new("writing JSON", "<stdout>", error.into()).into())
}
