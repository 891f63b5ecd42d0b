"""Checkpoints and bundles, each made once a session.

The binary is $MGPACK, or target/release/mgpack two folders above the tests' own. A missing binary fails the tests that need it:
to run the oracles alone, `pytest test_the_oracles_agree_with_their_description.py`.
"""

import os
import subprocess
from pathlib import Path

import architectures
import oracles
import pytest
import torch

pytest_plugins = ["support_table"]

BINARY = Path(os.environ.get("MGPACK") or Path(__file__).resolve().parents[2] / "target/release/mgpack")

# family, dtype of the checkpoint; others are made by name from `architectures`, with `-f32` in float32. One family is enough for the other dtypes: the rest does not depend on the dtype.
CHECKPOINTS = {
    "llama": ("llama", torch.bfloat16),
    "llama-f16": ("llama", torch.float16),
    "llama-f32": ("llama", torch.float32),
    "mixtral": ("mixtral", torch.bfloat16),
    "gemma": ("gemma", torch.bfloat16),
    "qwen3": ("qwen3", torch.bfloat16),
}


class Made:
    """Folders by what they hold, made when first asked for."""

    def __init__(self, root):
        self.root = root
        self.done = {}

    def checkpoint(self, name):
        if name not in CHECKPOINTS:
            architecture = name.removesuffix("-f32")
            dtype = torch.bfloat16 if architecture == name else torch.float32
            return self._once(name, lambda folder: architectures.make_checkpoint(architecture, dtype, folder))
        family, dtype = CHECKPOINTS[name]
        return self._once(name, lambda folder: oracles.make_checkpoint(family, dtype, folder))

    def bundle(self, name, *options):
        """A bundle from the real binary."""
        source = self.checkpoint(name)
        arguments = ["convert", source, *options, "-o"]
        return self._once(
            " ".join([name, *options]),
            lambda folder: mgpack(*arguments, folder, "--progress", "none", check=True),
        )

    def reference(self, name, scheme, ignore=oracles.IGNORE):
        """What llm-compressor writes for the same checkpoint."""
        source = self.checkpoint(name)
        make = lambda folder: oracles.compressed_tensors(source, folder, scheme, ignore)  # noqa: E731
        return self._once(f"{name} {scheme} reference {len(ignore)}", make)

    def _once(self, key, make):
        if key not in self.done:
            folder = self.root / key.replace(" ", "")
            make(folder)
            self.done[key] = folder
        return self.done[key]


def mgpack(*arguments, check=False):
    if not BINARY.is_file():
        pytest.fail(f"no binary at {BINARY}: run `cargo build --release` or set MGPACK", pytrace=False)
    # mgpack folds its lines to COLUMNS, which some of the libraries imported here set.
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=120, env=environment)
    if check and done.returncode != 0:
        line = " ".join(str(a) for a in arguments)
        pytest.fail(f"`mgpack {line}` ended with {done.returncode}\n{done.stdout}{done.stderr}", pytrace=False)
    return done


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("oracle"))


@pytest.fixture(scope="session", name="mgpack")
def mgpack_fixture():
    return mgpack


@pytest.fixture(params=CHECKPOINTS)
def checkpoint(request):
    return request.param
