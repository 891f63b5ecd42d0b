"""The compiled part of mgpack. Internal: use the functions of `mgpack`."""

from collections.abc import Callable, Sequence
from os import PathLike

__version__: str

def run_command(args: Sequence[str]) -> int: ...
def read_manifest(bundle: str | PathLike[str]) -> tuple[str, str]: ...
def verify_bundle(
    bundle: str | PathLike[str],
    full: bool,
    threads: int | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> str: ...
def convert_checkpoint(
    model: str,
    output: str | PathLike[str] | None,
    *,
    scheme: str,
    format: str | None,
    ignore: Sequence[str],
    on_overflow: str,
    stats: bool,
    max_shard_size: int | str | None,
    max_memory: int | str | None,
    threads: int | None,
    towers: str | PathLike[str] | None,
    keep_towers: bool,
    revision: str | None,
    gpus: Sequence[str],
    context: int,
    batch: int,
    reserve: int | str | None,
    allow_cpu: int | str | None,
    force: bool,
    progress: Callable[[str, int, int], object] | None,
) -> str: ...
def plan_device_map(
    bundle: str | PathLike[str],
    devices: str,
    *,
    context: int | None,
    batch: int | None,
    reserve: int | None,
    allow_cpu: int | None,
) -> str: ...
