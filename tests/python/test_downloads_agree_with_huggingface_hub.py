"""`mgpack pull` against a server that speaks the hub's API, and huggingface_hub on the same server and cache."""

import hashlib
import json
import random
import signal as signals
import subprocess
import sys
import time

import conftest
import pytest
from hub_server import COMMIT, Hub
from pulling import BIG, BLOBS, REPO, SNAPSHOT, check, environment, model_hub, pull, python, run

OTHER = "d" * 40


@pytest.fixture
def hub():
    hub = model_hub()
    yield hub
    hub.server.shutdown()


FAULTS = ["cut", "stall", "wrong", "no range", (429, {"Retry-After": "1"}), (500, {}), (503, {}), (416, {})]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_overcome(hub, tmp_path, fault):
    hub.faults[BIG] = ["cut", fault]
    done = pull(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    check(hub, tmp_path)
    assert hub.faults[BIG] == []


@pytest.mark.parametrize("fault", ["no range", (416, {})], ids=str)
def test_a_server_that_refuses_to_go_on_sends_the_file_from_its_first_byte(hub, tmp_path, fault):
    hub.faults[BIG] = ["cut", fault]
    assert pull(hub, tmp_path).returncode == 0
    size = len(hub.files[BIG])
    assert [entry[1:3] for entry in hub.log if entry[0] == BIG] == [(0, size // 2), (0, size)]
    check(hub, tmp_path)


@pytest.mark.parametrize("status, headers, words", [
    (401, {}, "HF_TOKEN"), (403, {"X-Error-Code": "GatedRepo"}, "accept the terms on the page of org/model"),
    (403, {}, "denies access"), (404, {}, "check the name"),
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
    assert not (tmp_path / BLOBS / hub.digest(BIG)).exists()


def test_the_token_stays_with_the_endpoint(hub, tmp_path):
    assert pull(hub, tmp_path, HF_TOKEN="hf_secret").returncode == 0
    sent = {name: token for name, _, _, token in hub.log}
    assert sent["config.json"] == "Bearer hf_secret" and sent[BIG] is None


def test_ten_kills_lose_nothing_and_no_finished_file_comes_twice(hub, tmp_path):
    hub.rate, chance = 2 << 20, random.Random(11)
    blobs = tmp_path / BLOBS
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


WHOLE = "print(h.snapshot_download('org/model', local_files_only={}))"


def test_huggingface_hub_sees_what_was_pulled(hub, tmp_path):
    assert pull(hub, tmp_path).returncode == 0
    assert python(hub, tmp_path, WHOLE.format(True)).endswith(COMMIT)
    seen = len(hub.log)
    python(hub, tmp_path, WHOLE.format(False))  # fetches pytorch_model.bin, which pull leaves
    assert {entry[0] for entry in hub.log[seen:]} == {"pytorch_model.bin"}


def test_what_huggingface_hub_fetched_is_used(hub, tmp_path):
    python(hub, tmp_path, WHOLE.format(False))
    seen = len(hub.log)
    assert pull(hub, tmp_path).returncode == 0 and len(hub.log) == seen
    done = pull(hub, tmp_path, "--offline", "--json", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0 and json.loads(done.stdout)[0]["commit"] == COMMIT
    assert hashlib.sha256(hub.files[BIG]).hexdigest() == hub.digest(BIG)


def tree(folder):
    """Links with where they lead, and the texts of refs/."""
    repo = folder / "hub/models--org--model"
    links = {str(p.relative_to(repo)): str(p.readlink()) for p in repo.glob("snapshots/*/*")}
    return links | {str(p.relative_to(repo)): p.read_text() for p in repo.glob("refs/**/*") if p.is_file()}


@pytest.mark.parametrize("revision", ["v1.0", "feature/x", OTHER])
def test_a_tag_a_branch_or_a_commit_gives_the_cache_that_huggingface_hub_makes(hub, tmp_path, revision):
    hub.commits[OTHER] = hub.files | {"config.json": b'{"other": 1}', BIG: bytes(2000)}
    hub.revisions |= {"v1.0": OTHER, "feature/x": OTHER}
    done = pull(hub, tmp_path / "ours", "--revision", revision)
    assert done.returncode == 0 and done.stdout.strip().endswith(OTHER), done.stderr
    left = "pytorch_model.bin"
    code = f"h.snapshot_download('org/model', revision={revision!r}, ignore_patterns=[{left!r}])"
    python(hub, tmp_path / "theirs", code)
    assert tree(tmp_path / "ours") == tree(tmp_path / "theirs")
    path = tmp_path / "ours/hub/models--org--model/snapshots" / OTHER / "config.json"
    assert path.read_bytes() == b'{"other": 1}'
    found = pull(hub, tmp_path / "theirs", "--revision", revision, "--offline")
    assert found.returncode == 0 and found.stdout.strip().endswith(OTHER), found.stderr


def test_what_the_hub_does_not_have_is_named(hub, tmp_path):
    done = pull(hub, tmp_path, "--revision", "v9")
    assert done.returncode == 2 and "`org/model` has no revision `v9`" in done.stderr and "--revision" in done.stderr
    done = run(["pull", "org/nothing"], hub, tmp_path)
    assert done.returncode == 2 and "the hub does not have `org/nothing`" in done.stderr
    hub.faults[BIG] = [(404, {"X-Error-Code": "EntryNotFound"})]
    done = pull(hub, tmp_path)
    assert done.returncode == 2 and f"the hub lists `{BIG}` in `org/model` and does not have it" in done.stderr
    assert not (tmp_path / SNAPSHOT).exists()


def test_a_file_that_the_terms_guard_names_the_page(hub, tmp_path):
    # The listing of a gated repository is public, its files are not.
    hub.faults[BIG] = [(403, {"X-Error-Code": "GatedRepo"})]
    done = pull(hub, tmp_path, HF_TOKEN="hf_secret")
    assert done.returncode == 2 and "accept the terms on the page of org/model" in done.stderr
    assert "hf_secret" not in done.stderr and not (tmp_path / SNAPSHOT).exists()


@pytest.mark.parametrize("state", ["sending", "silent"])
@pytest.mark.parametrize("signal", ["INT", "TERM"])
def test_a_signal_ends_a_download_at_once_and_keeps_what_came(hub, tmp_path, signal, state):
    if state == "sending":
        hub.rate = 1 << 20
    else:
        hub.faults[BIG], hub.stall = ["stall"], 60
    line = [conftest.BINARY, "pull", REPO, "--progress", "none"]
    env = environment(hub, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="60")
    running = subprocess.Popen(line, env=env, stderr=subprocess.PIPE, text=True)
    part = tmp_path / BLOBS / f"{hub.digest(BIG)}.incomplete"
    until = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size >= 1 << 20) and time.monotonic() < until:
        time.sleep(0.02)
    started = time.monotonic()
    running.send_signal(getattr(signals, f"SIG{signal}"))
    said = running.communicate(timeout=30)[1]
    assert running.returncode == 130 and "interrupted" in said, said
    assert time.monotonic() - started < 5, "it waited for the server"
    kept = part.stat().st_size
    assert 1 << 20 <= kept < len(hub.files[BIG])
    # Nothing that a later run could take for a whole snapshot.
    assert not (tmp_path / SNAPSHOT).exists() and not (tmp_path / "hub/models--org--model/refs/main").exists()
    assert pull(hub, tmp_path, "--offline").returncode == 2
    hub.rate, seen = None, len(hub.log)
    assert pull(hub, tmp_path).returncode == 0
    assert (BIG, kept) in [entry[:2] for entry in hub.log[seen:]]
    check(hub, tmp_path)


def test_a_snapshot_that_lacks_files_is_named_offline_and_completed_online(hub, tmp_path):
    python(hub, tmp_path, "h.snapshot_download('org/model', allow_patterns=['*.json'])")
    assert (tmp_path / "hub/models--org--model/refs/main").read_text() == COMMIT
    for command in (["pull", REPO, "--offline"], ["convert", REPO, "--fp16", "--offline", "-o", tmp_path / "out"]):
        done = run(command, hub, tmp_path)
        assert done.returncode == 2, done.stderr
        assert f"the snapshot in the cache lacks README.md, {BIG}\n" in done.stderr
        assert "`mgpack pull org/model`" in done.stderr
    seen = len(hub.log)
    assert pull(hub, tmp_path).returncode == 0
    assert {entry[0] for entry in hub.log[seen:]} == {"README.md", BIG}
    check(hub, tmp_path)
    assert pull(hub, tmp_path, "--offline").returncode == 0


def test_without_a_listing_the_index_tells_which_shards_are_missing(hub, tmp_path):
    shards = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    index = {"weight_map": {f"tensor{n}": shard for n, shard in enumerate(shards)}}
    del hub.files[BIG]
    hub.files |= dict.fromkeys(shards, bytes(2000)) | {"model.safetensors.index.json": json.dumps(index).encode()}
    for names in (["config.json", "model.safetensors.index.json", shards[1]], ["config.json", shards[1]]):
        folder = tmp_path / str(len(names))
        python(hub, folder, f"for name in {names}: h.hf_hub_download('org/model', name)")
        done = pull(hub, folder, "--offline")
        assert done.returncode == 2, done.stderr
        for name in ("model.safetensors.index.json", *shards):
            assert (name in done.stderr) == (name not in names), done.stderr
        assert pull(hub, folder).returncode == 0 and pull(hub, folder, "--offline").returncode == 0


def test_convert_fetches_what_the_cache_lacks_of_a_model(made, tmp_path):
    source = made.checkpoint("llama")
    hub = model_hub()
    hub.files.clear()
    hub.files.update({path.name: path.read_bytes() for path in source.iterdir() if path.is_file()})
    # As `AutoModel.from_pretrained` leaves it: no tokenizer, and no listing that tells of one.
    weights = [name for name in hub.files if name.endswith(".safetensors") or "index" in name]
    hub.files.setdefault("tokenizer.json", b"{}")
    python(hub, tmp_path, f"for name in {['config.json', *weights]}: h.hf_hub_download('org/model', name)")
    seen = len(hub.log)
    done = run(["convert", REPO, "--fp16", "-o", tmp_path / "out"], hub, tmp_path)
    assert done.returncode == 0, done.stderr
    fetched = {entry[0] for entry in hub.log[seen:]}
    assert "tokenizer.json" in fetched and not fetched & {"config.json", *weights}
    assert (tmp_path / "out/tokenizer.json").read_bytes() == hub.files["tokenizer.json"]
    # All of it from nothing, and then without the hub.
    done = run(["convert", REPO, "--fp16", "-o", tmp_path / "two/out"], hub, tmp_path / "empty")
    assert done.returncode == 0, done.stderr
    hub.server.shutdown()
    hub.server.server_close()
    done = run(["convert", REPO, "--fp16", "-o", tmp_path / "three/out"], hub, tmp_path / "empty")
    assert done.returncode == 0, done.stderr
    digests = [(tmp_path / name / "SHA256SUMS").read_bytes() for name in ("out", "two/out", "three/out")]  # the card names the folder
    assert digests[0] == digests[1] == digests[2]


def test_a_tower_is_pulled_as_far_as_mgm_opens_it(tmp_path):
    repo = "openai/clip-vit-large-patch14-336"
    wanted = {"config.json": b"{}", "preprocessor_config.json": b"{}", "pytorch_model.bin": bytes(2000), "README.md": b"x"}
    hub = Hub(repo, wanted | {"tf_model.h5": bytes(2000), "tokenizer.json": b"{}", "vocab.json": b"{}"})
    python(hub, tmp_path, f"h.hf_hub_download({repo!r}, 'config.json')")
    done = run(["pull", repo, "--offline"], hub, tmp_path)
    assert done.returncode == 2 and "lacks preprocessor_config.json, model.safetensors\n" in done.stderr, done.stderr
    done = run(["pull", repo], hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "hub").glob("models--*/snapshots/*/*")} == set(wanted)
    assert run(["pull", repo, "--offline"], hub, tmp_path).returncode == 0


def test_the_partial_file_of_a_huggingface_hub_that_was_killed_is_left_alone(hub, tmp_path):
    hub.rate = 1 << 20
    code = "from huggingface_hub import constants as c, snapshot_download; c.DOWNLOAD_CHUNK_SIZE = 1 << 16"
    line = [sys.executable, "-c", f"{code}; snapshot_download('org/model', ignore_patterns=['*.bin'])"]
    running = subprocess.Popen(line, env=environment(hub, tmp_path), stderr=subprocess.DEVNULL)

    def begun():
        return [p for p in (tmp_path / BLOBS).glob(f"{hub.digest(BIG)}.*.incomplete") if p.stat().st_size]

    while not begun() and running.poll() is None:
        time.sleep(0.02)
    running.kill()
    running.wait()
    (orphan,) = begun()
    before = orphan.read_bytes()
    hub.rate = None
    assert pull(hub, tmp_path).returncode == 0
    assert orphan.read_bytes() == before and len(before) > 0
    for path in orphan.parent.glob("*.*.incomplete"):  # of the other files too, where the kill met them
        path.unlink()
    check(hub, tmp_path)


def test_huggingface_hub_completes_what_mgpack_began_and_the_other_way_round(hub, tmp_path):
    blob = tmp_path / BLOBS / hub.digest(BIG)
    part = blob.with_name(f"{blob.name}.incomplete")
    hub.faults[BIG] = ["cut", (404, {})]
    assert pull(hub, tmp_path).returncode == 2
    assert part.read_bytes() == hub.files[BIG][: part.stat().st_size] and part.stat().st_size > 0
    python(hub, tmp_path, "h.snapshot_download('org/model', ignore_patterns=['*.bin'])")
    assert blob.read_bytes() == hub.files[BIG]
    seen = len(hub.log)
    assert pull(hub, tmp_path).returncode == 0 and len(hub.log) == seen
    check(hub, tmp_path)  # and the partial file is gone
    # huggingface_hub 0.20 writes under the name that mgpack uses, and goes on with what it finds there.
    blob.unlink()
    part.write_bytes(hub.files[BIG][:1_000_000])
    assert pull(hub, tmp_path).returncode == 0
    assert hub.log[-1][:2] == (BIG, 1_000_000)
    check(hub, tmp_path)
