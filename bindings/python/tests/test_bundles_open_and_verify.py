"""`mgpack.open` and `mgpack.verify`, compared with safetensors and hashlib."""

import hashlib
import json

import mgpack
import numpy
import pytest
import torch
from safetensors import safe_open


def test_a_bundle_tells_its_manifest_and_its_id(made):
    folder = made.generic("--int8")
    bundle = mgpack.open(folder)
    text = (folder / "mgpack.json").read_bytes()
    assert bundle.manifest == json.loads(text)
    assert bundle.id == "sha256:" + hashlib.sha256(text).hexdigest()
    assert bundle.name == "llama-int8"
    assert bundle.device_map == json.loads((folder / "device_map.json").read_text())


@pytest.mark.parametrize("options", [["--int8"], ["--int8", "--format", "bnb"], ["--bf16"], ["--fp16"]])
def test_tensors_are_those_that_safetensors_reads(made, options):
    folder = made.generic(*options)
    tensors = mgpack.open(folder).tensors
    seen = set()
    for shard in folder.glob("*.safetensors"):
        with safe_open(shard, framework="pt") as opened:
            for name in opened.keys():
                want, got = opened.get_tensor(name), tensors[name]
                assert got.shape == tuple(want.shape)
                assert got.tobytes() == want.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                if want.dtype != torch.bfloat16:
                    assert got.dtype == want.numpy().dtype
                seen.add(name)
    assert seen == set(tensors) and len(seen) == len(tensors) > 10


def test_tensors_are_views_of_the_mapped_file_and_read_only(made):
    tensors = mgpack.open(made.generic("--fp16")).tensors
    array = tensors["model.layers.0.mlp.up_proj.weight"]
    assert not array.flags.owndata and not array.flags.writeable
    whole = numpy.frombuffer(array.base, numpy.uint8)
    assert numpy.shares_memory(array, whole)
    assert whole.nbytes > array.nbytes


def test_a_shard_that_was_cut_short_is_not_mapped(made, copy):
    folder = copy(made.generic("--fp16"))
    bundle = mgpack.open(folder)
    name = next(iter(bundle.tensors))
    shard = folder / bundle.tensors.record(name)["shard"]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(mgpack.BundleError, match=shard.name) as raised:
        bundle.tensors[name]
    assert raised.value.path == str(shard)


def test_a_whole_bundle_verifies_and_progress_ends_at_its_length(made):
    folder = made.generic("--int8")
    told = []
    report = mgpack.verify(folder, progress=lambda *state: told.append(state))
    assert report.ok and report.findings == ()
    assert report.id == mgpack.open(folder).id
    length = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert report.bytes == length - (folder / "mgpack.json").stat().st_size
    assert told[-1] == ("verify", report.bytes, report.bytes)


@pytest.mark.parametrize("full", [True, False])
def test_every_file_that_is_flipped_is_found(made, copy, full):
    folder = copy(made.mgm("--int8"))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) > 10
    for path in files:
        good = path.read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1
        path.write_bytes(bad)
        name = str(path.relative_to(folder))
        # A file above the limit of a quick check: its content is for the full one.
        if full or len(good) <= 16 << 20:
            try:
                found = {finding.path for finding in mgpack.verify(folder, full=full).findings}
            except mgpack.BundleError as error:
                found = {"mgpack.json"} if "mgpack.json" in str(error) else set()
            assert name in found
        path.write_bytes(good)
    assert mgpack.verify(folder).ok


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(mgpack.BundleError, match=r"not a bundle\nwhere: .*\n  why: mgpack.json: No such file") as raised:
        mgpack.open(tmp_path)
    assert raised.value.path == str(tmp_path) and raised.value.help


def test_what_progress_raises_stops_the_check(made):
    class Enough(Exception):
        pass

    def progress(*state):
        raise Enough

    with pytest.raises(Enough):
        mgpack.verify(made.generic("--int8"), progress=progress)
