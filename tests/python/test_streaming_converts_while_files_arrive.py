"""`mgpack convert --stream`: the bundle is that of a whole download, and the sources need not all fit on the disk."""

import hashlib
import filecmp
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import conftest
import pytest
import torch
from hub_server import COMMIT, Hub
from transformers import AutoModelForCausalLM, LlamaConfig

REPO = "org/model"
KIB = 1 << 10
# Heads are asked for by their first 64 KiB: what is longer was a file.
HEAD_LEN = 64 * KIB


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """About 24 MB in shards of at most 2 MB: large beside their heads."""
    folder = tmp_path_factory.mktemp("sharded")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=1024, num_hidden_layers=12, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder, max_shard_size="2MB")
    assert len(list(folder.glob("*.safetensors"))) > 11
    return folder


@pytest.fixture
def hub(checkpoint):
    hub = Hub(REPO, {path.name: path.read_bytes() for path in checkpoint.iterdir()})
    yield hub
    hub.server.shutdown()


def environment(hub, folder):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    return kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder), "HF_HUB_DOWNLOAD_TIMEOUT": "5"}


def command(target, *options):
    words = ["convert", REPO, "--int8", "--max-shard-size", "1MiB", "--progress", "plain", "-o", target, *options]
    return [conftest.BINARY, *words]


def convert(hub, folder, target, *options):
    line = command(target, *options)
    return subprocess.run(line, env=environment(hub, folder), capture_output=True, text=True, timeout=100)


@pytest.fixture
def plain(hub, tmp_path):
    """The bundle of a conversion after a whole download, in a cache of its own."""
    done = convert(hub, tmp_path / "plain-cache", tmp_path / "plain/streamed")  # the card names the folder
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "plain-cache")
    hub.log.clear()
    return tmp_path / "plain/streamed"


def assert_same(bundle, other):
    names = sorted(path.name for path in other.iterdir())
    assert sorted(path.name for path in bundle.iterdir()) == names
    assert filecmp.cmpfiles(bundle, other, names, shallow=False) == (names, [], [])


def blobs(folder):
    return folder / "hub/models--org--model/blobs"


def held(folder):
    """Bytes of weights that the cache holds now."""
    total = 0
    for path in blobs(folder).glob("*"):
        try:
            total += path.stat().st_size if path.stat().st_size > HEAD_LEN else 0
        except FileNotFoundError:
            pass
    return total


def shards(hub):
    return {name: data for name, data in hub.files.items() if name.endswith(".safetensors")}


def test_the_bundle_is_that_of_a_whole_download(hub, plain, tmp_path):
    done = convert(hub, tmp_path / "cache", tmp_path / "streamed", "--stream")
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "streamed", plain)
    # and the cache is as after a download: nothing comes again
    seen = len(hub.log)
    done = convert(hub, tmp_path / "cache", tmp_path / "again", "--offline")
    assert done.returncode == 0 and len(hub.log) == seen, done.stderr


def test_sources_are_removed_and_few_are_there_at_once(hub, plain, tmp_path):
    cache, most, over = tmp_path / "cache", [0], threading.Event()

    def watch():
        while not over.is_set():
            most[0] = max(most[0], held(cache))
            time.sleep(0.002)

    hub.rate = 16 << 20
    watcher = threading.Thread(target=watch)
    watcher.start()
    done = convert(hub, cache, tmp_path / "streamed", "--stream", "--discard-source")
    over.set()
    watcher.join()
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "streamed", plain)
    assert held(cache) == 0
    told, unit = re.search(r"at most ([\d.]+) ([KMG]iB) of it on the disk", done.stderr).groups()
    room = (float(told) + 0.005) * {"KiB": KIB, "MiB": KIB**2, "GiB": KIB**3}[unit]
    whole = sum(map(len, shards(hub).values()))
    assert max(map(len, shards(hub).values())) <= most[0] <= room < whole / 2
    assert not list(tmp_path.glob(".*unfinished"))


