//! The `mgpack` command: parse, run, exit code; nothing else.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
