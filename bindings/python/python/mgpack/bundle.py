"""A bundle as Python sees it: its manifest, its tensors, its device map, and the check of its bytes."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy

from . import _mgpack
from .errors import BundleError

#: Called with the name of a stage, the bytes done and the bytes in all.
Progress = Callable[[str, int, int], object]

#: Files up to this size are hashed by every check; larger ones (weights) by a full one.
SMALL_FILE = 16 << 20


@dataclass(frozen=True)
class Finding:
    """Something that is not as the seal says."""

    #: The file, as the manifest or the folder names it.
    path: str
    #: `missing`, `extra`, `size`, `digest`, `not_a_file`, `unreadable`, `header`, `manifest`, `id` or `archive`.
    kind: str
    #: What the seal says.
    expected: str
    #: What is there.
    found: str

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class Report:
    """What a check found out."""

    #: The bundle's id, `sha256:` and 64 digits.
    id: str | None
    #: The bundle's name, by its manifest.
    name: str | None
    #: Files checked.
    files: int
    #: Bytes hashed.
    bytes: int
    #: All differences, sorted by path.
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """True where nothing differs."""
        return not self.findings


class Bundle:
    """A bundle in a folder. Opening it reads the manifest and nothing else."""

    #: The folder.
    path: Path
    #: The manifest, mgpack.json, as formats/bundle.md describes it.
    manifest: dict[str, Any]
    #: `sha256:` and the digest of the manifest.
    id: str

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        text, self.id = _mgpack.read_manifest(self.path)
        self.manifest = json.loads(text)

    @property
    def name(self) -> str:
        """The bundle's name. MGM's loader chooses the model's class by it; the folder may have another."""
        return self.manifest["model"]["name"]

    @property
    def tensors(self) -> Tensors:
        """The tensors of the shards by name, as read-only numpy arrays over the mapped files."""
        return Tensors(self)

    @property
    def device_map(self) -> dict[str, int | str]:
        """Module → device, as `from_pretrained(device_map=…)` takes it."""
        maps = self.manifest["device_maps"]
        return dict(maps[0]["map"]) if maps else {}

    def verify(
        self, *, full: bool = True, threads: int | None = None, progress: Progress | None = None
    ) -> Report:
        """Checks the bundle against its seal: see `mgpack.verify`."""
        return verify(self.path, full=full, threads=threads, progress=progress)

    def __repr__(self) -> str:
        return f"<mgpack.Bundle {self.name} {self.id[:19]} at {str(self.path)!r}>"


def open(path: str | os.PathLike[str]) -> Bundle:
    """Opens the bundle in the folder `path`. Reads its manifest; checks no other file.

    Raises `BundleError` where there is no manifest, or none that this version reads.
    """
    return Bundle(path)


