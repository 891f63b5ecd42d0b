"""A bundle as Python sees it: its manifest, its tensors, its device map, and the check of its bytes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from . import _mgpack, arguments
from .arguments import AnyPath, Progress
from .errors import BundleError, Finding
from .tensors import Tensors, counted

#: Findings that the text of a report lists.
LISTED = 20


@dataclass(frozen=True)
class Report:
    """What a check found out. It is true where the bundle is whole: `assert mgpack.verify(path)`."""

    #: What was checked.
    path: str
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
    #: What is no fault of the bundle and yet worth knowing: that MGM's own loader needs the folder to have another name.
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True where nothing differs."""
        return not self.findings

    def __bool__(self) -> bool:
        return self.ok

    def raise_for_findings(self) -> None:
        """Raises `BundleError` with all findings and the name of the first file that differs, if any does."""
        if self.ok:
            return
        first, more = self.findings[0], len(self.findings) - 1
        is_folder = os.path.isdir(self.path)
        raise BundleError(
            f"the bundle is not what was sealed: {first.path} differs" + (f", and {more} more" if more else ""),
            path=os.path.join(self.path, first.path) if is_folder else self.path,
            why=f"expected {first.expected}, found {first.found}",
            help=f"fetch or convert it again; `mgpack.verify({self.path!r})` lists every difference",
            findings=self.findings,
        )

    def __str__(self) -> str:
        head = f"{self.name or self.path}: {counted(self.files, 'file')}, {_bytes(self.bytes)} checked, "
        if self.ok:
            return f"{head}all as sealed"
        listed = [f"  {finding}" for finding in self.findings[:LISTED]]
        if more := len(self.findings) - len(listed):
            listed.append(f"  and {more} more")
        return "\n".join([f"{head}{counted(len(self.findings), 'finding')}", *listed])


class Bundle:
    """A bundle in a folder. Opening it reads the manifest and nothing else.

    It is a path (`os.PathLike`), and a context manager that ends the mappings of its tensors.
    """

    #: The folder.
    path: Path
    #: The manifest, mgpack.json, as formats/bundle.md describes it.
    manifest: dict[str, Any]
    #: `sha256:` and the digest of the manifest.
    id: str

    def __init__(self, path: AnyPath) -> None:
        self.path = Path(arguments.path("path", path))
        text, self.id = _mgpack.read_manifest(self.path)
        self.manifest = json.loads(text)
        self._tensors = Tensors(self.path, self.manifest)

    @property
    def name(self) -> str:
        """The bundle's name. MGM's loader chooses the model's class by it; the folder may have another."""
        return str(self.manifest["model"]["name"])

    @property
    def tensors(self) -> Tensors:
        """The tensors of the shards by name, as read-only numpy arrays over the mapped files."""
        return self._tensors

    @property
    def device_map(self) -> dict[str, int | str]:
        """Module → device, as `from_pretrained(device_map=…)` takes it."""
        maps = self.manifest["device_maps"]
        return dict(maps[0]["map"]) if maps else {}

    def verify(
        self,
        *,
        full: bool = True,
        id: str | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Checks the bundle against its seal: see `mgpack.verify`."""
        return verify(self.path, full=full, id=id, threads=threads, progress=progress)

    def close(self) -> None:
        """Ends the mappings of the shards: no tensor can be read from now on; all else stays.

        Arrays that were handed out stay valid: the mapping of a shard ends with the last of them.
        """
        self._tensors.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        # Loaders take a path by `str()`.
        return str(self.path)

    def __repr__(self) -> str:
        totals = self.manifest["totals"]
        scheme = self.manifest["scheme"]["name"]
        return (
            f"<mgpack.{type(self).__name__} {self.name}: {scheme}, {counted(totals['tensors'], 'tensor')}, "
            f"{_bytes(totals['file_bytes'])}, {self.id[:19]}…, at {str(self.path)!r}>"
        )


def open(path: AnyPath) -> Bundle:
    """Opens the bundle in the folder `path`. Reads its manifest; checks no other file.

    Raises `BundleError` where there is no manifest, or none that this version reads.
    """
    return Bundle(path)


def verify(
    path: AnyPath,
    *,
    full: bool = True,
    id: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Checks a bundle, a folder or a tar made by `mgpack release`, against its seal. Returns every difference.

    The report is true where there is none: `assert mgpack.verify(path)`; `raise_for_findings()` raises otherwise.

    path: a folder, a tar, or what `mgpack.open` or `mgpack.convert` returned.
    full: False compares sizes, headers and the manifest only, and the digests of small files of a folder.
    id: the id that the bundle must have, as `convert` and `release` returned it: `sha256:` and 64 digits.
    threads: how many; None and -1 are one for each core.

    Raises `BundleError` where there is no manifest to compare with, or `FileError` where the system cannot read a file.
    """
    path = arguments.path("path", path)
    full = arguments.flag("full", full)
    progress = arguments.function("progress", progress)
    id = None if id is None else arguments.identity("id", id)
    report = json.loads(_mgpack.verify_bundle(path, full, id, arguments.threads(threads), progress))
    findings = tuple(Finding(**finding) for finding in report["findings"])
    identity = report["id"] and f"sha256:{report['id']}"
    return Report(path, identity, report["name"], report["files"], report["bytes"], findings, tuple(report["notes"]))


def _bytes(count: int) -> str:
    """A size for people, in the units of `mgpack`."""
    size, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return counted(count, "byte") if unit == "bytes" else f"{size:.2f} {unit}"
