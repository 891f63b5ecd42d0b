"""`mgpack.load`: from a bundle to a model, by the loader that the model is made for."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal

from . import placement, versions
from .bundle import Bundle, Progress, require_whole
from .errors import LoadError, MissingPackageError

#: The module of MGM's own loader.
MGM = "mgm"


def load(
    bundle: Bundle | str | os.PathLike[str],
    *,
    verify: Literal["quick", "full"] = "quick",
    check_versions: Literal["error", "warn", "no"] = "error",
    device: Literal["cuda", "cpu"] | None = None,
    device_map: Mapping[str, int | str] | None = None,
    memory: Mapping[int, int] | None = None,
    context: int | None = None,
    batch: int | None = None,
    reserve: int | None = None,
    allow_cpu: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Any:
    """Loads the model of a bundle.

    For MGM, returns what its loader returns: `(tokenizer, model, image_processor, context_len)`. For a generic bundle
    returns the model that transformers returns.

    In this order, each before any weight is read:

    1. the installed versions are compared with the manifest's (`check_versions`: `error` raises `VersionError` with the
       `pip install` line, `warn` warns with it);
    2. the files are compared with the seal (`verify`): `quick` looks at sizes, headers, and every byte of files up to
       16 MiB; `full` at every byte of all. Raises `BundleError` that names the first file that differs;
    3. the modules are placed. On GPUs the bundle's map is taken if they match its memory table, otherwise one is
       planned from what is free. `DeviceMapError` tells the shortfall where the model does not fit;
    4. MGM's or transformers' own loader is called. The towers are those inside the bundle, whatever the working
       directory, and the class is chosen by the bundle's name, whatever the folder's.

    bundle: its folder, or what `mgpack.open` returned.
    device: `cuda` or `cpu`; by default `cuda` where torch sees a GPU.
    device_map: a map of your own, taken as it is.
    memory: bytes to use of each GPU, by number, in place of what torch says is free.
    context, batch, reserve: tokens, sequences and bytes to leave room for, in place of those of the bundle's map.
    allow_cpu: bytes of host memory that decoder layers may take where the GPUs do not hold them all.
    progress: told of `verify="full"`: a stage, bytes done, bytes in all.
    options: passed on to the loader.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
    if verify not in ("quick", "full"):
        raise ValueError(f"verify is 'quick' or 'full', not {verify!r}")
    if check_versions not in ("error", "warn", "no"):
        raise ValueError(f"check_versions is 'error', 'warn' or 'no', not {check_versions!r}")
    if device not in (None, "cuda", "cpu"):
        raise ValueError(f"device is 'cuda' or 'cpu', not {device!r}")
    if check_versions != "no" and (found := versions.mismatches(bundle)):
        error = versions.version_error(bundle, found)
        if check_versions == "error":
            raise error
        warnings.warn(str(error), stacklevel=2)
    require_whole(bundle, full=verify == "full", progress=progress)
    free = dict(memory) if memory is not None else placement.gpu_memory() if device != "cpu" else {}
    if device is None:
        device = "cuda" if free or device_map is not None else "cpu"
    if device == "cuda" and not free and device_map is None:
        raise LoadError("torch sees no GPU here", path=str(bundle.path), help='load it with device="cpu"')
    placed: dict[str, int | str]
    if device_map is not None:
        placed = dict(device_map)
    elif device == "cuda":
        placed = placement.on_gpus(
            bundle, free, context=context, batch=batch, reserve=reserve, allow_cpu=allow_cpu
        )
    else:
        placement.require_host_memory(bundle)
        placed = {"": "cpu"}
    if bundle.manifest["model"]["family"] == "generic":
        return _load_generic(bundle, placed, options)
    return _load_mgm(bundle, device, placed, options)


def _load_mgm(bundle: Bundle, device: str, device_map: dict[str, int | str], options: dict[str, Any]) -> Any:
    if importlib.util.find_spec(MGM) is None:
        raise MissingPackageError(
            f"{bundle.name} is loaded by MGM's own code, and there is no Python module `mgm` here",
            path=str(bundle.path),
            why="everything before that is in order: the bundle is whole and has its place",
            help="git clone https://github.com/dvlab-research/MGM, and put that folder on PYTHONPATH",
        )
    _require("transformers", bundle)
    import transformers
    from mgm.model.builder import load_pretrained_model

    is_quantized = bundle.manifest["scheme"]["layout"] is not None
    if is_quantized and not transformers.utils.is_bitsandbytes_available():
        raise LoadError(
            f"transformers {transformers.__version__} does not use bitsandbytes here",
            path=str(bundle.path),
            why="it asks for bitsandbytes and a CUDA device before it loads int8",
            help="load it on a machine with a GPU, or an fp16 bundle",
        )
    # MGM takes the towers' paths relative to the working directory; the copy of the configuration given here has them in
    # full. The class is chosen by the name.
    config = transformers.AutoConfig.from_pretrained(bundle.path)
    towers = {tower["config_key"]: tower["path"] for tower in bundle.manifest["model"]["facts"]["towers"]}
    for key, path in towers.items():
        setattr(config, key, str((bundle.path / path).absolute()))
    loaded = load_pretrained_model(
        str(bundle.path.absolute()), None, bundle.name, device_map=device_map, device=device, config=config, **options
    )
    for key, path in towers.items():
        # What is saved from this model later must not hold a path of this machine.
        setattr(loaded[1].config, key, path)
    return loaded


def _load_generic(bundle: Bundle, device_map: dict[str, int | str], options: dict[str, Any]) -> Any:
    _require("transformers", bundle)
    import transformers

    name = bundle.manifest["model"]["architecture"]
    found = getattr(transformers, name, None) if name else None
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    loader = found if is_model else transformers.AutoModelForCausalLM
    return loader.from_pretrained(bundle.path, device_map=device_map, **options)


def _require(module: str, bundle: Bundle) -> None:
    if importlib.util.find_spec(module) is None:
        raise MissingPackageError(
            f"{bundle.name} is loaded by {module}, which is not installed",
            path=str(bundle.path),
            help=f"pip install -r {bundle.path / 'requirements.txt'}",
        )