def verify(
    path: str | os.PathLike[str],
    *,
    full: bool = True,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Checks a bundle, a folder or a tar made by `mgpack release`, against its seal. Returns every difference.

    `full=False` compares sizes, headers and the manifest only, and the digests of small files of a folder.
    Raises `BundleError` where there is no manifest to compare with.
    """
    report = json.loads(_mgpack.verify_bundle(path, full, threads, progress))
    findings = {Finding(**finding) for finding in report["findings"]}
    if not full and report["name"] is not None and os.path.isdir(path):
        findings |= _small_file_findings(Bundle(path), {finding.path for finding in findings})
    ordered = sorted(findings, key=lambda finding: (finding.path, finding.kind, finding.expected, finding.found))
    identity = report["id"] and f"sha256:{report['id']}"
    return Report(identity, report["name"], report["files"], report["bytes"], tuple(ordered))


def require_whole(bundle: Bundle, *, full: bool, progress: Progress | None = None) -> None:
    """Raises `BundleError` with the name of the first file that differs, if any does."""
    report = bundle.verify(full=full, progress=progress)
    if report.ok:
        return
    first, more = report.findings[0], len(report.findings) - 1
    raise BundleError(
        f"the bundle is not what was sealed: {first.path} differs" + (f", and {more} more" if more else ""),
        path=str(bundle.path / first.path),
        why=f"expected {first.expected}, found {first.found}",
        help=f"fetch or convert it again; `mgpack verify {bundle.path}` lists every difference",
        findings=report.findings,
    )


def _small_file_findings(bundle: Bundle, known: set[str]) -> set[Finding]:
    """Digests of the files that a loader reads whole: configuration, tokenizer and the like."""
    findings = set()
    for file in bundle.manifest["files"]:
        path = file["path"]
        if file["size"] > SMALL_FILE or path in known:
            continue
        try:
            found = hashlib.sha256((bundle.path / path).read_bytes()).hexdigest()
        except OSError as error:
            findings.add(Finding(path, "unreadable", "a readable file", str(error)))
            continue
        if found != file["sha256"]:
            findings.add(Finding(path, "digest", f"sha256 {file['sha256']}", f"sha256 {found}"))
    return findings


class Tensors(Mapping[str, numpy.ndarray]):
    """The tensors of a bundle by name. An array is made when it is asked for, over the mapped shard: no copy.

    Types that numpy lacks (bfloat16, 8-bit floats) are those of ml_dtypes where it is installed; elsewhere the bits
    come as unsigned integers of the same width. A shard is mapped only if it has its length; one that is cut short
    *while* it is mapped ends the process with SIGBUS, as with any mapping.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._records = {record["name"]: record for record in bundle.manifest["tensors"]}
        self._sizes = {file["path"]: file["size"] for file in bundle.manifest["files"]}
        self._maps: dict[str, mmap.mmap] = {}

    def __getitem__(self, name: str) -> numpy.ndarray:
        record = self._records[name]
        shard = record["shard"]
        dtype = _numpy_type(record["dtype"])
        begin, end = record["range"]
        count = 1
        for length in record["shape"]:
            count *= length
        if dtype is None or not 0 <= begin <= end <= self._sizes.get(shard, 0) or count * dtype.itemsize != end - begin:
            raise BundleError(
                f"tensor `{name}` cannot be a numpy array",
                path=str(self._bundle.path / shard),
                why=f"{record['dtype']} {record['shape']} at {begin}..{end}",
            )
        return numpy.ndarray(record["shape"], dtype, buffer=self._map(shard), offset=begin)

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def record(self, name: str) -> dict[str, Any]:
        """What the manifest says of a tensor: kind, type, shape, shard, range, source, arithmetic, error."""
        return self._records[name]

    def _map(self, shard: str) -> mmap.mmap:
        if shard not in self._maps:
            path, size = self._bundle.path / shard, self._sizes[shard]
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    found = os.fstat(descriptor).st_size
                    if found == size:
                        self._maps[shard] = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise BundleError(f"{shard} cannot be read", path=str(path), why=str(error)) from error
            if found != size:
                finding = Finding(shard, "size", f"{size} bytes", f"{found} bytes")
                raise BundleError(
                    f"{shard} has another length than was sealed",
                    path=str(path),
                    why=f"expected {finding.expected}, found {finding.found}",
                    findings=(finding,),
                )
        return self._maps[shard]


#: safetensors' types by numpy's names.
_TYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
}
#: Types by ml_dtypes' names, and what holds their bits without it.
_ML_TYPES: dict[str, tuple[str, Literal["uint16", "uint8"]]] = {
    "BF16": ("bfloat16", "uint16"),
    "F8_E4M3": ("float8_e4m3fn", "uint8"),
    "F8_E5M2": ("float8_e5m2", "uint8"),
    "F8_E8M0": ("float8_e8m0fnu", "uint8"),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", "uint8"),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", "uint8"),
}


def _numpy_type(name: str) -> numpy.dtype[Any] | None:
    """The numpy type of a safetensors type, little-endian; None for types of less than a byte."""
    if name in _TYPES:
        return numpy.dtype(_TYPES[name]).newbyteorder("<")
    if name not in _ML_TYPES:
        return None
    own, bits = _ML_TYPES[name]
    try:
        import ml_dtypes
    except ImportError:
        return numpy.dtype(bits).newbyteorder("<")
    found = getattr(ml_dtypes, own, None)
    return numpy.dtype(bits if found is None else found)