def test_a_disk_with_room_for_the_output_and_a_few_shards_suffices(hub, plain, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    whole = sum(map(len, shards(hub).values()))
    output = sum(path.stat().st_size for path in plain.iterdir())
    size = output + 4 * max(map(len, shards(hub).values())) + 512 * KIB
    assert size < whole + output - 2 * KIB**2
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small file system can't be mounted here")
    try:
        refused = convert(hub, disk / "cache", disk / "streamed", "--stream")
        assert refused.returncode == 2 and "not enough free space" in refused.stderr, refused.stderr
        done = convert(hub, disk / "cache", disk / "streamed", "--stream", "--discard-source")
        assert done.returncode == 0, done.stderr
        assert_same(disk / "streamed", plain)
    finally:
        subprocess.run(["umount", disk], check=True)


def begun(hub, folder, target):
    """A streaming conversion of which some sources are gone already."""
    hub.rate = 4 << 20
    line = command(target, "--stream", "--discard-source")
    running = subprocess.Popen(line, env=environment(hub, folder), stderr=subprocess.PIPE, text=True)
    name = hashlib.sha256(target.name.encode()).hexdigest()[:16]
    journal = target.with_name(f".mgpack-unfinished-{name}") / "journal"
    deadline = time.monotonic() + 60
    while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 7):
        assert running.poll() is None and time.monotonic() < deadline, "it was over too early, or stalled"
        time.sleep(0.005)
    return running, journal


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_after_an_interruption_the_same_command_goes_on(hub, plain, tmp_path, how):
    cache, target = tmp_path / "cache", tmp_path / "streamed"
    running, journal = begun(hub, cache, target)
    running.send_signal(how)
    _, talk = running.communicate(timeout=60)
    if how == signal.SIGINT:
        assert running.returncode == 130 and "finished shards are kept" in talk, talk
    assert journal.is_file() and not target.exists()
    hub.rate = None
    time.sleep(0.3)
    seen = len(hub.log)
    there = {path.name.partition(".")[0] for path in blobs(cache).glob("*")}
    gone = [
        name for name in shards(hub)
        if hub.digest(name) not in there and any(entry[0] == name and entry[2] > HEAD_LEN for entry in hub.log)
    ]  # fmt: skip
    done = convert(hub, cache, target, "--stream", "--discard-source")
    assert done.returncode == 0, done.stderr
    assert_same(target, plain)
    assert not journal.parent.exists()
    again = {entry[0] for entry in hub.log[seen:] if entry[2] > HEAD_LEN}
    assert len(gone) >= 2 and not again & set(gone), (gone, again)
    whole = sum(map(len, shards(hub).values()))
    assert sum(entry[2] for entry in hub.log[seen:] if entry[2] > HEAD_LEN) < 0.9 * whole


def test_an_interrupted_conversion_is_not_mixed_with_another(hub, tmp_path):
    cache, target = tmp_path / "cache", tmp_path / "streamed"
    running, journal = begun(hub, cache, target)
    running.kill()
    running.communicate()
    before = journal.read_bytes()
    done = convert(hub, cache, target, "--stream", "--discard-source", "--scheme", "W8A16")
    assert done.returncode == 2 and "was of another checkpoint or with other options" in done.stderr, done.stderr
    assert journal.read_bytes() == before


def test_after_the_branch_moved_the_commit_to_go_on_with_is_named(hub, plain, tmp_path):
    # Once, the help was to repeat the command that had just been refused.
    cache, target = tmp_path / "cache", tmp_path / "streamed"
    running, journal = begun(hub, cache, target)
    running.kill()
    running.communicate()
    moved = "e" * 40
    hub.commits[moved] = {name: data.replace(b'"format":"pt"', b'"format":"tp"') for name, data in hub.files.items()}
    hub.revisions["main"], hub.rate = moved, None
    time.sleep(0.3)
    done = convert(hub, cache, target, "--stream", "--discard-source")
    assert done.returncode == 2 and "its checkpoint was another commit" in done.stderr, done.stderr
    assert "the same command goes on" not in done.stderr
    (revision,) = re.findall(r"--revision ([0-9a-f]{40})", done.stderr)
    assert revision == COMMIT
    done = convert(hub, cache, target, "--stream", "--discard-source", "--revision", revision)
    assert done.returncode == 0, done.stderr
    assert_same(target, plain)


