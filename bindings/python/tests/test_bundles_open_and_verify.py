"""`mgpack.open` and `mgpack.verify`, compared with safetensors and hashlib."""

import hashlib
import json
import os

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


def test_a_closed_bundle_gives_no_tensor_and_what_it_gave_stays(made):
    with mgpack.open(made.generic("--fp16", "--max-shard-size=200KiB")) as bundle:
        name = "model.layers.0.mlp.up_proj.weight"
        kept = bundle.tensors[name]
        bundle.tensors["model.norm.weight"]
        want = kept.copy()
        mapped = [line for line in open("/proc/self/maps") if str(bundle.path) in line]
        assert len(mapped) >= 2
    with pytest.raises(ValueError, match="bundle llama-fp16 is closed: open it again with mgpack.open"):
        bundle.tensors[name]
    # A mapping that an array lies over ends with it; the others ended with the block.
    still = {line.split()[-1] for line in open("/proc/self/maps") if str(bundle.path) in line}
    assert still == {str(bundle.path / bundle.tensors.record(name)["shard"])}
    assert numpy.array_equal(kept, want)
    del kept
    assert not [line for line in open("/proc/self/maps") if str(bundle.path) in line]
    assert len(bundle.tensors) > 10 and bundle.verify(full=False) and bundle.manifest
    bundle.close()


def test_a_bundle_is_a_path_and_says_what_it_is(made):
    folder = made.generic("--int8")
    bundle = mgpack.open(folder)
    assert os.fspath(bundle) == str(bundle) == str(folder)
    assert os.path.samefile(bundle, folder) and mgpack.open(bundle).id == bundle.id
    manifest = bundle.manifest
    for part in ["llama-int8", manifest["scheme"]["name"], f"{manifest['totals']['tensors']} tensors", bundle.id[:19]]:
        assert part in repr(bundle)
    assert bundle.tensors is bundle.tensors
    shards = {tensor["shard"] for tensor in manifest["tensors"]}
    assert len(shards) == 1
    assert repr(bundle.tensors) == f"<mgpack.Tensors of llama-int8: {len(bundle.tensors)} in 1 shard>"


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
    assert report.raise_for_findings() is None
    assert str(report) == f"llama-int8: {report.files} files, {report.bytes / 1024:.2f} KiB checked, all as sealed"
    assert report and report.ok and report.findings == ()
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


def test_a_quick_check_is_of_small_files_and_of_the_headers_of_large_ones(made, copy, monkeypatch):
    folder = copy(made.generic("--int8"))
    whole = mgpack.verify(folder, full=False)
    assert whole and whole.bytes == 0
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("generation_config.json")
    assert [finding.path for finding in mgpack.verify(folder, full=False).findings] == ["config.json"]


def test_the_report_of_a_bundle_that_is_not_whole_is_false_and_raises(made, copy):
    # Once, `assert mgpack.verify(…)` passed for every bundle: a report was always true.
    folder = copy(made.generic("--int8"))
    (folder / "config.json").write_text("{}")
    (folder / "generation_config.json").unlink()
    for report in (mgpack.verify(folder), mgpack.verify(folder, full=False), mgpack.open(folder).verify()):
        assert not report and not report.ok
        paths = [finding.path for finding in report.findings]
        assert set(paths) == {"config.json", "generation_config.json"}
        with pytest.raises(mgpack.BundleError, match="config.json differs, and ") as raised:
            report.raise_for_findings()
        assert raised.value.findings == report.findings and raised.value.path == str(folder / paths[0])
        assert f"mgpack.verify({str(folder)!r})" in raised.value.help
        assert str(report).splitlines()[1:] == [f"  {finding}" for finding in report.findings]


def test_a_tar_is_checked_too(made, copy, command, tmp_path):
    assert command("release", made.generic("--int8"), "-o", tmp_path / "release").returncode == 0
    (tar,) = (tmp_path / "release").glob("*.tar")
    assert mgpack.verify(tar) and mgpack.verify(str(tar).encode())
    damaged = bytearray(tar.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    tar.write_bytes(damaged)
    with pytest.raises(mgpack.BundleError) as raised:
        mgpack.verify(tar).raise_for_findings()
    assert raised.value.path == str(tar)


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
