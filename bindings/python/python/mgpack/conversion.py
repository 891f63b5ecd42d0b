"""`mgpack convert` as a function."""

from __future__ import annotations

import json
from collections.abc import Iterable

from . import _mgpack, arguments, calls
from .arguments import AnyPath, MemoryTables, Progress, Size
from .bundle import Bundle
from .calls import Attention, Format, OnOverflow, Scheme

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
    isa: str | None = None,
    offline: bool = False,
    stream: bool = False,
    discard_source: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Converts a checkpoint into a bundle and opens it. The bytes are those that `mgpack convert` writes.

        bundle = mgpack.convert("meta-llama/Llama-3.1-8B", "llama-int8", gpus="auto")

    What is missing of the checkpoint and its towers is downloaded into the Hugging Face cache first.

    The result is the bundle and a path to it; its `notices` are what there was to say. Each is a warning (`Notice`)
    before a weight is read, so that `warnings.simplefilter("error", mgpack.Notice)` stops the conversion.

    model: a path, an alias (`34b`, `8x7b-hd`), a hub id, or `tiny`, which is built in.
    output: the folder to write; by default the bundle's name, in the working directory.
    scheme: `int8`, `fp16`, `bf16`, or a preset of compressed-tensors such as `W8A16`.
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
    isa: the instruction set, for comparison; by default the fastest.
    offline: use only what is in the cache, as `HF_HUB_OFFLINE=1` does.
    stream: convert shard by shard while the checkpoint arrives from the hub.
    discard_source: with `stream`, remove each source shard from the cache once all that is made from it is on the disk.
    force: replace the bundle at the target, once the new one is complete.
    progress: called on this thread with a stage (`download`, `convert`, `copy`), the bytes done and the bytes in all. What it
        raises stops the conversion and is raised here; nothing is left behind.

    Raises `CheckpointError`, `ConversionError`, `DeviceMapError` or `HubError`.
    """
    given = dict(locals())
    discards, hashes = arguments.flag("discard_source", discard_source), arguments.flag("hash_source", hash_source)
    streams, is_offline = arguments.flag("stream", stream), arguments.flag("offline", offline)
    calls.excluded("stream", streams, {"offline": is_offline, "hash_source": hashes})
    if discards and not streams:
        raise ValueError("discard_source=True goes with stream=True, not without it")
    call = {
        "plan": calls.plan(given),
        "output": None if output is None else calls.path("output", output),
        "offline": is_offline,
        "stream": streams,
        "discard_source": discards,
        "hash_source": hashes,
        "force": arguments.flag("force", force),
    }
    progress = arguments.function("progress", progress)
    notices: list[str] = []
    # The notice's own function, `convert`, and who called it.
    path = _mgpack.convert_checkpoint(json.dumps(call), calls.warner(notices, 3), progress)
    return Converted(path, notices)
