"""The verbs as functions return what the commands print with `--json`, take the same words, and leave nothing half-made."""

import dataclasses
import importlib.util
import inspect
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import get_args

import mgpack
import pytest
from mgpack import calls

HUB_SERVER = Path(__file__).resolve().parents[3] / "tests/python/hub_server.py"
REPO = "org/model"


def json_of(result):
    """A result as JSON has it: an id without its prefix, tuples as lists."""
    told = json.loads(json.dumps(dataclasses.asdict(result)))
    if "id" in told:
        assert told["id"].startswith("sha256:")
        told["id"] = told["id"].removeprefix("sha256:")
    return told


@pytest.fixture
def printed(command):
    def printed(*arguments, code=0):
        done = command(*arguments, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    return printed


def test_a_plan_is_what_the_command_prints(made, printed):
    plan = mgpack.plan(made.checkpoint(), gpus=["2x1GiB", {0: "1GiB"}], ignore="re:.*down_proj", context=64)
    options = ["--int8", "--gpus", "2x1GiB", "--gpus", "1GiB", "--ignore", "re:.*down_proj", "--context", "64"]
    assert json_of(plan) == printed("plan", made.checkpoint(), *options)
    assert plan.scheme == "W8A8" and len(plan.device_maps) == 2
    assert {tensor.fate for tensor in plan.tensors} == {"quantize", "copy"}
    assert any(tensor.why for tensor in plan.tensors) and isinstance(plan.tensors[0].shape, tuple)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.name = "other"


def test_a_plan_of_mgm_has_its_towers(made, printed, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(made.root / "cache"))
    plan = mgpack.plan("tiny", scheme="fp16", stats=False, keep_towers=True, threads=1, isa="scalar", max_memory="1GiB")
    options = ["--fp16", "--no-stats", "--keep-towers", "-j", "1", "--isa", "scalar", "--max-memory", "1GiB"]
    assert json_of(plan) == printed("plan", "tiny", *options)
    assert {file.tower for file in plan.files} > {None} and plan.resources.instruction_set == "scalar"


def test_maps_are_what_the_command_prints(made, printed, tmp_path):
    own = mgpack.map(made.generic("--fp16", "--gpus=2x600KiB", "--context=16", "--reserve=64KiB"))
    assert own.recorded and own and set(own.device_map.values()) == {0, 1}
    assert json_of(own) == printed("map", made.generic("--fp16", "--gpus=2x600KiB", "--context=16", "--reserve=64KiB"))
    drawing = tmp_path / "bars.svg"
    maps = mgpack.map("34b", scheme="int8", gpus=["2x24GiB", "80GiB"], attention="sdpa", svg=drawing)
    options = ["--int8", "--gpus", "2x24GiB", "--gpus", "80GiB", "--attention", "sdpa"]
    assert json_of(maps) == printed("map", "34b", *options)
    assert maps.ok and not maps.recorded and maps.maps[0].profile.used["1"].weights > 1 << 30
    assert "<svg" in drawing.read_text()
    # A map of accelerate's that breaks rules of MGM: false, and 1 as the exit code.
    broken = mgpack.map("34b", scheme="int8", gpus="2x24GiB", planner="accelerate-0.25-sequential")
    line = ["map", "34b", "--int8", "--gpus", "2x24GiB", "--planner", "accelerate-0.25-sequential"]
    assert json_of(broken) == printed(*line, code=0 if broken else 1)
    with pytest.raises(mgpack.DeviceMapError, match="scheme="):
        mgpack.map("34b")


def test_inspecting_gives_a_bundle_or_the_files_and_tensors(made, printed):
    bundle = mgpack.inspect(made.generic("--int8"))
    assert type(bundle) is mgpack.Bundle and bundle.manifest == printed("inspect", made.generic("--int8"))
    file = next(made.checkpoint().glob("*.safetensors"))
    for path in (made.checkpoint(), file):
        found = mgpack.inspect(path)
        assert type(found) is mgpack.Checkpoint and json_of(found) == printed("inspect", path)
        assert len(found.tensors) > 0


def test_a_diagnosis_is_what_the_command_prints(made, printed):
    bundle = made.generic("--int8")
    for given, options in [({}, []), ({"bundle": bundle, "no_import": True}, [bundle, "--no-import"])]:
        found = json_of(mgpack.doctor(**given))
        # The interpreter that runs this, not the one on the path.
        want = printed("doctor", *options, "--python", sys.executable, code=1 if found["findings"] else 0)
        for told in (found, want):
            # Memory and disks change from one look to the next.
            told["devices"]["host"] = told["disks"] = told["memory"] = None
        assert found == want and found["python"]["version"].startswith("3.")
    good = mgpack.doctor(bundle, no_import=True)
    assert bool(good) == good.ok == (not good.findings)
    assert {package.package for package in good.packages} >= {"python", "transformers"}


def test_imports_are_part_of_a_diagnosis(made):
    found = mgpack.doctor(made.generic("--int8"))
    assert found.imports is not None and "transformers" in found.imports.good


def test_a_report_is_what_the_command_prints(made, printed, tmp_path):
    bundle, checkpoint = made.generic("--int8"), made.checkpoint()
    stages = []
    page, figure = tmp_path / "report.html", tmp_path / "figure.svg"
    told = mgpack.report(bundle, checkpoint, output=page, svg=figure, progress=lambda stage, *_: stages.append(stage))
    assert json_of(told) == printed("report", bundle, "--against", checkpoint)
    assert told.id == mgpack.open(bundle).id and min(one.sqnr_db or 99 for one in told.tensors) > 20
    assert "</html>" in page.read_text() and "<svg" in figure.read_text() and "compare" in stages
    page.write_text("mine")
    with pytest.raises(mgpack.ConversionError, match="report.html"):
        mgpack.report(bundle, checkpoint, output=page)
    assert page.read_text() == "mine"
    assert mgpack.report(bundle, checkpoint, output=page, force=True).bundle in page.read_text()


def test_a_release_is_what_the_command_writes(made, printed, tmp_path):
    released = mgpack.release(made.generic("--int8"), tmp_path / "one")
    assert json_of(released) == printed("release", made.generic("--int8"), "-o", tmp_path / "two")
    assert released.id == mgpack.open(made.generic("--int8")).id
    for file in released.files:
        assert (tmp_path / "one" / file.path).read_bytes() == (tmp_path / "two" / file.path).read_bytes()
    assert mgpack.verify(tmp_path / "one")
    parts = mgpack.release(made.mgm("--int8"), tmp_path / "parts", part_size="1MiB")
    assert len(parts.files) > 5 and mgpack.verify(tmp_path / "parts")


@pytest.mark.parametrize("how", ["raises", "interrupts"])
def test_what_is_stopped_leaves_nothing(made, tmp_path, how):
    class Enough(Exception):
        pass

    def progress(*_):
        if how == "raises":
            raise Enough
        signal.raise_signal(signal.SIGINT)

    expected = Enough if how == "raises" else KeyboardInterrupt
    with pytest.raises(expected):
        mgpack.release(made.generic("--int8"), tmp_path / "out", progress=progress)
    with pytest.raises(expected):
        mgpack.report(made.generic("--int8"), made.checkpoint(), output=tmp_path / "page.html", progress=progress)
    assert list(tmp_path.iterdir()) == []


def test_an_interpreter_that_hangs_ends_with_ctrl_c(made, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    began = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        mgpack.doctor(made.generic("--int8"), python=python)
    assert time.monotonic() - began < 30


def test_a_bundle_of_another_id_is_found(made, printed):
    folder, other = made.generic("--int8"), "sha256:" + "0" * 64
    assert mgpack.verify(folder, id=mgpack.open(folder).id)
    (finding,) = mgpack.verify(folder, id=other).findings
    assert [dataclasses.asdict(finding)] == printed("verify", folder, "--id", other, code=1)["findings"]
    for wrong in ("sha256:0", "0" * 63, "SHA256:" + "0" * 64):
        with pytest.raises(ValueError, match="id is 'sha256:' and 64"):
            mgpack.verify(folder, id=wrong)


@pytest.fixture
def hub(made, monkeypatch, tmp_path):
    """A hub on this machine that has the checkpoint, and an empty cache."""
    spec = importlib.util.spec_from_file_location("hub_server", HUB_SERVER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hub = module.Hub(REPO, {path.name: path.read_bytes() for path in made.checkpoint().iterdir()})
    for name in [name for name in os.environ if name.startswith("HF_") or "proxy" in name.lower()]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    yield hub
    hub.server.shutdown()


def snapshots(tmp_path):
    return list((tmp_path / "hub").rglob("snapshots/*"))


def test_a_model_is_pulled_into_the_cache(made, hub, tmp_path, printed):
    (planned,) = mgpack.pull(REPO, dry_run=True)
    assert [json_of(planned)] == printed("pull", REPO, "--dry-run")
    assert planned.fetch_bytes > 0 and not any(file.cached for file in planned.files) and not snapshots(tmp_path)
    told = []
    (pulled,) = mgpack.pull(REPO, progress=lambda *state: told.append(state))
    assert [json_of(pulled)] == printed("pull", REPO) == printed("pull", REPO, "--offline")
    assert mgpack.pull(REPO, offline=True) == (pulled,)
    weights = {path.name for path in made.checkpoint().glob("*.safetensors")}
    assert weights <= set(os.listdir(pulled)) and told[-1][0] == "download" and told[-1][1] == told[-1][2]
    assert not mgpack.pull(REPO, dry_run=True)[0].fetch_bytes
    with pytest.raises(ValueError, match="offline=True goes without include"):
        mgpack.pull(REPO, offline=True, include="*.json")


def test_convert_downloads_what_is_missing(made, hub, tmp_path):
    with pytest.raises(mgpack.CheckpointError) as raised:
        mgpack.convert(REPO, tmp_path / "bundle", offline=True)
    assert "mgpack.pull" in raised.value.help
    bundle = mgpack.convert(REPO, tmp_path / "bundle")
    assert bundle.verify() and bundle.manifest["source"]["name"] == REPO
    want = mgpack.open(made.generic("--int8"))
    assert bundle.manifest["tensors"] == want.manifest["tensors"] and snapshots(tmp_path)


def test_convert_streams(made, hub, tmp_path):
    bundle = mgpack.convert(REPO, tmp_path / "bundle", stream=True, discard_source=True)
    assert bundle.manifest["tensors"] == mgpack.open(made.generic("--int8")).manifest["tensors"]
    assert not list((tmp_path / "hub").rglob("*.safetensors"))
    for wrong in ({"stream": True, "offline": True}, {"discard_source": True}, {"stream": True, "hash_source": True}):
        with pytest.raises(ValueError, match="goes with"):
            mgpack.convert(REPO, tmp_path / "other", **wrong)


def test_a_download_that_is_stopped_leaves_no_snapshot(hub, tmp_path):
    hub.rate = 1 << 20
    for call in (mgpack.pull, lambda repo, **options: mgpack.convert(repo, tmp_path / "bundle", **options)):
        with pytest.raises(KeyboardInterrupt):
            call(REPO, progress=lambda *_: signal.raise_signal(signal.SIGINT))
    assert not snapshots(tmp_path) and not (tmp_path / "bundle").exists()


def test_what_the_hub_does_not_have_is_an_error_of_its_own(hub, tmp_path):
    with pytest.raises(mgpack.HubError, match="org/other"):
        mgpack.pull("org/other")


#: Options that the functions do not have: what only a terminal has, and what is another argument.
OTHERWISE = {
    "help": "", "version": "", "color": "", "json": "", "progress": "progress", "against": "against",
    "int8": "scheme", "fp16": "scheme", "bf16": "scheme", "no-stats": "stats", "max-memory-map": "gpus",
    "why": "", "quick": "full",
}  # fmt: skip


@pytest.mark.parametrize(
    "verb", ["convert", "plan", "map", "pull", "doctor", "report", "inspect", "release", "verify"]
)
def test_every_option_of_the_command_is_an_argument(command, verb):
    options = re.findall(r"^\s+(?:-\w, )?--([a-z][a-z0-9-]*)", command(verb, "--help").stdout, re.MULTILINE)
    parameters = inspect.signature(getattr(mgpack, verb)).parameters
    assert "json" in options and len(options) > 2
    lacking = set()
    for option in options:
        word = OTHERWISE.get(option, option.replace("-", "_"))
        if word and word not in parameters:
            lacking.add(option)
    # What `plan` is for.
    assert lacking == ({"dry-run"} if verb == "convert" else set())


@pytest.mark.parametrize(
    ("verb", "option", "words"),
    [
        ("convert", "format", get_args(calls.Format)),
        ("convert", "on-overflow", get_args(calls.OnOverflow)),
        ("convert", "scheme", mgpack._mgpack.SCHEMES),
        ("map", "attention", get_args(calls.Attention)),
        ("map", "planner", get_args(calls.Planner)),
    ],
)
def test_an_options_words_are_those_of_the_command(command, verb, option, words):
    text = command(verb, "--help").stdout
    after = text.split(f"      --{option} <", 1)[1]
    listed = re.findall(r"^\s+- ([A-Za-z0-9._-]+):", re.split(r"\n {2,6}-", after)[0], re.MULTILINE)
    want = set(words)
    if option == "scheme":
        # The words that have flags of their own.
        want -= {"int8", "fp16", "bf16"}
    assert set(listed) == want and len(listed) >= 2
