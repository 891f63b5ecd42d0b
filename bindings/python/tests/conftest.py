"""Bundles, each made once a session by the `mgpack` command of the package under test."""

import os
import shutil
import subprocess
import sys

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def command(*arguments, **environment):
    """The package's own script. `python -m` and not its name, so that it is this package's."""
    line = [sys.executable, "-m", "mgpack", *map(str, arguments)]
    return subprocess.run(
        line, capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )


class Made:
    """Folders by what they hold, made when first asked for."""

    def __init__(self, root):
        self.root = root

    def checkpoint(self):
        """A small random Llama as transformers saves it, bfloat16, in several shards."""
        folder = self.root / "llama"
        if not folder.exists():
            torch.manual_seed(0)
            config = LlamaConfig(
                vocab_size=256,
                hidden_size=128,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=128,
                initializer_range=0.05,
            )
            model = LlamaForCausalLM(config).to(torch.bfloat16)
            model.save_pretrained(folder, max_shard_size="200KB")
        return folder

    def generic(self, *options):
        return self._bundle(self.checkpoint(), options)

    def mgm(self, *options):
        """A bundle of the built-in checkpoint of MGM-7B's structure."""
        return self._bundle("tiny", options)

    def _bundle(self, source, options):
        folder = self.root / "-".join(["bundle", os.path.basename(source), *options]).replace("=", "")
        if not folder.exists():
            line = ["convert", source, *options, "-o", folder]
            done = command(*line, XDG_CACHE_HOME=str(self.root / "cache"))
            assert done.returncode == 0, done.stderr
        return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def copy(tmp_path):
    """Copies a bundle, to be broken."""
    return lambda bundle: shutil.copytree(bundle, tmp_path / "copy" / bundle.name)


@pytest.fixture(scope="session", name="command")
def command_fixture():
    return command
