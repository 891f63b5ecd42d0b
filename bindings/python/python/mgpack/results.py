"""What the verbs return: the JSON that the commands print, as frozen dataclasses.

A field is a key of that JSON; lists are tuples. The one difference is an `id`, which is written as everywhere in this package:
`sha256:` and 64 digits.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from dataclasses import dataclass
from typing import Any, TypeVar, Union, cast

#: An accelerator's number, `cpu` or `disk`.
Place = Union[int, str]

T = TypeVar("T")


@dataclass(frozen=True)
class Requirement:
    """A package that a bundle needs."""

    #: Its name on the package index, or `python`.
    package: str
    #: The version to install.
    pin: str
    #: The versions that work (PEP 440).
    range: str
    #: Why.
    reason: str
    #: Where that is known from.
    source: str


@dataclass(frozen=True)
class Planner:
    """Who planned a device map."""

    name: str
    version: int


@dataclass(frozen=True)
class DeviceUse:
    """Bytes that a device map takes of one device."""

    weights: int
    #: Keys and values of attention.
    kv: int
    activations: int
    #: What is kept free.
    reserve: int
    #: What the memory table gives.
    budget: int


@dataclass(frozen=True)
class Placement:
    """Where a module goes, and why."""

    module: str
    device: Place
    #: Bytes of the module.
    bytes: int
    #: Bytes of the device that were free before.
    free_before: int
    #: Bytes of the device that modules may take.
    limit: int
    reason: str


@dataclass(frozen=True)
class LongestContext:
    """Tokens of prompt and answer that a device map holds, images apart; None where the class has no such attention."""

    eager: int | None
    sdpa: int | None


@dataclass(frozen=True)
class MapMemory:
    """What a device map was planned for."""

    #: Bytes by device: `"0"`, `"1"`, …, `"cpu"`.
    table: dict[str, int]
    #: False where no table was given: then the map is for one device as large as the model.
    given: bool
    context: int | None
    batch: int | None
    reserve: int | None
    allow_cpu: int | None
    #: `eager` or `sdpa`.
    attention: str | None
    longest_context: LongestContext | None


@dataclass(frozen=True)
class Profile:
    """A device map with its reasons."""

    planner: Planner
    #: Module → device, as `from_pretrained(device_map=…)` takes it.
    map: dict[str, Place]
    #: By device: `"0"`, `"1"`, …, `"cpu"`.
    used: dict[str, DeviceUse]
    #: The modules in the order of placement.
    why: tuple[Placement, ...]
    memory: MapMemory


@dataclass(frozen=True)
class BrokenRule:
    """A rule of MGM that a device map breaks."""

    #: `R1` to `R6`.
    rule: str
    module: str
    #: Where the module is; None if the map gives it no place.
    device: Place | None
    consequence: str


@dataclass(frozen=True)
class PlannedMap:
    """A device map and the rules that it breaks."""

    profile: Profile
    broken_rules: tuple[BrokenRule, ...]


@dataclass(frozen=True)
class Maps:
    """What `mgpack.map` returns. True where no map breaks a rule of MGM."""

    #: The model's name, with the scheme where it is no bundle.
    model: str
    #: Whether the maps are those that the bundle has already.
    recorded: bool
    #: One for each memory table.
    maps: tuple[PlannedMap, ...]

    @property
    def device_map(self) -> dict[str, Place]:
        """The first map, as `from_pretrained(device_map=…)` takes it."""
        return dict(self.maps[0].profile.map) if self.maps else {}

    @property
    def ok(self) -> bool:
        """True where no map breaks a rule."""
        return not any(one.broken_rules for one in self.maps)

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint was found in the hub's cache; None for a folder elsewhere."""

    hub_id: str | None
    revision: str | None


@dataclass(frozen=True)
class PlanTotals:
    """Sums over a plan."""

    source_tensors: int
    source_bytes: int
    tensors: int
    bytes: int
    #: Tensors that become codes, are cast, and stay as they are.
    quantized: int
    cast: int
    copied: int


@dataclass(frozen=True)
class Resources:
    """What a conversion works with."""

    threads: int
    #: Shards in work at a time.
    lanes: int
    batch_bytes: int
    peak_memory_bytes: int
    instruction_set: str


@dataclass(frozen=True)
class Shard:
    """A file of weights in the planned bundle."""

    name: str
    bytes: int


@dataclass(frozen=True)
class StoredPart:
    """A stored tensor that a weight is decoded from."""

    name: str
    file: str
    offset: int
    bytes: int


