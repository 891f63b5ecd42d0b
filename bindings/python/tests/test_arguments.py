"""Every argument of every function, with what a notebook gives: it works, or the error says what is accepted."""

import inspect
import json
import os
import re
from pathlib import Path, PurePosixPath

import mgpack
import numpy
import pytest
import torch
from mgpack import arguments
from mgpack._mgpack import SCHEMES

GIB = 1 << 30


class Unreadable:
    """An object of no use for anything."""


#: Values of every kind that reaches an argument by mistake, and some by intention.
ODD = [
    None,
    True,
    numpy.True_,
    0,
    1,
    -1,
    -2,
    10**30,
    -(10**30),
    numpy.int64(3),
    numpy.uint8(200),
    1.5,
    float("nan"),
    numpy.float32(2),
    2 + 1j,
    "",
    "7",
    "9" * 5000,
    "auto",
    "cuda:0",
    "cpu",
    "2GiB",
    "-2GiB",
    "2x24GiB",
    "no such word",
    "two\nlines",
    "nul\0inside",
    "\udcff",
    "x" * 5000,
    b"",
    b"bytes",
    bytearray(b"bytes"),
    Path("absent/path"),
    PurePosixPath("absent"),
    [],
    (),
    {},
    set(),
    [1, 2],
    ["a", "b"],
    ["a", None],
    {"a": "b"},
    {0: "24GiB"},
    {0: -1},
    {"cpu": "1GiB"},
    {None: 1},
    {"": "cpu"},
    {"a"},
    range(3),
    numpy.zeros(3),
    numpy.array(4),
    numpy.array(["a", "b"]),
    torch.device("cpu"),
    torch.device("cuda", 1),
    torch.device("meta"),
    torch.float16,
    torch.zeros(2),
    torch.tensor(2),
    re.compile("a"),
    print,
    Unreadable,
    Unreadable(),
    ...,
]


def odd():
    """The values, and things that are used up by one look at them."""
    return [*ODD, (name for name in ["a"]), iter([1]), map(str, [1])]


class Began(BaseException):
    """All arguments were read: the work would begin."""


@pytest.fixture
def began(monkeypatch):
    """Ends every call where the compiled part or a loader would begin its work."""

    def begin(*_, **__):
        raise Began

    monkeypatch.setattr(mgpack._mgpack, "convert_checkpoint", begin)
    monkeypatch.setattr(mgpack._mgpack, "run_verb", begin)
    monkeypatch.setattr(mgpack._mgpack, "verify_bundle", begin)
    monkeypatch.setattr(mgpack.placement, "on_gpus", begin)
    monkeypatch.setattr(mgpack.loading, "_load_generic", begin)
    monkeypatch.setattr(mgpack.placement, "gpu_memory", lambda: {0: GIB, 1: GIB})


def calls(folder):
    """Function, what it needs, and the names of all its arguments."""
    bundle = mgpack.open(folder)
    for function, needed in [
        (mgpack.convert, {"model": "checkpoint", "output": "out"}),
        (mgpack.plan, {"model": "checkpoint"}),
        (mgpack.map, {"model": "checkpoint"}),
        (mgpack.pull, {"model": "org/model"}),
        (mgpack.doctor, {"bundle": folder}),
        (mgpack.report, {"bundle": folder, "against": "checkpoint"}),
        (mgpack.inspect, {"path": folder}),
        (mgpack.release, {"bundle": folder, "output": "out"}),
        (mgpack.load, {"bundle": folder, "check_versions": "no"}),
        (mgpack.verify, {"path": folder}),
        (mgpack.open, {"path": folder}),
        (mgpack.Bundle, {"path": folder}),
        (bundle.verify, {}),
    ]:
        kinds = inspect.signature(function).parameters.values()
        names = [one.name for one in kinds if one.kind is not inspect.Parameter.VAR_KEYWORD]
        yield function, needed, names


