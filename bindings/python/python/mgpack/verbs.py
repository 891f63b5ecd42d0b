"""The verbs of the command line as functions: an option is an argument of its name, and a result has the keys of the JSON.

`convert`, `load`, `open` and `verify` have files of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Literal, overload

from . import arguments, calls
from .arguments import AnyPath, MemoryTables, Progress, Size
from .bundle import Bundle
from .calls import Attention, Format, OnOverflow, Planner, Scheme
from .results import Checkpoint, Comparison, Diagnosis, Maps, Plan, Pullable, Pulled, Released, read


def plan(
    model: AnyPath,
    *,
    scheme: Scheme = "int8",
    format: Format | None = None,
    ignore: str | Iterable[str] = (),
    on_overflow: OnOverflow = "error",
    stats: bool = True,
    max_shard_size: Size | None = None,
    max_memory: Size | None = None,
    threads: int | None = None,
    towers: AnyPath | None = None,
    keep_towers: bool = False,
    revision: str | None = None,
    gpus: MemoryTables = (),
    context: int = 2048,
    batch: int = 1,
    reserve: Size | None = None,
    allow_cpu: Size | None = None,
    attention: Attention | None = None,
    isa: str | None = None,
) -> Plan:
    """What `mgpack.convert` would do with every tensor and file, without writing. Nothing is downloaded.

        plan = mgpack.plan("tiny", scheme="int8", gpus="2x24GiB")
        plan.totals.bytes, plan.resources.peak_memory_bytes
        [tensor.name for tensor in plan.tensors if tensor.fate == "cast"]

    The arguments are those of `mgpack.convert`.

    Raises `CheckpointError`, `ConversionError` or `DeviceMapError`.
    """
    return read(Plan, calls.run("plan", calls.plan(dict(locals()))))


def map(
    model: AnyPath,
    *,
    scheme: Scheme | None = None,
    format: Format | None = None,
    ignore: str | Iterable[str] = (),
    gpus: MemoryTables = (),
    context: int = 2048,
    batch: int = 1,
    reserve: Size | None = None,
    allow_cpu: Size | None = None,
    attention: Attention | None = None,
    planner: Planner = "mgm",
    svg: AnyPath | None = None,
    force: bool = False,
    revision: str | None = None,
) -> Maps:
    """The device maps of a bundle, or of a model that is not converted yet.

        maps = mgpack.map("34b", scheme="int8", gpus="2x24GiB")
        maps.device_map                      # as from_pretrained(device_map=…) takes it
        maps.maps[0].profile.used["0"]       # bytes on the first GPU

    model: a bundle; or an alias (`34b`), a hub id or a checkpoint's folder, with a `scheme`. An alias needs no files.
    scheme, format, ignore: how what is no bundle would be stored.
    gpus, context, batch, reserve, allow_cpu, attention: as for `mgpack.convert`. Without GPUs a bundle's own maps are
        returned.
    planner: `mgm`, or `accelerate-0.25-sequential` for what transformers 4.36.2 would do, with the rules of MGM that it breaks.
    svg: a file that the memory bars are drawn into. `force`: over a file that mgpack did not make, too.
    revision: branch, tag or commit in the Hugging Face cache.

    Raises `DeviceMapError` with the shortfall where the model does not fit.
    """
    given = dict(locals())
    # What goes with the scheme is looked at without one, too.
    stored = calls.weights({**given, "scheme": "int8" if scheme is None else scheme})
    call = {
        "model": calls.model("model", model),
        "weights": None if scheme is None else stored,
        "room": calls.room(given),
        "planner": arguments.choice("planner", planner, Planner),
        "svg": calls.optional("svg", svg, calls.path),
        "force": arguments.flag("force", force),
        "revision": calls.optional("revision", revision, arguments.text),
    }
    return read(Maps, calls.run("map", call))


@overload
def pull(
    model: str,
    *,
    revision: str | None = None,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    no_towers: bool = False,
    dry_run: Literal[False] = False,
    offline: bool = False,
    progress: Progress | None = None,
) -> tuple[Pulled, ...]: ...
@overload
def pull(
    model: str,
    *,
    revision: str | None = None,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    no_towers: bool = False,
    dry_run: Literal[True],
    offline: bool = False,
    progress: Progress | None = None,
) -> tuple[Pullable, ...]: ...
def pull(
    model: str,
    *,
    revision: str | None = None,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    no_towers: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    progress: Progress | None = None,
) -> tuple[Pulled, ...] | tuple[Pullable, ...]:
    """Downloads a checkpoint and its towers into the Hugging Face cache, and returns where they are.

        checkpoint, *towers = mgpack.pull("34b")
        [one.fetch_bytes for one in mgpack.pull("org/model", dry_run=True)]

    model: an alias or a hub id.
    revision: branch, tag or commit; by default `main`.
    include, exclude: patterns of files, `*` for any run of characters; by default what a conversion needs.
    no_towers: leave MGM's vision towers.
    dry_run: return what would be fetched, and write nothing.
    offline: use only what is in the cache, as `HF_HUB_OFFLINE=1` does.
    progress: called with `download`, the bytes done and the bytes in all. What it raises stops the download; what was
        fetched stays, and the same call goes on from there.

    Raises `HubError` or `CheckpointError`.
    """
    is_dry = arguments.flag("dry_run", dry_run)
    call = {
        "model": arguments.text("model", model),
        "revision": calls.optional("revision", revision, arguments.text),
        "include": arguments.texts("include", include),
        "exclude": arguments.texts("exclude", exclude),
        "no_towers": arguments.flag("no_towers", no_towers),
        "offline": arguments.flag("offline", offline),
    }
    given = {"dry_run": is_dry, "include": call["include"], "exclude": call["exclude"]}
    calls.excluded("offline", bool(call["offline"]), given)
    found = calls.run("pull", [call, is_dry], arguments.function("progress", progress))
    if found["planned"] is not None:
        return tuple(read(Pullable, one) for one in found["planned"])
    return tuple(read(Pulled, one) for one in found["pulled"])


def doctor(bundle: AnyPath | None = None, *, python: AnyPath | None = None, no_import: bool = False) -> Diagnosis:
    """Whether this environment and this machine can run a bundle, and what mends it where they cannot.

        diagnosis = mgpack.doctor("MGM-7B-int8")
        assert diagnosis, diagnosis

    bundle: its folder; without one, the packages, devices and disks are listed.
    python: the interpreter that is asked; by default this one.
    no_import: judge the packages by their metadata, without importing them in a process of their own.

    Raises `BundleError` where there is no bundle.
    """
    python = sys.executable or "python3" if python is None else python
    call = {
        "bundle": calls.optional("bundle", bundle, calls.path),
        "python": calls.path("python", python),
        "no_import": arguments.flag("no_import", no_import),
    }
    return read(Diagnosis, calls.run("doctor", call))


def report(
    bundle: AnyPath,
    against: AnyPath,
    *,
    revision: str | None = None,
    output: AnyPath | None = None,
    svg: AnyPath | None = None,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compares every tensor of a bundle with its checkpoint, value by value.

        figures = mgpack.report("llama-int8", against="./llama", output="report.html")
        min(one.sqnr_db for one in figures.tensors if one.sqnr_db is not None)

    against: the checkpoint that the bundle was made from: a folder, an alias or a hub id.
    revision: branch, tag or commit in the Hugging Face cache.
    output: a page to write. svg: a file for the main figure. `force`: over files that mgpack did not make, too.
    threads: how many; None and -1 are one for each core.
    progress: called with `verify` and `compare`, the bytes done and the bytes in all.

    Raises `BundleError` or `CheckpointError`.
    """
    call = {
        "bundle": calls.path("bundle", bundle),
        "against": calls.model("against", against),
        "revision": calls.optional("revision", revision, arguments.text),
        "threads": arguments.threads(threads),
    }
    pages = {
        "page": calls.optional("output", output, calls.path),
        "svg": calls.optional("svg", svg, calls.path),
        "force": arguments.flag("force", force),
    }
    return read(Comparison, calls.run("report", [call, pages], arguments.function("progress", progress)))


