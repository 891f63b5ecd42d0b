"""Bundles check out with coreutils and with `mgpack verify`, which finds damage; `mgpack plan` is JSON."""

import json
import shutil
import subprocess

import oracles
import pytest

OPTIONS = [
    ("--int8", "--format", "bnb"),
    ("--int8", "--format", "compressed-tensors", "--scheme", "W8A8"),
    ("--int8", "--format", "compressed-tensors", "--scheme", "W8A16"),
    ("--fp16",),
    ("--bf16",),
]


@pytest.fixture(params=OPTIONS, ids=" ".join)
def bundle(made, request):
    return made.bundle("llama", *request.param)


def test_sha256sum_accepts_the_list_of_checksums(bundle):
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=bundle, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    checked = {line.removesuffix(": OK") for line in done.stdout.splitlines()}
    assert {path.name for path in bundle.glob("*.safetensors")} | {"config.json"} <= checked


def test_verify_accepts_a_whole_bundle(mgpack, bundle):
    done = mgpack("verify", bundle)
    assert done.returncode == 0, done.stdout + done.stderr


def test_verify_finds_a_flipped_bit_in_any_shard(mgpack, bundle, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle, damaged)
    shards = sorted(damaged.glob("*.safetensors"))
    assert shards
    for shard in shards:
        whole = shard.read_bytes()
        shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        done = mgpack("verify", damaged)
        assert done.returncode == 1, f"{shard.name}: {done.stdout}{done.stderr}"
        assert shard.name in done.stdout + done.stderr
        shard.write_bytes(whole)
    assert mgpack("verify", damaged).returncode == 0


def test_converting_twice_gives_the_same_bytes(mgpack, made, bundle, request, tmp_path):
    options = request.node.callspec.params["bundle"]
    again = tmp_path / bundle.name
    mgpack("convert", made.checkpoint("llama"), *options, "-o", again, "--progress", "none", check=True)
    first, second = (
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()} for folder in (bundle, again)
    )
    assert first == second and first


def test_a_plan_is_json_and_leaves_the_checkpoint_alone(mgpack, made, checkpoint):
    source = made.checkpoint(checkpoint)
    before = {path.name: path.stat().st_mtime_ns for path in source.iterdir()}
    done = mgpack("plan", source, "--int8", "--json", check=True)
    text = json.dumps(json.loads(done.stdout))
    assert all(name in text for name in oracles.read_checkpoint(source))
    assert {path.name: path.stat().st_mtime_ns for path in source.iterdir()} == before
