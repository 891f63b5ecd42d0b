"""`mgpack convert` as a function."""

from __future__ import annotations

import os
from collections.abc import Iterable

from . import _mgpack
from .bundle import Bundle, Progress

#: Bytes, or a text such as "2GiB".
Size = int | str


def convert(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    scheme: str = "int8",
    format: str | None = None,
    ignore: Iterable[str] = (),
    on_overflow: str = "error",
    stats: bool = True,
    max_shard_size: Size | None = None,
    max_memory: Size | None = None,
    threads: int | None = None,
    towers: str | os.PathLike[str] | None = None,
    keep_towers: bool = False,
    revision: str | None = None,
    gpus: str | Iterable[str] = (),
    context: int = 2048,
    batch: int = 1,
    reserve: Size | None = None,
    allow_cpu: Size | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Converts a checkpoint into a bundle and opens it. The bytes are those that `mgpack convert` writes.

    model: a path, an alias (`34b`, `8x7b-hd`), or a hub id that is in the Hugging Face cache.
    output: the folder to write; by default the bundle's name, in the working directory.
    scheme: `int8`, `fp16`, `bf16`, `W8A8` or `W8A16`.
    format: layout of `int8`, `bnb` or `compressed-tensors`; by default bnb for MGM, else compressed-tensors.
    ignore: tensors or modules to leave as they are; `re:` and a regular expression matches from the start.
    on_overflow: `error`, `clamp` or `inf`, for finite values beyond the output type's range.
    stats: False leaves out the error figures of every tensor.
    keep_towers: copy the towers' weights as they are, not only what MGM reads, as fp16.
    max_shard_size, max_memory, reserve, allow_cpu: bytes, or a text with a unit.
    gpus: GPUs to place the model on, such as `2x24GiB` or `0=22GiB,1=24GiB`; several give a device map for each.
    context, batch: what the device map leaves room for.
    force: replace the bundle at the target, once the new one is complete.
    progress: called on this thread with a stage (`convert`, `copy`), the bytes done and the bytes in all. What it
        raises stops the conversion and is raised here; nothing is left behind.

    Raises `CheckpointError`, `ConversionError` or `DeviceMapError`.
    """
    path = _mgpack.convert_checkpoint(
        os.fspath(model),
        output,
        scheme=scheme,
        format=format,
        ignore=list(ignore),
        on_overflow=on_overflow,
        stats=stats,
        max_shard_size=max_shard_size,
        max_memory=max_memory,
        threads=threads,
        towers=towers,
        keep_towers=keep_towers,
        revision=revision,
        gpus=[gpus] if isinstance(gpus, str) else list(gpus),
        context=context,
        batch=batch,
        reserve=reserve,
        allow_cpu=allow_cpu,
        force=force,
        progress=progress,
    )
    return Bundle(path)
