"""`mgpack.convert` and the package's script write and print what the command line does."""

import os
import shutil
import signal
import subprocess
import warnings
from pathlib import Path

import mgpack
import pytest
import torch
from mgpack._mgpack import SCHEMES

BINARY = Path(os.environ.get("MGPACK") or Path(__file__).resolve().parents[3] / "target/release/mgpack")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_bundle_made_from_python_has_the_id_of_the_commands(made, tmp_path, scheme):
    option = [f"--{scheme}"] if scheme.islower() else ["--int8", "--scheme", scheme]
    by_command = mgpack.open(made.generic(*option))
    out = tmp_path / by_command.path.name  # the card names the folder
    told = []
    bundle = mgpack.convert(
        made.checkpoint(), out, scheme=scheme, progress=lambda *state: told.append(state)
    )
    assert bundle.id == by_command.id and bundle.path == out
    assert type(bundle) is mgpack.Converted and bundle.bundle is bundle and isinstance(bundle, mgpack.Bundle)
    assert os.fspath(bundle) == str(out) and Path(bundle) == out
    assert bundle.verify() and bundle.name.startswith("llama-")
    assert {stage for stage, _, _ in told} == {"convert", "copy"}
    for stage in ("convert", "copy"):
        done = [done for name, done, _ in told if name == stage]
        assert done == sorted(done)
    ends = {name: (done, total) for name, done, total in told}
    assert ends["convert"][0] == ends["convert"][1] > 0


def test_options_reach_the_conversion(made, tmp_path):
    bundle = mgpack.convert(
        made.checkpoint(),
        tmp_path / "out",
        format="bnb",
        ignore="re:.*down_proj",
        max_shard_size="200KiB",
        stats=False,
        gpus="2x1GiB",
        context=64,
        reserve=1 << 20,
    )
    assert bundle.manifest["scheme"]["name"] == "bnb-int8"
    assert bundle.manifest["scheme"]["ignore"] == ["re:.*down_proj"]
    assert "model.layers.0.mlp.down_proj.SCB" not in bundle.tensors
    assert "model.layers.0.mlp.up_proj.SCB" in bundle.tensors
    assert len({tensor["shard"] for tensor in bundle.manifest["tensors"]}) > 2
    memory = bundle.manifest["device_maps"][0]["memory"]
    assert memory["table"] == {"0": 1 << 30, "1": 1 << 30}
    assert (memory["context"], memory["reserve"]) == (64, 1 << 20)


def with_two_kinds_of_weights(made, tmp_path):
    """A checkpoint about which there is something to say: torch's weights beside the safetensors."""
    folder = tmp_path / "llama"
    shutil.copytree(made.checkpoint(), folder)
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    return folder


def test_notices_are_warnings_and_on_the_result(made, tmp_path, command):
    # Once, what the command says of a conversion was lost.
    folder = with_two_kinds_of_weights(made, tmp_path)
    began = []
    with pytest.warns(mgpack.Notice) as told:
        made_here = mgpack.convert(folder, tmp_path / "out", progress=lambda *state: began.append(len(told)))
    said = command("convert", folder, "--int8", "-o", tmp_path / "by-command").stderr
    notes = [line.removeprefix("note: ") for line in said.splitlines() if line.startswith("note: ")]
    assert len(notes) >= 1 and list(made_here.notices) == notes == [str(one.message) for one in told]
    assert "torch weights" in notes[0]
    # Before the work, and of the line that called.
    assert began[0] == len(notes) and {one.filename for one in told} == {__file__}


