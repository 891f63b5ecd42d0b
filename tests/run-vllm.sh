#!/bin/sh
# Serves bundles with vLLM on a CPU and compares its answers with those from the checkpoints: about ten minutes.
#
# Installs the pinned Python packages into .venv-vllm at first use (about 5 GB). PYTHON names the interpreter, 3.11 by
# default.
set -eu
cd "$(dirname "$0")/.."

cargo build --release --locked

python=${PYTHON:-python3.11}
command -v "$python" >/dev/null 2>&1 || python=python3
stamp=.venv-vllm/requirements.installed
if ! cmp -s tests/vllm/requirements.txt "$stamp"; then
    rm -rf .venv-vllm
    "$python" -m venv .venv-vllm
    # --no-deps: the list is complete, and says why it must not be resolved again.
    .venv-vllm/bin/pip install --quiet --no-deps --disable-pip-version-check -r tests/vllm/requirements.txt
    cp tests/vllm/requirements.txt "$stamp"
fi
.venv-vllm/bin/python -m pytest -q -rs tests/vllm
