#!/bin/sh
# Changes the program in a sample of places, one at a time, and names those changes that no Rust test notices.
#
#   tests/mutants.sh                     every 50th mutant, some 100
#   tests/mutants.sh --every 20          more of them
#   tests/mutants.sh --offset 25         others
#   tests/mutants.sh --names FILE        those that a file names, say those that were missed
#
# Needs cargo-mutants, which lists the mutants (cargo install --locked cargo-mutants), and Python 3.11. Works in
# target/mutants; the first build there compiles all dependencies. A test is run by itself, in a folder of its own.
set -eu
cargo mutants --version >/dev/null 2>&1 || {
    echo "needs cargo-mutants: cargo install --locked cargo-mutants" >&2
    exit 2
}
exec python3 "$(dirname "$0")/mutants.py" "$@"
