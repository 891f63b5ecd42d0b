"""`mgpack pull` against a server that speaks the hub's API, and huggingface_hub on the same server and cache."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time

import conftest
import pytest
from hub_server import COMMIT, Hub

REPO = "org/model"
BIG = "model.safetensors"


@pytest.fixture
def hub():
    data = random.Random(5)
    hub = Hub(REPO, {
        "config.json": b'{"model_type": "llama"}', "tokenizer.json": data.randbytes(5000), BIG: data.randbytes(3 << 20),
        "pytorch_model.bin": data.randbytes(2000), "README.md": b"text",
    })  # fmt: skip
    yield hub
    hub.server.shutdown()


def environment(hub, folder, **more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    cache = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder), "HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_DISABLE_XET": "1"}
    return kept | cache | more


def pull(hub, folder, *options, **more):
    command = [conftest.BINARY, "pull", REPO, "--progress", "none", *options]
    return subprocess.run(command, env=environment(hub, folder, **more), capture_output=True, text=True, timeout=100)


def check(hub, folder):
    snapshot = folder / "hub/models--org--model/snapshots" / COMMIT
    for name in ("config.json", "tokenizer.json", BIG, "README.md"):
        assert (snapshot / name).read_bytes() == hub.files[name], name
    assert not (snapshot / "pytorch_model.bin").exists()
    assert not list(folder.rglob("*.incomplete"))


FAULTS = ["cut", "stall", "wrong", "no range", (429, {"Retry-After": "1"}), (500, {}), (503, {}), (416, {})]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_overcome(hub, tmp_path, fault):
    hub.faults[BIG] = ["cut", fault]
    done = pull(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    check(hub, tmp_path)
    assert hub.faults[BIG] == []


@pytest.mark.parametrize("status, headers, words", [
    (401, {}, "HF_TOKEN"), (403, {"X-Error-Code": "GatedRepo"}, "accept the terms"), (403, {}, "denies access"),
    (404, {}, "check the name"),
])  # fmt: skip
def test_what_cannot_be_overcome_says_what_to_do(hub, tmp_path, status, headers, words):
    hub.faults["listing"] = [(status, headers)]
    done = pull(hub, tmp_path)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert hub.log == []


def test_bytes_that_stay_wrong_never_get_a_name(hub, tmp_path):
    hub.faults[BIG] = ["wrong"] * 9
    done = pull(hub, tmp_path)
    assert done.returncode == 2 and "not the file that the hub lists" in done.stderr
    assert not (tmp_path / "hub/models--org--model/blobs" / hub.digest(BIG)).exists()


def test_the_token_stays_with_the_endpoint(hub, tmp_path):
    assert pull(hub, tmp_path, HF_TOKEN="hf_secret").returncode == 0
    sent = {name: token for name, _, _, token in hub.log}
    assert sent["config.json"] == "Bearer hf_secret" and sent[BIG] is None


def test_ten_kills_lose_nothing_and_no_finished_file_comes_twice(hub, tmp_path):
    hub.rate, chance = 2 << 20, random.Random(11)
    blobs = tmp_path / "hub/models--org--model/blobs"
    finished, torn = set(), 0
    for _ in range(10):
        seen = len(hub.log)
        command = [conftest.BINARY, "pull", REPO, "--progress", "none"]
        running = subprocess.Popen(command, env=environment(hub, tmp_path), stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.02, 0.25))
        running.kill()
        running.wait()
        time.sleep(0.1)
        assert not [entry for entry in hub.log[seen:] if entry[0] in finished]
        finished = {name for name in hub.files if (blobs / hub.digest(name)).exists()}
        torn += any(blobs.glob("*.incomplete"))
    assert torn >= 3, "the kills came between files"
    hub.rate = None
    time.sleep(0.3)
    seen = len(hub.log)
    assert pull(hub, tmp_path).returncode == 0
    assert not [entry for entry in hub.log[seen:] if entry[0] in finished]
    check(hub, tmp_path)
    asked = len(hub.log)
    assert pull(hub, tmp_path).returncode == 0 and len(hub.log) == asked, "a whole snapshot asks for no file"


PYTHON = "import sys, huggingface_hub as h; print(h.snapshot_download('org/model', local_files_only=sys.argv[1] == '1'))"


def python(hub, folder, local):
    done = subprocess.run(
        [sys.executable, "-c", PYTHON, local], env=environment(hub, folder), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_huggingface_hub_sees_what_was_pulled(hub, tmp_path):
    assert pull(hub, tmp_path).returncode == 0
    snapshot = python(hub, tmp_path, "1")
    assert snapshot.endswith(COMMIT)
    seen = len(hub.log)
    python(hub, tmp_path, "0")  # fetches pytorch_model.bin, which pull leaves
    assert {entry[0] for entry in hub.log[seen:]} == {"pytorch_model.bin"}


def test_what_huggingface_hub_fetched_is_used(hub, tmp_path):
    python(hub, tmp_path, "0")
    seen = len(hub.log)
    assert pull(hub, tmp_path).returncode == 0 and len(hub.log) == seen
    done = pull(hub, tmp_path, "--offline", "--json", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0 and json.loads(done.stdout)[0]["commit"] == COMMIT
    assert hashlib.sha256(hub.files[BIG]).hexdigest() == hub.digest(BIG)
