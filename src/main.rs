//! The `mgpack` command: the library's command line, and nothing else.

fn main() -> std::process::ExitCode {
    mgpack::cli::run(std::env::args_os())
}
