"""Where the modules of a bundle go: the map inside it if the devices match, otherwise one planned anew."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from typing import Any

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
    numbers = [int(part) for part in re.findall(r"\d+", found)[:3]]
    return "sdpa" if numbers >= [2, 1, 1] else "eager"


def host_memory() -> int | None:
    """Bytes of host memory that are free without swapping; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as meminfo:
            line = next(line for line in meminfo if line.startswith("MemAvailable:"))
        return int(line.split()[1]) << 10
    except (OSError, StopIteration, ValueError, IndexError):
        return None


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
    is planned anew. `attention` is what will run, `eager` or `sdpa`; a map that was planned for `sdpa` is not taken for
    `eager`.

    Raises `DeviceMapError` with the shortfall where the model does not fit.
    """
    records = bundle.manifest["device_maps"]
    own = {"context": context, "batch": batch, "reserve": reserve, "allow_cpu": allow_cpu}
    if all(value is None for value in own.values()):
        for record in records:
            is_short = attention == "eager" and record["memory"]["attention"] == "sdpa"
            if not is_short and _fits(record, free):
                return dict(record["map"])
    asked: dict[str, Any] = records[0]["memory"] if records else {}
    wanted = {key: asked.get(key) if value is None else value for key, value in own.items()}
    table = {str(gpu): size for gpu, size in sorted(free.items())}
    planned: DeviceMap = json.loads(_mgpack.plan_device_map(bundle.path, table, attention=attention, **wanted))
    return planned


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


def _fits(record: Mapping[str, Any], free: Mapping[int, int]) -> bool:
    """True if `record` was planned for a table, and every device still has free what it takes of it."""
    if not record["memory"]["given"]:
        return False
    for device, use in record["used"].items():
        taken = use["weights"] + use["kv"] + use["activations"]
        available = free.get(int(device), 0) if device.isdecimal() else host_memory()
        if taken and available is not None and taken + use["reserve"] > available:
            return False
    return True


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB"