def fetched_weights(hub, seen):
    return {entry[0] for entry in hub.log[seen:] if entry[2] > HEAD_LEN}


def test_a_target_that_appears_meanwhile_costs_nothing_that_was_fetched(hub, plain, tmp_path):
    cache, target = tmp_path / "cache", tmp_path / "streamed"
    running, journal = begun(hub, cache, target)
    target.mkdir()
    (target / "mine").write_text("precious")
    hub.rate = None
    _, talk = running.communicate(timeout=100)
    assert running.returncode == 1 and held(cache) == 0, talk
    assert [path.name for path in target.iterdir()] == ["mine"]
    target.rename(tmp_path / "away")
    seen = len(hub.log)
    done = convert(hub, cache, target, "--stream", "--discard-source")
    assert done.returncode == 0 and not fetched_weights(hub, seen), done.stderr
    assert_same(target, plain)


def test_a_kill_at_the_last_step_costs_nothing_that_was_fetched(hub, plain, tmp_path):
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    cache, target = tmp_path / "cache", tmp_path / "streamed"
    inject = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2", "-e", "inject=renameat2:signal=KILL"]
    line = [*inject, *command(target, "--stream", "--discard-source")]
    killed = subprocess.run(line, env=environment(hub, cache), capture_output=True, text=True, timeout=100)
    assert killed.returncode != 0 and not target.exists() and held(cache) == 0, killed.stderr
    seen = len(hub.log)
    done = convert(hub, cache, target, "--stream", "--discard-source")
    assert done.returncode == 0 and not fetched_weights(hub, seen), done.stderr
    assert_same(target, plain)


def test_content_that_another_revision_has_is_not_removed(hub, tmp_path):
    cache = tmp_path / "cache"
    assert convert(hub, cache, tmp_path / "first").returncode == 0
    snapshots = blobs(cache).parent / "snapshots"
    shutil.copytree(snapshots / COMMIT, snapshots / ("d" * 40), symlinks=True)
    done = convert(hub, cache, tmp_path / "streamed", "--stream", "--discard-source")
    assert done.returncode == 0, done.stderr
    assert not list((snapshots / COMMIT).glob("*.safetensors"))
    for path in (snapshots / ("d" * 40)).iterdir():
        assert path.read_bytes() == hub.files[path.name]


def test_what_cannot_be_streamed_is_refused_before_anything_is_fetched(hub, checkpoint, tmp_path):
    hub.commits[COMMIT] = {"config.json": hub.files["config.json"], "pytorch_model.bin": b"x" * 5000}
    done = convert(hub, tmp_path / "cache", tmp_path / "out", "--stream", "--discard-source")
    assert done.returncode == 2 and "without --stream" in done.stderr, done.stderr
    line = [conftest.BINARY, "convert", checkpoint, "--int8", "--stream", "--discard-source", "-o", tmp_path / "out"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "nothing to stream" in done.stderr, done.stderr
    assert len(list(Path(checkpoint).glob("*.safetensors"))) > 11
    assert not hub.log and not (tmp_path / "out").exists()


def test_a_shard_with_another_header_than_was_announced_is_refused(hub, tmp_path):
    name = sorted(shards(hub))[3]
    good = hub.files[name]
    # The listing and the digest are of the altered file; only the head that is asked for first is the old one.
    hub.heads[name] = good[:HEAD_LEN]
    hub.files[name] = good.replace(b'"format":"pt"', b'"format":"tp"')
    assert hub.files[name] != good
    done = convert(hub, tmp_path / "cache", tmp_path / "out", "--stream", "--discard-source")
    assert done.returncode == 2 and "not the one that was announced" in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()
