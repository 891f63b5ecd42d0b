"""`mgpack.load`: from a bundle to a model, by the loader that the model is made for."""

from __future__ import annotations

import importlib
import importlib.util
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Union, get_args

from . import _mgpack, arguments, placement, versions
from .arguments import AnyPath, Device, MemoryTable, Progress, Size
from .bundle import Bundle
from .errors import LoadError, MissingPackageError, Notice

#: The module of MGM's own loader.
MGM = "mgm"

#: How much of a bundle is checked before it is loaded.
Check = Literal["quick", "full"]
#: What becomes of a package that is not of the version that the bundle loads with.
CheckVersions = Literal["error", "warn", "no"]
#: Accelerate's words for a map that is planned. mgpack plans its own, whatever the word.
Planned = Literal["auto", "balanced", "balanced_low_0", "sequential"]
#: Where the modules go: a map, a word for one that is planned, or one device for all.
DeviceMap = Union[Mapping[str, Device], Planned, Device]


class Loaded(NamedTuple):
    """A model and what goes with it, in the order in which MGM's loader gives them."""

    #: What turns text into tokens; None where the bundle has none.
    tokenizer: Any
    #: The model on its devices.
    model: Any
    #: What prepares images, sound or video: MGM's image processor, or what transformers' `AutoProcessor` gives; None
    #: where the bundle has none.
    processor: Any
    #: Tokens that the model takes at most; None where its configuration has no such number.
    context_len: int | None


