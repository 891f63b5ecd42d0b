"""Caches that huggingface_hub made in other ways: a shared store, moved contents, no links; and caches that refuse."""

import os
import shutil
import subprocess

import conftest
import pytest
from hub_server import COMMIT, Hub
from pulling import BIG, BLOBS, REPO, SNAPSHOT, check, environment, model_hub, pull, python, run


@pytest.fixture
def hub():
    hub = model_hub()
    yield hub
    hub.server.shutdown()


@pytest.fixture
def checkpoint_hub(made):
    """A hub with a checkpoint that can be converted."""
    source = made.checkpoint("llama")
    hub = Hub(REPO, {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()})
    yield hub
    hub.server.shutdown()


def state(folder):
    """All that a write or a removal would change of a folder and what is below it."""
    paths = [folder, *sorted(folder.rglob("*"))] if folder.exists() else []
    stats = [(path, path.lstat()) for path in paths]
    return {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats}


DOWNLOAD = "h.snapshot_download('org/model')"
SHARE = """
import hashlib, pathlib
from huggingface_hub.utils import _shared_blobs as shared
from huggingface_hub.constants import HF_HUB_CACHE as cache
h.snapshot_download('org/model')
for blob in pathlib.Path(cache).glob('models--*/blobs/*'):
    xet = hashlib.blake2s(blob.read_bytes()).hexdigest()
    assert shared.publish_blob_to_shared_store(blob_path=str(blob), xet_hash=xet, cache_dir=cache, expected_size=blob.stat().st_size)
    assert blob.is_symlink()
"""


def in_a_shared_store(hub, folder):
    python(hub, folder, SHARE)


def moved(hub, folder):
    python(hub, folder, DOWNLOAD)
    blobs = folder / BLOBS
    shutil.move(blobs, folder.parent / "other disk")
    blobs.symlink_to(folder.parent / "other disk")


def without_links(hub, folder):
    python(hub, folder, DOWNLOAD, HF_HUB_DISABLE_SYMLINKS="1")
    assert not (folder / SNAPSHOT / "config.json").is_symlink()


@pytest.mark.parametrize("make", [in_a_shared_store, moved, without_links])
def test_every_command_reads_what_huggingface_hub_made_and_changes_nothing_of_it(checkpoint_hub, tmp_path, make):
    hub, cache = checkpoint_hub, tmp_path / "cache"
    make(hub, cache)
    before, seen = state(cache), len(hub.log)
    plain = run(["convert", hub_folder(hub, tmp_path), "--fp16", "-o", tmp_path / "0/out"], hub, cache)
    assert plain.returncode == 0, plain.stderr
    commands = [
        ["pull", REPO], ["pull", REPO, "--offline"], ["plan", REPO, "--fp16"],
        ["convert", REPO, "--fp16", "--stream", "--dry-run"],
        ["convert", REPO, "--fp16", "-o", tmp_path / "1/out"], ["convert", REPO, "--fp16", "--offline", "-o", tmp_path / "2/out"],
        ["convert", REPO, "--fp16", "--stream", "-o", tmp_path / "3/out"],
    ]  # fmt: skip
    for command in commands:
        done = run(command, hub, cache) if command[0] != "plan" else bare(command, hub, cache)
        assert done.returncode == 0, (command, done.stderr)
    assert state(cache) == before and len(hub.log) == seen
    weights = [path for path in (tmp_path / "0/out").iterdir() if path.suffix == ".safetensors"]
    assert weights
    for path in weights:
        for number in "123":
            assert (tmp_path / number / "out" / path.name).read_bytes() == path.read_bytes()


def hub_folder(hub, folder):
    """The hub's files in a plain folder."""
    folder = folder / "plain"
    folder.mkdir()
    for name, data in hub.files.items():
        (folder / name).write_bytes(data)
    return folder


def bare(command, hub, folder):
    line = [conftest.BINARY, *command]
    return subprocess.run(line, env=environment(hub, folder), capture_output=True, text=True, timeout=100)