def test_a_notice_that_is_an_error_stops_the_conversion_and_leaves_nothing(made, tmp_path):
    folder = with_two_kinds_of_weights(made, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", mgpack.Notice)
        with pytest.raises(mgpack.Notice, match="torch weights"):
            mgpack.convert(folder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [folder]


def test_mgms_folder_of_another_name_is_a_notice(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    by_command = mgpack.open(made.mgm("--int8"))
    # The built-in checkpoint, which Python did not have.
    with pytest.warns(mgpack.Notice, match="`prod` does not name an MGM model"):
        bundle = mgpack.convert("tiny", "prod")
    assert any("`prod`" in notice for notice in bundle.notices) and bundle.name == "MGM-7B-tiny-int8"
    with pytest.warns(mgpack.Notice):
        # The card names the folder.
        assert mgpack.convert("tiny", by_command.path.name).id == by_command.id
    assert any("`prod`" in note for note in bundle.verify().notes) and bundle.verify()
    with warnings.catch_warnings():
        warnings.simplefilter("error", mgpack.Notice)
        bundle = mgpack.convert("tiny")
    assert bundle.path == tmp_path / bundle.name and not bundle.notices


def test_what_progress_raises_stops_the_conversion_and_leaves_nothing(made, tmp_path):
    class Enough(Exception):
        pass

    def progress(stage, done, total):
        raise Enough(stage)

    with pytest.raises(Enough):
        mgpack.convert(made.checkpoint(), tmp_path / "out", progress=progress)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stops_the_conversion_and_leaves_nothing(made, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        mgpack.convert(made.checkpoint(), tmp_path / "out", progress=lambda *_: signal.raise_signal(signal.SIGINT))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"context": 2**63 - 1, "batch": 2**63 - 1, "gpus": "2x24GiB"}, mgpack.DeviceMapError),
        ({"reserve": 2**63 - 1, "gpus": {0: 1}}, mgpack.DeviceMapError),
        ({"allow_cpu": 2**63 - 1, "gpus": {0: 1, "cpu": 2**63 - 1}}, mgpack.DeviceMapError),
        ({"gpus": {number: 2**63 - 1 for number in range(128)}}, None),
        ({"max_shard_size": 1, "max_memory": 2**63 - 1}, None),
        ({"max_memory": 1}, mgpack.ConversionError),
        ({"ignore": "re:(a{1000}){1000}"}, mgpack.ConversionError),
        ({"revision": "x\ny", "model": "org/name"}, mgpack.CheckpointError),
        ({"model": "x" * 5000}, mgpack.CheckpointError),
        ({"model": "../" * 2000}, mgpack.CheckpointError),
        ({"model": "/dev/null"}, mgpack.CheckpointError),
    ],
)
def test_numbers_and_texts_at_the_limits_are_refused_or_work(made, tmp_path, options, error):
    arguments = {"model": made.checkpoint(), "output": tmp_path / "out", **options}
    if error is None:
        assert mgpack.convert(**arguments).verify()
    else:
        with pytest.raises(error):
            mgpack.convert(**arguments)


def test_errors_tell_where_why_and_what_to_do(made, tmp_path):
    with pytest.raises(mgpack.CheckpointError) as raised:
        mgpack.convert(tmp_path / "absent", tmp_path / "out")
    assert raised.value.path == str(tmp_path / "absent")
    (tmp_path / "there").mkdir()
    with pytest.raises(mgpack.ConversionError) as raised:
        mgpack.convert(made.checkpoint(), tmp_path / "there")
    assert raised.value.path == str(tmp_path / "there") and raised.value.help
    with pytest.raises(mgpack.DeviceMapError, match="GiB"):
        mgpack.convert(made.checkpoint(), tmp_path / "out", gpus="1x1MiB")
    with pytest.raises(ValueError, match="'int8', 'fp16'"):
        mgpack.convert(made.checkpoint(), tmp_path / "out", scheme="int7")


def test_the_script_is_the_command(made, copy, command):
    assert BINARY.is_file(), f"no binary at {BINARY}: run `cargo build --release` or set MGPACK"
    whole, broken = made.generic("--int8"), copy(made.generic("--int8"))
    (broken / "config.json").unlink()
    absent = broken / "absent"
    for line, code in [
        (["--version"], 0),
        (["verify", whole], 0),
        (["verify", broken], 1),
        (["verify", absent], 2),
        (["inspect", whole, "--json"], 0),
        (["no-such-command"], 2),
    ]:
        line = [*map(str, line)]
        want = subprocess.run([BINARY, *line], capture_output=True, text=True, timeout=60)
        got = command(*line)
        assert want.returncode == code
        assert (got.returncode, got.stdout) == (want.returncode, want.stdout)
