"""The exceptions of mgpack.

Each answers four questions: what happened (the message), where (`path`), why, and what to do (`help`). `str()` gives
all four. Ctrl-C is `KeyboardInterrupt`, and wrong arguments are `TypeError` or `ValueError`, as everywhere. What stops
nothing is a warning, `Notice`.
"""

from __future__ import annotations

from dataclasses import dataclass


class Notice(UserWarning):
    """Something that a caller should know, and that stops nothing. Its text is one sentence."""


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
class Mismatch:
    """A package whose installed version is not in the range that the bundle loads with."""

    #: Its name on the package index, or `python`.
    package: str
    #: The installed version, or None.
    installed: str | None
    #: The range that works (PEP 440).
    range: str
    #: The version to install.
    pin: str
    #: Why.
    reason: str

    def __str__(self) -> str:
        there = f"{self.package} {self.installed}" if self.installed else f"no {self.package}"
        return f"{there} is installed, {self.range} is needed ({self.reason})"


class Error(Exception):
    """Anything that mgpack raises of its own."""

    #: What happened, in one sentence.
    message: str
    #: The file or folder concerned.
    path: str | None
    #: What was found, and why it cannot be accepted.
    why: str | None
    #: What to do next.
    help: str | None

    def __init__(
        self, message: str, *, path: str | None = None, why: str | None = None, help: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.path, self.why, self.help = message, path, why, help

    def __str__(self) -> str:
        lines = [("where", self.path), ("why", self.why), ("help", self.help)]
        return "\n".join([self.message, *(f"{label:>5}: {text}" for label, text in lines if text)])


class BundleError(Error):
    """A path is no bundle, or a bundle is not what its seal says. `path` is the first file that differs."""

    #: Every difference, sorted by path; empty where there was no manifest to compare with.
    findings: tuple[Finding, ...]

    def __init__(self, message: str, *, findings: tuple[Finding, ...] = (), **lines: str | None) -> None:
        super().__init__(message, **lines)
        self.findings = findings


class CheckpointError(Error):
    """A checkpoint or a tower is not there, or is not what its files claim."""


class ConversionError(Error):
    """A conversion was refused or could not be finished. Nothing half-made is left."""


class DeviceMapError(Error):
    """The model does not fit on the devices. `why` has the shortfall."""


class FileError(Error, OSError):
    """The system could not read or write a file, or start a thread. `errno` is its number, or None."""

    def __init__(self, message: str, *, errno: int | None = None, **lines: str | None) -> None:
        super().__init__(message, **lines)
        self.errno = errno


class HubError(Error):
    """The Hugging Face hub did not send what was asked for. What was downloaded stays."""


class VersionError(Error):
    """The installed packages are not those that the bundle loads with. `help` has the line that installs them."""

    #: The packages that differ.
    mismatches: tuple[Mismatch, ...]

    def __init__(self, message: str, *, mismatches: tuple[Mismatch, ...] = (), **lines: str | None) -> None:
        super().__init__(message, **lines)
        self.mismatches = mismatches


class LoadError(Error):
    """This environment cannot load the bundle, whatever its versions."""


class MissingPackageError(LoadError, ImportError):
    """A package that the loader itself needs is not installed."""