def test_contents_of_a_shared_store_are_held_to_the_names_in_blobs_not_to_those_of_xet(checkpoint_hub, tmp_path):
    in_a_shared_store(checkpoint_hub, tmp_path)
    done = run(["convert", REPO, "--fp16", "--offline", "--hash-source", "-o", tmp_path / "out"], checkpoint_hub, tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out/mgpack.json").read_text()
    for name, data in checkpoint_hub.files.items():
        if name.endswith(".safetensors"):
            assert checkpoint_hub.digest(name) in text, name
    for entry in (tmp_path / BLOBS).iterdir():
        assert entry.resolve().name not in text


def test_a_dry_run_writes_nothing_into_an_empty_a_partial_or_a_linkless_cache(checkpoint_hub, tmp_path):
    hub = checkpoint_hub
    dry = ["convert", REPO, "--fp16", "--stream", "--dry-run"]
    cache = tmp_path / "cache"
    whole = run(dry, hub, cache)
    assert whole.returncode == 0 and not cache.exists(), whole.stderr
    weights = sorted(name for name in hub.files if name.endswith(".safetensors"))
    python(hub, cache, f"h.snapshot_download('org/model', ignore_patterns=[{weights[0]!r}])")
    # As an interrupted --discard-source leaves it: a link to what is no more.
    (cache / BLOBS / hub.digest(weights[1])).unlink()
    without_links(hub, tmp_path / "linkless")
    for folder in (cache, tmp_path / "linkless"):
        before = state(folder)
        for command in (dry, [*dry, "--discard-source"], ["pull", REPO, "--dry-run"]):
            done = run(command, hub, folder)
            assert done.returncode == 0, done.stderr
            assert state(folder) == before, command
            if command == dry:
                assert done.stdout == whole.stdout


@pytest.mark.parametrize("call, fault", [
    ("rename,renameat,renameat2", "signal=KILL"), ("symlink,symlinkat", "signal=KILL"),
    ("fsync,fdatasync", "signal=KILL"),
])  # fmt: skip
def test_what_a_killed_download_leaves_is_in_no_folder_that_a_conversion_reads(hub, tmp_path, call, fault):
    for number in range(1, 8):
        folder = tmp_path / str(number)
        faulty(hub, folder, call, f"{fault}:when={number}")
        repo = folder / "hub/models--org--model"
        names = {str(path.relative_to(repo)) for kind in ("snapshots", "refs") for path in repo.glob(f"{kind}/**/*")}
        good = {"refs/main", f"snapshots/{COMMIT}", *(f"snapshots/{COMMIT}/{name}" for name in hub.files)}
        assert names <= good, names - good
        assert pull(hub, folder).returncode == 0
        check(hub, folder)


def faulty(hub, folder, call, inject, *options):
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{inject}"]
    line = [*strace, conftest.BINARY, "pull", REPO, "--progress", "none", *options]
    return subprocess.run(line, env=environment(hub, folder), capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("call, fault", [
    ("flock", "error=ENOSYS"), ("flock", "error=ENOLCK"), ("symlink,symlinkat", "error=EPERM"), ("fsync,fdatasync", "error=EINVAL"),
])  # fmt: skip
def test_a_file_system_without_locks_links_or_fsync_holds_a_download(hub, tmp_path, call, fault):
    hub.files["copy.json"] = hub.files["tokenizer.json"]
    done = faulty(hub, tmp_path, call, fault)
    assert done.returncode == 0, done.stderr
    check(hub, tmp_path)
    assert (tmp_path / SNAPSHOT / "copy.json").read_bytes() == hub.files["copy.json"]
    before, seen = state(tmp_path), len(hub.log)
    assert pull(hub, tmp_path).returncode == 0 and state(tmp_path) == before and len(hub.log) == seen
    assert pull(hub, tmp_path, "--offline").returncode == 0


def test_a_cache_that_may_not_be_written_serves_what_it_has(checkpoint_hub, tmp_path):
    hub, cache = checkpoint_hub, tmp_path / "cache"
    assert pull(hub, cache).returncode == 0
    if subprocess.run(["mount", "--bind", "-o", "ro", cache, cache], capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        if os.access(cache, os.W_OK):
            subprocess.run(["mount", "-o", "remount,ro,bind", cache], check=True)
        done = pull(hub, cache)
        assert done.returncode == 0, done.stderr
        done = run(["convert", REPO, "--fp16", "--stream", "-o", tmp_path / "out"], hub, cache)
        assert done.returncode == 0, done.stderr
        # Only the ref is another: the bundle is what was asked for.
        hub.revisions["v1"] = COMMIT
        line = ["convert", REPO, "--fp16", "--stream", "--revision", "v1", "-o", tmp_path / "two"]
        done = run(line, hub, cache)
        assert done.returncode == 0 and "note: the cache does not say that `v1` is" in done.stderr, done.stderr
    finally:
        subprocess.run(["umount", cache], check=True)


@pytest.mark.parametrize("place", [f"{BLOBS}/BIG.incomplete", SNAPSHOT, "hub/models--org--model/refs", "hub/.locks/models--org--model"])
def test_a_planted_link_is_never_written_through(hub, tmp_path, place):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(b"precious")
    link = tmp_path / "cache" / place.replace("BIG", hub.digest(BIG))
    link.parent.mkdir(parents=True)
    link.symlink_to(victim / "file" if link.name.endswith(".incomplete") else victim)
    done = pull(hub, tmp_path / "cache")
    assert done.returncode == 2 and "the cache has a link where mgpack would write" in done.stderr, done.stderr
    assert [path.name for path in victim.iterdir()] == ["file"] and (victim / "file").read_bytes() == b"precious"


def test_a_content_of_another_length_is_fetched_again(hub, tmp_path):
    assert pull(hub, tmp_path).returncode == 0
    blob = tmp_path / BLOBS / hub.digest(BIG)
    blob.write_bytes(blob.read_bytes()[:-1])
    assert pull(hub, tmp_path).returncode == 0
    check(hub, tmp_path)


def test_a_file_that_another_program_removes_meanwhile_is_fetched_again(hub, tmp_path):
    # As a conversion with --discard-source does. Once, `pull` ended with 0 over links to nothing.
    assert pull(hub, tmp_path).returncode == 0
    big, other = (tmp_path / BLOBS / hub.digest(name) for name in (BIG, "tokenizer.json"))
    big.unlink()
    hub.rate = 2 << 20
    line = [conftest.BINARY, "pull", REPO, "--progress", "none"]
    pulling = subprocess.Popen(line, env=environment(hub, tmp_path), stderr=subprocess.PIPE, text=True)
    while not big.with_name(f"{big.name}.incomplete").exists() and pulling.poll() is None:
        pass
    other.unlink()
    assert pulling.wait(timeout=100) == 0
    check(hub, tmp_path)


def test_contents_that_another_models_links_lead_to_are_not_discarded(checkpoint_hub, tmp_path):
    hub = checkpoint_hub
    assert pull(hub, tmp_path).returncode == 0
    other = tmp_path / "hub/models--org--other/snapshots" / COMMIT
    other.mkdir(parents=True)
    for name in hub.files:
        (other / name).symlink_to(f"../../../models--org--model/blobs/{hub.digest(name)}")
    done = run(["convert", REPO, "--fp16", "--stream", "--discard-source", "-o", tmp_path / "out"], hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / SNAPSHOT).glob("*.safetensors"))
    for name, data in hub.files.items():
        assert (other / name).read_bytes() == data
    # And that model can be read through its links.
    done = run(["convert", "org/other", "--revision", COMMIT, "--fp16", "--offline", "-o", tmp_path / "two"], hub, tmp_path)
    assert done.returncode == 0, done.stderr
