#!/bin/sh
# Runs every test: Rust's, then those against bitsandbytes, llm-compressor, torch and transformers, and those of the
# Python package.
#
# Installs the pinned Python packages into .venv at first use (about 4 GB: PyPI's torch for Linux is the CUDA
# build, and its libraries must be there even without a GPU). PYTHON names the interpreter, 3.11 by default.
# With --environment that is all it does.
set -eu
cd "$(dirname "$0")/.."

provide() {
    python=${PYTHON:-python3.11}
    command -v "$python" >/dev/null 2>&1 || python=python3
    stamp=.venv/requirements.installed
    if ! cmp -s tests/python/requirements.txt "$stamp"; then
        rm -rf .venv
        "$python" -m venv .venv
        # --no-deps: the list is complete, and says why it must not be resolved again.
        .venv/bin/pip install --quiet --no-deps --disable-pip-version-check -r tests/python/requirements.txt
        cp tests/python/requirements.txt "$stamp"
    fi
}

if [ "${1:-}" = --environment ]; then
    provide
    exit
fi

cargo test --release --locked

# Kills and failing system calls at some points of every command that writes; without --quick at all of them.
if command -v strace >/dev/null 2>&1; then
    tests/faults/sweep.py --quick
else
    echo "left out: tests/faults/sweep.py, which needs strace"
fi

provide

# The Python package, built with the same target folder so that nothing is compiled twice.
PATH="$PWD/.venv/bin:$PATH" CARGO_TARGET_DIR="$PWD/target" .venv/bin/pip install --quiet --no-deps --no-build-isolation \
    --force-reinstall --disable-pip-version-check ./bindings/python

# One run for each folder: each has a conftest.py of its own. -rs lists which tests were left out and why.
for tests in tests/python bindings/python/tests; do
    MGPACK=${MGPACK:-$PWD/target/release/mgpack} .venv/bin/python -m pytest -q -rs "$tests"
done