def test_no_value_of_any_argument_ends_in_an_error_of_another_kind(made, began, tmp_path, monkeypatch):
    folder = made.generic("--fp16")
    monkeypatch.chdir(tmp_path)
    tried = refused = passed = 0
    for function, needed, names in calls(folder):
        assert names
        for name in names:
            for value in odd():
                tried += 1
                try:
                    function(**{**needed, name: value})
                except Began:
                    passed += 1
                except (mgpack.Error, TypeError, ValueError) as error:
                    refused += 1
                    sentence = str(error)
                    assert type(error) in (TypeError, ValueError) or isinstance(error, mgpack.Error), repr(error)
                    # A sentence of ours: it names the argument or the place, and ends.
                    assert len(sentence) < 2000 and sentence.isprintable() or "\nwhere: " in sentence, sentence
                    if not isinstance(error, mgpack.Error):
                        assert re.search(rf"\b{name}\b", sentence), f"{name}={arguments.shown(value)}: {sentence}"
                        assert re.search(r" not | none is |twice|number|holds", sentence), sentence
    assert tried > 2000 and refused > 1000 and passed > 200, (tried, refused, passed)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("threads", 0, "threads is a whole number from 1 to 65535, or None or -1 for one thread a core, not 0"),
        ("threads", -2, "threads is a whole number from 1 to 65535, or None or -1 for one thread a core, not -2"),
        ("stats", "no", "stats is True or False, not 'no'"),
        ("scheme", "int7", f"scheme is {', '.join(map(repr, SCHEMES[:-1]))} or {SCHEMES[-1]!r}, not 'int7'"),
        ("ignore", b"lm_head", "ignore is a str or several of them, not b'lm_head'"),
        ("ignore", ["a", 1], "each of ignore is a str, not 1"),
        ("context", 2048.0, "context is a whole number of tokens from 1, not 2048.0"),
        ("context", 10**30, f"context is a whole number of tokens from 1 to 2**63 - 1, not {10**30}"),
        (
            "max_memory",
            "much",
            'max_memory is a number of bytes, or a number with a unit such as "2GiB" or "512MiB", not \'much\'',
        ),
        # The number of a machine's GiB, by its looks; a number without a unit is one of bytes only where it is no text.
        ("gpus", {0: "24"}, 'gpus[0] is a number of bytes, or a number with a unit such as "2GiB" or "512MiB", not \'24\''),
        ("gpus", {0: "24Gi"}, 'gpus[0] is a number of bytes, or a number with a unit such as "2GiB" or "512MiB", not \'24Gi\''),
        ("gpus", {0: 1, "0": 1}, "gpus names device 0 twice"),
        ("gpus", {"disk": 1}, "a device in gpus is a GPU's number from 0 to 127 or 'cpu', not 'disk'"),
        ("gpus", {128: GIB}, "a device in gpus is a GPU's number from 0 to 127 or 'cpu', not 128"),
        (
            "gpus",
            {"cpu": GIB},
            'gpus is bytes for each device, such as {0: "24GiB", 1: "24GiB"} or "2x24GiB", with at least one GPU, '
            f"not {{'cpu': {GIB}}}",
        ),
        (
            "gpus",
            2,
            'gpus is "auto", bytes for each GPU such as "2x24GiB" or {0: "24GiB"}, or several of these for a device map '
            "each, not 2",
        ),
        (
            "gpus",
            "2x24",
            'gpus is bytes for each device, such as {0: "24GiB", 1: "24GiB"} or "2x24GiB", not \'2x24\': '
            "a size is a positive number with a unit, such as 24GiB",
        ),
        ("output", "", "output is a path that is not empty and holds no NUL, not ''"),
        ("output", 3, "output is a path (str, bytes or os.PathLike), not 3"),
        ("model", None, "model is a path (str, bytes or os.PathLike), not None"),
    ],
)
def test_the_sentence_says_what_is_accepted(began, name, value, sentence):
    with pytest.raises((TypeError, ValueError)) as raised:
        mgpack.convert(**{"model": "checkpoint", name: value})
    assert str(raised.value) == sentence


@pytest.fixture
def given(monkeypatch):
    """What `convert` gives to the compiled part."""

    def convert(**values):
        got = {}

        def begin(call, *_):
            call = json.loads(call)
            plan = call.pop("plan")
            for inner in (call, plan.pop("weights"), plan.pop("room"), plan):
                got.update(inner)
            raise Began

        monkeypatch.setattr(mgpack._mgpack, "convert_checkpoint", begin)
        with pytest.raises(Began):
            mgpack.convert(**{"model": "checkpoint", **values})
        return got

    return convert


