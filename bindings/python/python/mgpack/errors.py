"""The exceptions of mgpack.

Each answers four questions: what happened (the message), where (`path`), why, and what to do (`help`). `str()` gives
all four. Ctrl-C is `KeyboardInterrupt`, and wrong arguments are `ValueError`, as everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bundle import Finding
    from .versions import Mismatch


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
    """The model does not fit on the devices. `why` tells the shortfall."""


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
