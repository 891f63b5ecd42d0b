"""`mgpack.convert` and the package's script write and print what the command line does."""

import os
import subprocess
from pathlib import Path

import mgpack
import pytest

BINARY = Path(os.environ.get("MGPACK") or Path(__file__).resolve().parents[3] / "target/release/mgpack")


@pytest.mark.parametrize("scheme", ["int8", "fp16", "bf16", "W8A8", "W8A16"])
def test_a_bundle_made_from_python_has_the_id_of_the_commands(made, tmp_path, scheme):
    option = [f"--{scheme}"] if scheme.islower() else ["--int8", "--scheme", scheme]
    by_command = mgpack.open(made.generic(*option))
    told = []
    bundle = mgpack.convert(
        made.checkpoint(), tmp_path / "out", scheme=scheme, progress=lambda *state: told.append(state)
    )
    assert bundle.id == by_command.id and bundle.path == tmp_path / "out"
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
        ignore=["re:.*down_proj"],
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


def test_what_progress_raises_stops_the_conversion_and_leaves_nothing(made, tmp_path):
    class Enough(Exception):
        pass

    def progress(stage, done, total):
        raise Enough(stage)

    with pytest.raises(Enough):
        mgpack.convert(made.checkpoint(), tmp_path / "out", progress=progress)
    assert list(tmp_path.iterdir()) == []


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
    with pytest.raises(ValueError, match="is no size"):
        mgpack.convert(made.checkpoint(), tmp_path / "out", max_memory="much")


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
