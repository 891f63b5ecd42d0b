"""What the tests of downloads share: a repository on a hub on localhost, and both programs on one cache."""

import os
import random
import subprocess
import sys

import conftest
from hub_server import COMMIT, Hub

REPO = "org/model"
BIG = "model.safetensors"
SNAPSHOT = f"hub/models--org--model/snapshots/{COMMIT}"
BLOBS = "hub/models--org--model/blobs"


def model():
    data = random.Random(5)
    return {
        "config.json": b'{"model_type": "llama"}', "tokenizer.json": data.randbytes(5000), BIG: data.randbytes(3 << 20),
        "pytorch_model.bin": data.randbytes(2000), "README.md": b"text",
    }  # fmt: skip


def model_hub(tls=None):
    return Hub(REPO, model(), tls)


def environment(hub, folder, **more):
    """Without what the machine has of tokens, proxies and caches."""
    own = ("HF_", "HUGGING", "TRANSFORMERS_", "XDG_CACHE", "SSL_CERT", "REQUESTS_CA")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(own) and "proxy" not in k.lower()}
    cache = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder), "HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_DISABLE_XET": "1"}
    return {key: value for key, value in (kept | cache | more).items() if value is not None}


def run(command, hub, folder, **more):
    line = [conftest.BINARY, *command, "--progress", "none"]
    return subprocess.run(line, env=environment(hub, folder, **more), capture_output=True, text=True, timeout=100)


def pull(hub, folder, *options, **more):
    return run(["pull", REPO, *options], hub, folder, **more)


def check(hub, folder):
    for name in ("config.json", "tokenizer.json", BIG, "README.md"):
        assert (folder / SNAPSHOT / name).read_bytes() == hub.files[name], name
    assert not (folder / SNAPSHOT / "pytorch_model.bin").exists()
    assert not list(folder.rglob("*.incomplete"))


def python(hub, folder, code, check=True, **more):
    """Runs `code` in a fresh Python that has huggingface_hub as `h`."""
    line = [sys.executable, "-c", f"import huggingface_hub as h\n{code}"]
    done = subprocess.run(line, env=environment(hub, folder, **more), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout.strip()