def load(
    bundle: AnyPath,
    *,
    verify: Check = "quick",
    check_versions: CheckVersions = "error",
    device: Device | None = None,
    device_map: DeviceMap | None = None,
    memory: MemoryTable | None = None,
    context: int | None = None,
    batch: int | None = None,
    reserve: Size | None = None,
    allow_cpu: Size | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Loaded:
    """Loads the model of a bundle, with its tokenizer and its processor: `mgpack.load(path).model`.

    The result can be unpacked: `tokenizer, model, processor, context_len = mgpack.load(path)`.

    In this order, each before any weight is read:

    1. the installed versions are compared with the manifest's (`check_versions`: `error` raises `VersionError` with the
       `pip install` line, `warn` warns with it);
    2. the files are compared with the seal (`verify`): `quick` looks at sizes, headers, and every byte of files up to
       16 MiB; `full` at every byte of all. Raises `BundleError` that names the first file that differs;
    3. the modules are placed. On GPUs the bundle's map is used if they match its memory table, otherwise one is
       planned from what is free. `DeviceMapError` has the shortfall where the model does not fit;
    4. MGM's or transformers' own loader is called, of transformers the class that the bundle's card names; `LoadError`
       where none is known. The towers are those inside the bundle, whatever the working
       directory, and the class is chosen by the bundle's name, whatever the folder's.

    bundle: its folder, or what `mgpack.open` or `mgpack.convert` returned.
    device: `"cuda"` for all GPUs, one of them as `"cuda:1"`, `1` or a `torch.device`, or `"cpu"`; by default the GPUs
        where torch sees one.
    device_map: a map of your own, used as it is. One device puts everything there, as `device` does. `"auto"`,
        `"balanced"`, `"balanced_low_0"` and `"sequential"` all mean the map that mgpack plans, as None does: its
        planner keeps together what MGM needs on one device, and accelerate's does not.
    memory: bytes to use of each GPU in place of what torch says is free: `{0: "22GiB"}`, or `"2x22GiB"`. `"cpu"` among
        them is `allow_cpu`.
    context, batch, reserve: tokens, sequences and bytes to leave room for, in place of those of the bundle's map.
    allow_cpu: bytes of host memory that decoder layers may take where the GPUs do not hold them all.
    progress: called during `verify="full"` with a stage, the bytes done and the bytes in all.
    options: passed on to the loader.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle(arguments.path("bundle", bundle))
    verify = arguments.choice("verify", verify, Check)
    check_versions = arguments.choice("check_versions", check_versions, CheckVersions)
    progress = arguments.function("progress", progress)
    where, placed = _where(device, device_map)
    table = None if memory is None else arguments.memory_table("memory", memory)
    host = None if allow_cpu is None else arguments.size("allow_cpu", allow_cpu, least=0)
    room = {
        "context": None if context is None else arguments.count("context", context, "tokens"),
        "batch": None if batch is None else arguments.count("batch", batch, "sequences"),
        "reserve": None if reserve is None else arguments.size("reserve", reserve, least=0),
        "allow_cpu": arguments.host_memory([] if table is None else [table], host),
    }
    attention = placement.selected_attention(bundle, options.get("attn_implementation"))
    if check_versions != "no" and (found := versions.mismatches(bundle)):
        error = versions.version_error(bundle, found)
        if check_versions == "error":
            raise error
        warnings.warn(str(error), Notice, stacklevel=2)
    bundle.verify(full=verify == "full", progress=progress).raise_for_findings()
    if placed is None and where != "cpu":
        if table is None:
            free = placement.gpu_memory()
        else:
            free = {int(gpu): size for gpu, size in table.items() if gpu != "cpu"}
        if where is None:
            where = "cuda" if free else "cpu"
        if where != "cpu":
            placed = dict(placement.on_gpus(bundle, _of_device(bundle, where, free), attention=attention, **room))
    if placed is None:
        placement.require_host_memory(bundle)
        where, placed = "cpu", {"": "cpu"}
    if bundle.manifest["model"]["family"] == "generic":
        return _load_generic(bundle, placed, options)
    return _load_mgm(bundle, where or "cuda", placed, options)


def _where(device: Device | None, device_map: DeviceMap | None) -> tuple[str | None, dict[str, Any] | None]:
    """What the two arguments mean: one device or `cuda` or None for what there is, and the caller's own map."""
    where = None if device is None else arguments.device("device", device)
    if device_map is None or (isinstance(device_map, str) and device_map in get_args(Planned)):
        return where, None
    if isinstance(device_map, Mapping):
        if not device_map or not all(isinstance(module, str) for module in device_map):
            raise ValueError(
                f"a device_map of your own has a device for each module's name, not {arguments.shown(device_map)}"
            )
        used = {
            "disk" if on == "disk" else arguments.device(f"device_map[{module!r}]", on, "'disk', ")
            for module, on in device_map.items()
        }
        # MGM's loader is given one device too: that of a map that has only one, else `cuda` for all.
        only = used.pop() if len(used) == 1 else "cuda"
        return where or ("cuda" if only == "disk" else only), dict(device_map)
    also = f"a mapping of modules to devices, {', '.join(map(repr, get_args(Planned)))}, "
    all_on = arguments.device("device_map", device_map, also)
    if where not in (None, all_on):
        raise ValueError(f"device_map={all_on!r} puts everything on that device, and device is {where!r}")
    return all_on, None


def _of_device(bundle: Bundle, where: str, free: dict[int, int]) -> dict[int, int]:
    """The free bytes of the GPUs that `where` names."""
    if where == "cuda" and free:
        return free
    number = where.removeprefix("cuda:")
    if number.isdecimal() and int(number) in free:
        return {int(number): free[int(number)]}
    there = f"has GPUs {', '.join(map(str, sorted(free)))}" if free else "sees no GPU here"
    raise LoadError(
        f"torch {there}" + (f", and no {where}" if free else ""),
        path=str(bundle.path),
        help='load it with device="cuda" on all of them' if free else 'load it with device="cpu"',
    )


def _load_mgm(bundle: Bundle, device: str, device_map: dict[str, Any], options: dict[str, Any]) -> Loaded:
    if importlib.util.find_spec(MGM) is None:
        raise MissingPackageError(
            f"{bundle.name} is loaded by MGM's own code, and there is no Python module `mgm` here",
            path=str(bundle.path),
            why="everything before that is in order: the bundle is whole and has its place",
            help="git clone https://github.com/dvlab-research/MGM, and put that folder on PYTHONPATH",
        )
    transformers = _require("transformers", bundle)
    load_pretrained_model = importlib.import_module("mgm.model.builder").load_pretrained_model

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
    loaded = Loaded(
        *load_pretrained_model(
            str(bundle.path.absolute()), None, bundle.name, device_map=device_map, device=device, config=config, **options
        )
    )
    for key, path in towers.items():
        # What is saved from this model later must not hold a path of this machine.
        setattr(loaded.model.config, key, path)
    return loaded


def _load_generic(bundle: Bundle, device_map: dict[str, Any], options: dict[str, Any]) -> Loaded:
    transformers = _require("transformers", bundle)
    # Before the model: what is missing for them is known before the long work.
    loader = _model_class(bundle, transformers, trusted=bool(options.get("trust_remote_code", False)))
    tokenizer = _beside(bundle, "tokenizer", _mgpack.TOKENIZER_FILES, transformers.AutoTokenizer, options)
    processor = _beside(bundle, "processor", _mgpack.PROCESSOR_FILES, transformers.AutoProcessor, options)
    if isinstance(processor, transformers.PreTrainedTokenizerBase):
        # What `AutoProcessor` gives where it knows no class that joins the two.
        processor = _beside(bundle, "processor", _mgpack.PROCESSOR_FILES, transformers.AutoImageProcessor, options)
    model = loader.from_pretrained(bundle.path, device_map=device_map, **options)
    return Loaded(tokenizer, model, processor, _context_len(model.config))


def _model_class(bundle: Bundle, transformers: Any, *, trusted: bool) -> Any:
    """What of transformers loads the model: the class that the card names, never one that would leave weights out.

    trusted: code that comes with the checkpoint may run.
    """
    files = {file["path"] for file in bundle.manifest["files"]}
    text = (bundle.path / "config.json").read_text() if "config.json" in files else None
    found = json.loads(_mgpack.class_of(text, files))
    if "import" in found:
        return getattr(transformers, found["import"])
    architecture = found.get("architecture")
    if found["is"] == "own-code":
        # `{"AutoModelForCausalLM": "modeling_x.XForCausalLM"}`
        own: dict[str, str] = json.loads(text or "{}")["auto_map"]
        autos = [auto for auto, name in own.items() if name.endswith(f".{architecture}") and hasattr(transformers, auto)]
        if trusted and autos:
            return getattr(transformers, autos[0])
        raise LoadError(
            f"{architecture} of {bundle.name} is code that comes with the checkpoint",
            path=str(bundle.path / "config.json"),
            why="`auto_map` names it, and mgpack runs no code of a checkpoint unasked",
            help="read that code; then trust_remote_code=True runs it",
        )
    # A class of a transformers newer than the one that the list was made from.
    newer = getattr(transformers, architecture, None) if architecture else None
    if isinstance(newer, type) and issubclass(newer, transformers.PreTrainedModel):
        return newer
    why = {
        "no-config": "it has no config.json",
        "no-architecture": "its config.json has no `architectures`",
        "unknown": f"transformers {transformers.__version__} has no {architecture}",
    }[found["is"]]
    raise LoadError(
        f"no class is known that loads {bundle.name}",
        path=str(bundle.path / "config.json"),
        why=why,
        help="mgpack.open(path).tensors has every tensor; a class of your own takes the path: Class.from_pretrained(path)",
    )


def _beside(bundle: Bundle, what: str, files: Sequence[str], loader: Any, options: Mapping[str, Any]) -> Any:
    """The tokenizer or the processor; None where the bundle has none, and with a warning where it cannot be made."""
    if set(files).isdisjoint(file["path"] for file in bundle.manifest["files"]):
        return None
    trusted = bool(options.get("trust_remote_code", False))
    try:
        return loader.from_pretrained(bundle.path, local_files_only=True, trust_remote_code=trusted)
    # Whatever goes wrong in it, a package that it needs and that is not there for one, the model loads without it.
    except Exception as error:
        said = f"the {what} of {bundle.name} cannot be loaded and is None: {type(error).__name__}: {error}"
        # This function, `_load_generic`, `load`, and who called it.
        warnings.warn(said, Notice, stacklevel=4)
        return None


def _context_len(config: Any) -> int | None:
    """The number of positions that a configuration has, in its part for text where it has parts."""
    text = getattr(config, "text_config", None) or config
    found = getattr(text, "max_position_embeddings", None)
    return found if isinstance(found, int) else None


def _require(module: str, bundle: Bundle) -> Any:
    if importlib.util.find_spec(module) is None:
        raise MissingPackageError(
            f"{bundle.name} is loaded by {module}, which is not installed",
            path=str(bundle.path),
            help=f"pip install -r {bundle.path / 'requirements.txt'}",
        )
    return importlib.import_module(module)
