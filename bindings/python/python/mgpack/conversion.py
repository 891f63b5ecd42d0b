"""`mgpack convert` as a function."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Literal

from . import _mgpack, arguments
from .arguments import AnyPath, MemoryTables, Progress, Size
from .bundle import Bundle
from .errors import Notice

#: How the weights are stored.
Scheme = Literal["int8", "fp16", "bf16", "W8A8", "W8A16"]
#: Layout of `int8`.
Format = Literal["bnb", "compressed-tensors"]
#: What becomes of finite values beyond the output type's range.
OnOverflow = Literal["error", "clamp", "inf"]
Attention = Literal["eager", "sdpa"]


class Converted(Bundle):
    """The bundle that a conversion made, open, with what was to be said about it."""

    #: What the caller should know, one sentence each. Each was a warning too.
    notices: tuple[str, ...]

    def __init__(self, path: AnyPath, notices: Iterable[str] = ()) -> None:
        super().__init__(path)
        self.notices = tuple(notices)

    @property
    def bundle(self) -> Bundle:
        """The bundle; it is this object."""
        return self


def convert(
    model: AnyPath,
    output: AnyPath | None = None,
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
    hash_source: bool = False,
    revision: str | None = None,
    gpus: MemoryTables = (),
    context: int = 2048,
    batch: int = 1,
    reserve: Size | None = None,
    allow_cpu: Size | None = None,
    attention: Attention | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Converts a checkpoint into a bundle and opens it. The bytes are those that `mgpack convert` writes.

    The result is the bundle and a path to it; its `notices` are what there was to say. Each is a warning (`Notice`)
    before a weight is read, so that `warnings.simplefilter("error", mgpack.Notice)` stops the conversion.

    model: a path, an alias (`34b`, `8x7b-hd`), a hub id that is in the Hugging Face cache, or `tiny`, which is built in.
    output: the folder to write; by default the bundle's name, in the working directory.
    scheme: `int8`, `fp16`, `bf16`, `W8A8` or `W8A16`.
    format: layout of `int8`, `bnb` or `compressed-tensors`; by default bnb for MGM, else compressed-tensors.
    ignore: a tensor or module to leave as it is, or several; `re:` and a regular expression matches from the start.
    on_overflow: `error`, `clamp` or `inf`, for finite values beyond the output type's range.
    stats: False leaves out the error figures of every tensor.
    max_shard_size, max_memory: bytes, or a text with a unit.
    threads: how many; None and -1 are one for each core.
    towers: the folder that holds MGM's vision towers, where they are not beside the checkpoint or in the cache.
    keep_towers: copy the towers' weights as they are, not only what MGM reads, as fp16.
    hash_source: seal the SHA-256 of each source weight file, for which all of them are read once more.
    revision: branch, tag or commit in the Hugging Face cache.
    gpus: GPUs to place the model on, `"2x24GiB"`, `{0: "22GiB", 1: "24GiB"}`, or `"auto"` for those of this machine;
        several of these give a device map for each. `"cpu"` among them is `allow_cpu`.
    context, batch: tokens and sequences that the device map leaves room for.
    reserve: bytes that the device map keeps free on every GPU, or a text with a unit.
    allow_cpu: bytes of host memory that decoder layers may take where the GPUs do not hold them all.
    attention: `eager` or `sdpa`, whose working memory the device map keeps free; by default what the bundle's versions
        select: torch before 2.1.1, MGM's, takes `eager`, whose memory grows with the square of the prompt.
    force: replace the bundle at the target, once the new one is complete.
    progress: called on this thread with a stage (`convert`, `copy`), the bytes done and the bytes in all. What it
        raises stops the conversion and is raised here; nothing is left behind.

    Raises `CheckpointError`, `ConversionError` or `DeviceMapError`.
    """
    notices: list[str] = []

    def notice(said: str) -> None:
        notices.append(said)
        # This function, `convert`, and who called it.
        warnings.warn(said, Notice, stacklevel=3)

    def size(name: str, value: Size | None, *, least: int = 1) -> int | None:
        return None if value is None else arguments.size(name, value, least=least)

    model = arguments.text("model", arguments.path("model", model))
    output = None if output is None else arguments.path("output", output)
    towers = None if towers is None else arguments.path("towers", towers)
    revision = None if revision is None else arguments.text("revision", revision)
    scheme = arguments.choice("scheme", scheme, Scheme)
    format = None if format is None else arguments.choice("format", format, Format)
    on_overflow = arguments.choice("on_overflow", on_overflow, OnOverflow)
    ignore = arguments.texts("ignore", ignore)
    stats, keep_towers = arguments.flag("stats", stats), arguments.flag("keep_towers", keep_towers)
    hash_source = arguments.flag("hash_source", hash_source)
    force, progress = arguments.flag("force", force), arguments.function("progress", progress)
    threads = arguments.threads(threads)
    attention = None if attention is None else arguments.choice("attention", attention, Attention)
    context, batch = arguments.count("context", context, "tokens"), arguments.count("batch", batch, "sequences")
    max_shard_size = size("max_shard_size", max_shard_size)
    max_memory = size("max_memory", max_memory)
    reserve = size("reserve", reserve, least=0)
    tables = arguments.memory_tables("gpus", gpus)
    allow_cpu = arguments.host_memory(tables, size("allow_cpu", allow_cpu, least=0))
    memory: list[str | dict[str, int]] = []
    for table in tables:
        if table != "auto":
            memory.append(table)
            continue
        found, notes = _mgpack.detect_gpus()
        for note in notes:
            notice(note)
        if found:
            memory.append(dict(found))
    path = _mgpack.convert_checkpoint(
        model,
        output,
        scheme=scheme,
        format=format,
        ignore=ignore,
        on_overflow=on_overflow,
        stats=stats,
        max_shard_size=max_shard_size,
        max_memory=max_memory,
        threads=threads,
        towers=towers,
        keep_towers=keep_towers,
        hash_source=hash_source,
        revision=revision,
        gpus=memory,
        context=context,
        batch=batch,
        reserve=reserve,
        allow_cpu=allow_cpu,
        attention=attention,
        force=force,
        notice=notice,
        progress=progress,
    )
    return Converted(path, notices)