@dataclass(frozen=True)
class Decoding:
    """How a weight is decoded that the checkpoint stores as codes."""

    #: Its name in formats/schemes.md.
    arithmetic: str
    #: Codes, scales and perhaps zero points.
    parts: tuple[StoredPart, ...]


@dataclass(frozen=True)
class SourceRange:
    """The bytes of a tensor in the checkpoint."""

    #: None where it is decoded from others.
    file: str | None
    offset: int | None
    #: What is stored for it in all.
    bytes: int
    #: None where it is stored as it is.
    decoding: Decoding | None


@dataclass(frozen=True)
class Output:
    """A tensor in the planned bundle."""

    name: str
    #: `values`, `codes`, `scales`, `format` or `shape`.
    kind: str
    dtype: str
    shape: tuple[int, ...]
    shard: str
    offset: int
    bytes: int


@dataclass(frozen=True)
class PlannedTensor:
    """What becomes of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    #: `quantize`, `cast` or `copy`.
    fate: str
    #: Why it is not quantized; None where it is, or where nothing is.
    why: str | None
    source: SourceRange
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class PlannedFile:
    """What becomes of one file of the checkpoint or of a tower."""

    path: str
    #: The tower's path in the bundle; None for the checkpoint's own files.
    tower: str | None
    bytes: int
    #: `converted`, `copied`, `replaced` or `left_out`.
    fate: str
    #: Its path in the bundle, where it is copied.
    target: str | None
    why: str | None


@dataclass(frozen=True)
class Plan:
    """What `mgpack.plan` returns: what `mgpack.convert` would do."""

    #: The bundle's name.
    name: str
    #: A family of MGM, or `generic`.
    family: str
    source: Origin
    scheme: str
    #: Patterns of modules that stay float.
    skip_modules: tuple[str, ...]
    totals: PlanTotals
    #: Bytes that the bundle takes, within a few kilobytes.
    bundle_bytes: int
    resources: Resources
    requirements: tuple[Requirement, ...]
    #: One for each memory table; the first is the bundle's device_map.json.
    device_maps: tuple[Profile, ...]
    shards: tuple[Shard, ...]
    tensors: tuple[PlannedTensor, ...]
    files: tuple[PlannedFile, ...]
    #: What the caller should know. `mgpack.convert` warns of each.
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Pulled:
    """A repository in the hub's cache. It is a path."""

    #: `org/name`.
    repo: str
    commit: str
    #: Its folder.
    path: str

    def __fspath__(self) -> str:
        return self.path


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository."""

    path: str
    bytes: int
    #: Digest by which the hub's cache names its content.
    hash: str
    #: Whether the cache has it.
    cached: bool


@dataclass(frozen=True)
class Pullable:
    """A repository as it would be pulled."""

    repo: str
    commit: str
    #: Bytes yet to be fetched.
    fetch_bytes: int
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True)
class Interpreter:
    """A Python interpreter and what is installed for it."""

    path: str
    version: str
    #: Package → version, of those asked for.
    packages: dict[str, str]
    #: Those that are not installed and whose module is on the path all the same.
    bare: tuple[str, ...]


@dataclass(frozen=True)
class PackageState:
    """A package that the bundle needs, as it is found."""

    package: str
    found: str | None
    pin: str
    range: str
    #: Whether the version found is in the range.
    good: bool


@dataclass(frozen=True)
class Memory:
    """Memory of a device, in bytes."""

    free: int
    total: int


@dataclass(frozen=True)
class Gpu:
    """A GPU."""

    #: CUDA's number for it.
    index: int
    name: str | None
    uuid: str | None
    memory: Memory | None
    #: `8.9`.
    compute_capability: str | None


@dataclass(frozen=True)
class Machine:
    """The devices of this machine."""

    #: The GPUs that a CUDA program would see.
    gpus: tuple[Gpu, ...]
    #: GPUs that the machine has, hidden ones included.
    gpus_present: int
    #: `NVML` or `nvidia-smi`; None where neither answers.
    source: str | None
    #: Host memory, within the limits of this process's control groups.
    host: Memory | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Room:
    """Memory of one device, as the bundle's map needs it and as it is."""

    device: Place
    needed: int
    free: int | None


@dataclass(frozen=True)
class Disk:
    """A folder and the bytes free there."""

    path: str
    free: int


