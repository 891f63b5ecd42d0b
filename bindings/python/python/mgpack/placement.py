"""Where the modules of a bundle go: the map inside it if the devices match, otherwise one planned anew."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from collections.abc import Mapping

from . import _mgpack
from .bundle import Bundle
from .errors import DeviceMapError

#: Module → device: an accelerator's number, or "cpu".
DeviceMap = dict[str, int | str]


def gpu_memory() -> dict[int, int]:
    """Free bytes of every GPU that torch sees; empty where there is no torch or no GPU."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    return {index: torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())}


def selected_attention(bundle: Bundle, asked: object = None) -> str | None:
    """The attention that the loader will run: what `attn_implementation` asks for, or what transformers 4 selects for MGM
    by torch's version. None where that is the class's own choice."""
    if asked in ("eager", "sdpa"):
        return str(asked)
    if bundle.manifest["model"]["variant"] is None:
        return None
    try:
        found = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    return _mgpack.selected_attention(found)


def host_memory() -> int | None:
    """Bytes of host memory that are free without swapping, within the limits of this process's control groups; None where the
    system does not say."""
    return _mgpack.host_memory()


def on_gpus(
    bundle: Bundle,
    free: Mapping[int, int],
    *,
    context: int | None = None,
    batch: int | None = None,
    reserve: int | None = None,
    allow_cpu: int | None = None,
    attention: str | None = None,
) -> DeviceMap:
    """The map for GPUs with `free` bytes each.

    A map of the bundle is taken if its table was given at conversion and each device has free what the map takes of it
    (formats/bundle.md, "Device map"). Otherwise the map is planned anew from `free`. `context` (tokens), `batch`
    (sequences), `reserve` and `allow_cpu` (bytes) are those of the bundle's first map unless given; if any is, the map
    is planned anew. `attention` is what will run, `eager` or `sdpa`; a map that was planned for `sdpa` is not one for
    `eager`.

    Raises `DeviceMapError` with the shortfall where the model does not fit.
    """
    table = {str(gpu): size for gpu, size in sorted(free.items())}
    room = {"context": context, "batch": batch, "reserve": reserve, "allow_cpu": allow_cpu}
    placed: DeviceMap = json.loads(_mgpack.place(bundle.path, table, host_memory(), attention=attention, **room))
    return placed


def require_host_memory(bundle: Bundle, available: int | None = None) -> None:
    """Raises `DeviceMapError` with the shortfall where the model does not fit into host memory."""
    available = host_memory() if available is None else available
    needed = model_bytes(bundle)
    if available is not None and needed > available:
        raise DeviceMapError(
            f"{bundle.name} does not fit into host memory",
            path=str(bundle.path),
            why=f"it needs {_gib(needed)}, {_gib(available)} are available: {_gib(needed - available)} short",
            help="free memory, or load it on a machine that has more",
        )


def model_bytes(bundle: Bundle) -> int:
    """Bytes of the loaded model, towers included, as the planner counted them."""
    counted = sum(why["bytes"] for record in bundle.manifest["device_maps"][:1] for why in record["why"])
    return int(max(counted, bundle.manifest["totals"]["tensor_bytes"]))


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB"