def test_what_has_a_clear_meaning_is_accepted(given):
    for value, want in [
        ("2x24GiB", ["2x24GiB"]),
        ({0: "24GiB"}, [{"0": 24 * GIB}]),
        ({"1": GIB, 0: numpy.int64(5)}, [{"1": GIB, "0": 5}]),
        ({torch.device("cuda:3"): "1GiB"}, [{"3": GIB}]),
        (["24GiB", {0: GIB, 1: GIB}], ["24GiB", {"0": GIB, "1": GIB}]),
        (iter(["24GiB"]), ["24GiB"]),
        (None, []),
        ((), []),
    ]:
        assert given(gpus=value)["gpus"] == want
    assert given(gpus={0: "24GiB", "cpu": "64GiB"})["allow_cpu"] == 64 * GIB
    assert given(gpus="24GiB,cpu=64GiB")["allow_cpu"] == 64 * GIB
    assert given(gpus={0: "24GiB", "cpu": "64GiB"}, allow_cpu=64 * GIB)["allow_cpu"] == 64 * GIB
    with pytest.raises(ValueError, match="allow_cpu and 'cpu' in memory tables are one number"):
        given(gpus={0: "24GiB", "cpu": "64GiB"}, allow_cpu="32GiB")
    # Once, a text was taken apart: `l`, `m`, `_`, ….
    assert given(ignore="lm_head")["ignore"] == ["lm_head"]
    assert given(ignore=None)["ignore"] == []
    assert given(ignore=(name for name in ["b", "a"]))["ignore"] == ["b", "a"]
    assert given(ignore=numpy.array(["b", "a"]))["ignore"] == ["b", "a"]
    # A set has another order in every process, and the order is in the bundle's id.
    assert given(ignore={"c", "a", "b"})["ignore"] == ["a", "b", "c"]
    assert "threads" not in given(threads=-1) and given(threads=numpy.int32(4))["threads"] == 4
    assert given(model=b"folder")["model"] == given(model=Path("folder"))["model"] == "folder"
    assert given(output=b"folder", towers=Path("zoo"))["output"] == "folder"
    assert given(max_memory="1073741824")["max_memory"] == given(max_memory="1 GiB")["max_memory"] == GIB
    assert given(reserve=0)["reserve"] == 0
    assert given(stats=numpy.False_)["stats"] is False


def test_auto_is_left_to_the_library(given):
    assert given(gpus="auto")["gpus"] == ["auto"]
    assert given(gpus=["auto", "24GiB"])["gpus"] == ["auto", "24GiB"]


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has a GPU")
def test_auto_without_a_gpu_says_so(made):
    with pytest.warns(mgpack.Notice, match="no NVIDIA GPU that its driver lists: no device map is planned") as told:
        plan = mgpack.plan(made.checkpoint(), gpus="auto")
    assert [profile.memory.given for profile in plan.device_maps] == [False]
    assert {one.filename for one in told} == {__file__}


@pytest.mark.parametrize(
    "value", ["cuda", "cpu", "cuda:0", 0, numpy.int64(1), "cuda:17", torch.device("cuda:1"), torch.device("cpu", 0)]
)
def test_devices_are_read_as_torch_writes_them(value):
    want = torch.device("cpu") if str(value).startswith("cpu") else torch.device(value if not isinstance(value, numpy.int64) else 1)
    assert torch.device(arguments.device("device", value)) == want


@pytest.mark.parametrize("value", ["tpu", "cuda:", "cuda:01", "cuda:-1", -1, "CUDA", torch.device("meta"), "0", True])
def test_what_is_no_device_for_a_model_is_refused(value):
    with pytest.raises((TypeError, ValueError), match=r"device is 'cuda', 'cpu', a GPU as its number or 'cuda:N', or a torch"):
        arguments.device("device", value)


def test_a_memory_table_has_at_most_the_devices_of_the_library():
    assert arguments.memory_table("memory", {127: 1}) == {"127": 1}
    with pytest.raises(ValueError, match="from 0 to 127"):
        arguments.memory_table("memory", "0=1GiB,128=1GiB")