def inspect(path: AnyPath, *, revision: str | None = None) -> Bundle | Checkpoint:
    """What a bundle, a checkpoint or one safetensors file holds, from its manifest or its headers.

        checkpoint = mgpack.inspect("model-00001-of-00003.safetensors")
        [(tensor.name, tensor.dtype, tensor.shape) for tensor in checkpoint.tensors]

    path: a bundle (then the result is that of `mgpack.open`), a checkpoint's folder, an alias, a hub id or a file.
    revision: branch, tag or commit in the Hugging Face cache.

    Raises `CheckpointError`, or `BundleError` for a broken manifest.
    """
    call = {
        "path": calls.model("path", path),
        "revision": calls.optional("revision", revision, arguments.text),
    }
    found = calls.run("inspect", call)
    return Bundle(path) if found is None else read(Checkpoint, found)


def release(
    bundle: AnyPath, output: AnyPath, *, part_size: Size | None = None, progress: Progress | None = None
) -> Released:
    """Verifies a bundle and writes it as one deterministic tar, or as parts of one, beside its digests and its id.

        released = mgpack.release("MGM-34B-int8", "release", part_size="4GiB")
        [file.path for file in released.files]

    output: the folder to write; it must be empty or not there.
    part_size: bytes of each part, or a text with a unit; by default the tar is one file.
    progress: called with `verify` and `release`, the bytes done and the bytes in all. What it raises stops the work, and
        nothing is left behind.

    Raises `BundleError` where the bundle is not what was sealed, or `ConversionError` where it cannot be written.
    """
    call = {
        "bundle": calls.path("bundle", bundle),
        "output": calls.path("output", output),
        "part_size": calls.optional("part_size", part_size, calls.size),
    }
    return read(Released, calls.run("release", call, arguments.function("progress", progress)))
