"""The tensors of a bundle as numpy arrays over the mapped shards."""

from __future__ import annotations

import importlib
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy
from numpy.typing import NDArray

from .errors import BundleError, Finding


def counted(count: int, noun: str) -> str:
    """A count with its noun: `1 file`, `2 files`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


class Tensors(Mapping[str, NDArray[Any]]):
    """The tensors of a bundle by name. An array is made when it is asked for, over the mapped shard: no copy.

    Types that numpy lacks (bfloat16, 8-bit floats) are those of ml_dtypes where it is installed; elsewhere the bits
    come as unsigned integers of the same width. A shard is mapped only if it has its length; one that is cut short
    *while* it is mapped ends the process with SIGBUS, as with any mapping.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self._folder = folder
        self._name = manifest["model"]["name"]
        self._records: dict[str, dict[str, Any]] = {record["name"]: record for record in manifest["tensors"]}
        self._sizes: dict[str, int] = {file["path"]: file["size"] for file in manifest["files"]}
        self._maps: dict[str, mmap.mmap] = {}
        self._is_closed = False

    def __getitem__(self, name: str) -> NDArray[Any]:
        if self._is_closed:
            raise ValueError(f"bundle {self._name} is closed: open it again with mgpack.open to read its tensors")
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
                path=str(self._folder / shard),
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

    def close(self) -> None:
        """Ends the mappings. One that an array still uses ends with the last of its arrays."""
        self._is_closed = True
        # Not `mmap.close()`: it does not see that numpy's arrays lie over it, and what they point to would be gone.
        self._maps.clear()

    def __repr__(self) -> str:
        shards = len({record["shard"] for record in self._records.values()})
        return f"<mgpack.Tensors of {self._name}: {len(self)} in {counted(shards, 'shard')}>"

    def _map(self, shard: str) -> mmap.mmap:
        if shard not in self._maps:
            path, size = self._folder / shard, self._sizes[shard]
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
                finding = Finding(shard, "size", counted(size, "byte"), counted(found, "byte"))
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
        ml_dtypes = importlib.import_module("ml_dtypes")
    except ImportError:
        return numpy.dtype(bits).newbyteorder("<")
    found = getattr(ml_dtypes, own, None)
    return numpy.dtype(bits if found is None else found)
