"""Checkpoints, bundles, and a vLLM server for each: one after the other, as each takes a minute or two to start."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config

BINARY = Path(os.environ.get("MGPACK") or Path(__file__).resolve().parents[2] / "target/release/mgpack")

SIZES = {
    "vocab_size": 320, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258,
}  # fmt: skip

CONFIGS = {"llama": LlamaConfig(**SIZES), "qwen3": Qwen3Config(**SIZES, head_dim=64)}

BUNDLES = {"bf16": ["--bf16"], "W8A8": ["--int8", "--format", "compressed-tensors", "--scheme", "W8A8"]}

# Longest time to start: importing alone takes most of a minute on two cores.
START = 600


def write_checkpoint(family, folder):
    """A random model with the initial values of transformers, and a tokenizer of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, "<s>", "</s>", "<pad>"]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[family], dtype=torch.float32).to(torch.bfloat16).save_pretrained(folder)


class Server:
    """vLLM's OpenAI server over one folder."""

    def __init__(self, folder, log):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{one.getsockname()[1]}"
        more = {
            "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        line = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--served-model-name", "it",
            "--host", "127.0.0.1", "--port", self.url.rpartition(":")[2], "--dtype", "bfloat16", "--max-model-len", "128",
            "--enforce-eager",
        ]  # fmt: skip
        self.log = log
        with log.open("w") as out:
            options = {"stdout": out, "stderr": subprocess.STDOUT, "start_new_session": True}
            self.process = subprocess.Popen(line, env=os.environ | more, **options)

    def __enter__(self):
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
                return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        self.__exit__()
        pytest.fail(f"vLLM did not start\n{self.log.read_text()[-6000:]}", pytrace=False)

    def __exit__(self, *_):
        try:
            os.killpg(self.process.pid, signal.SIGINT)
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        except ProcessLookupError:
            pass

    def complete(self, prompt):
        """Log-probability of every token of the prompt after the first, and the greedy answer with its own."""
        body = {"model": "it", "prompt": prompt, "max_tokens": 6, "temperature": 0, "logprobs": 1, "echo": True}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/v1/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            choice = json.load(answer)["choices"][0]
        assert choice["text"].startswith(prompt)
        return choice["logprobs"]


def pytest_configure(config):
    config.addinivalue_line("markers", "loads: see tests/python/support_table.py")


@pytest.fixture(scope="session")
def answers(tmp_path_factory):
    """What vLLM answers from a checkpoint (`None`) or one of its bundles, each asked once."""
    root, known = tmp_path_factory.mktemp("vllm"), {}

    def answer(family, bundle, prompt):
        source = root / family
        if not source.is_dir():
            write_checkpoint(family, source)
        folder = source if bundle is None else root / f"{family}-{bundle}"
        if not folder.is_dir():
            line = [BINARY, "convert", source, *BUNDLES[bundle], "-o", folder, "--progress", "none"]
            subprocess.run(line, check=True, capture_output=True)
        if (family, bundle) not in known:
            with Server(folder, root / "server.log") as server:
                known[family, bundle] = server.complete(prompt)
        return known[family, bundle]

    return answer