@dataclass(frozen=True)
class Problem:
    """Something that would fail."""

    what: str
    why: str
    #: The command, or else the step, that mends it.
    help: str

    def __str__(self) -> str:
        return f"{self.what}\n  why: {self.why}\n help: {self.help}"


@dataclass(frozen=True)
class Imports:
    """What came of importing a bundle's packages in a process of its own."""

    good: tuple[str, ...]
    #: Module, and the exception's type and text.
    failed: tuple[tuple[str, ...], ...]
    #: Whether torch sees a GPU; None where it was not imported.
    cuda: bool | None


@dataclass(frozen=True)
class Diagnosis:
    """What `mgpack.doctor` returns. True where nothing would fail."""

    python: Interpreter
    packages: tuple[PackageState, ...]
    #: Families of MGM whose packages are all there.
    families_served: tuple[str, ...]
    devices: Machine
    memory: tuple[Room, ...]
    disks: tuple[Disk, ...]
    findings: tuple[Problem, ...]
    imports: Imports | None
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True where nothing would fail."""
        return not self.findings

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.findings)) or "nothing was found that would fail"


@dataclass(frozen=True)
class TensorFigures:
    """One tensor, before and after."""

    name: str
    #: The part of the model that it belongs to.
    role: str
    #: Its module with `*` for the numbers of layer and expert.
    kind: str
    quantized: bool
    source_bytes: int
    #: Bytes in the bundle, scales included.
    bytes: int
    values: int
    #: Values that are another number in the bundle.
    changed: int
    #: Values that became 0.
    flushed: int
    #: Finite values that are not finite in the bundle.
    overflowed: int
    #: NaN and infinities of the checkpoint.
    non_finite: int
    #: Signal to noise in dB; None where nothing differs that can be measured.
    sqnr_db: float | None
    max_abs_error: float
    cosine: float | None


@dataclass(frozen=True)
class OtherTensor:
    """A tensor that is compared byte for byte."""

    name: str
    dtype: str
    bytes: int
    equal: bool


@dataclass(frozen=True)
class Histogram:
    """How often values occur, before and after, in bins that part `[-limit, limit]` evenly."""

    name: str
    limit: float
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """What `mgpack.report` returns: how far a bundle is from its checkpoint."""

    #: The bundle's name.
    bundle: str
    id: str
    scheme: str
    #: Hub id and commit of the checkpoint; None where it was a folder elsewhere.
    source: str | None
    #: The command that compares them.
    command: str | None
    tensors: tuple[TensorFigures, ...]
    others: tuple[OtherTensor, ...]
    #: Tensors of the checkpoint that the bundle does not have.
    absent: tuple[str, ...]
    #: Values of the tensors with the lowest SQNR, lowest first.
    worst: tuple[Histogram, ...]
    profiles: tuple[Profile, ...]


@dataclass(frozen=True)
class CheckpointFile:
    """A file of weights."""

    path: str
    bytes: int
    #: Its digest, where the hub's cache names the file by it.
    sha256: str | None
    metadata: dict[str, str] | None


@dataclass(frozen=True)
class CheckpointTensor:
    """A tensor of a checkpoint."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    #: None where it is decoded from others.
    file: str | None
    #: Where it begins in the file.
    offset: int | None
    #: None where it is stored as it is.
    decoding: Decoding | None


@dataclass(frozen=True)
class Checkpoint:
    """What `mgpack.inspect` returns of what is no bundle."""

    files: tuple[CheckpointFile, ...]
    tensors: tuple[CheckpointTensor, ...]


@dataclass(frozen=True)
class ReleasedFile:
    """A file of a release."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Released:
    """What `mgpack.release` returns."""

    #: The bundle's id.
    id: str
    files: tuple[ReleasedFile, ...]


def read(kind: type[T], value: Any) -> T:
    """A dataclass from the JSON of its fields."""
    return cast(T, _read(kind, value))


@functools.lru_cache(maxsize=None)
def _fields(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _read(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        given = {name: _read(hint, value[name]) for name, hint in _fields(kind).items()}
        if "id" in given:
            given["id"] = f"sha256:{given['id']}"
        return cast(Any, kind)(**given)
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return tuple(_read(inside[0], one) for one in value)
    if origin is dict:
        return {key: _read(inside[1], one) for key, one in value.items()}
    if origin in (Union, types.UnionType) and type(None) in inside:
        if value is None:
            return None
        (one,) = (each for each in inside if each is not type(None)) if len(inside) == 2 else (Any,)
        return _read(one, value)
    return value
