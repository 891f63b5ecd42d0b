"""Compares the versions in a bundle's manifest with what is installed, before anything heavy is imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Callable

from . import _mgpack
from .bundle import Bundle
from .errors import Mismatch, VersionError

#: What is installed in the place of a package whose functions are not called.
STAND_IN = "a stand-in"


def installed_version(package: str) -> str | None:
    """The version of an installed package, or of the interpreter for `python`.

    `STAND_IN` for deepspeed where a module without a version is in its place: MGM imports it and calls nothing of it.
    """
    if package == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package == "deepspeed" and importlib.util.find_spec(package) is not None:
            return STAND_IN
        return None


def mismatches(
    bundle: Bundle, installed: Callable[[str], str | None] = installed_version
) -> tuple[Mismatch, ...]:
    """The requirements of the bundle that this environment does not meet."""
    needs = bundle.manifest["requirements"]
    found = {need["package"]: installed(need["package"]) for need in needs}
    versions = {package: version for package, version in found.items() if version is not None and version != STAND_IN}
    bare = [package for package, version in found.items() if version == STAND_IN]
    served = _mgpack.are_served(json.dumps(needs), versions, bare)
    return tuple(
        Mismatch(need["package"], found[need["package"]], need["range"], need["pin"], need["reason"])
        for need, is_served in zip(needs, served)
        if not is_served
    )


def require_versions(bundle: Bundle, installed: Callable[[str], str | None] = installed_version) -> None:
    """Raises `VersionError` with the line that mends it, unless every requirement is met."""
    if found := mismatches(bundle, installed):
        raise version_error(bundle, found)


def version_error(bundle: Bundle, found: tuple[Mismatch, ...]) -> VersionError:
    """The exception for `found`: which packages, why, and the exact line that installs the right ones."""
    packages = [f"{miss.package}=={miss.pin}" for miss in found if miss.package != "python"]
    line = f"pip install {' '.join(packages)}"
    python = next((miss for miss in found if miss.package == "python"), None)
    if python is not None:
        line = f"in an environment of Python {python.pin}: pip install -r {bundle.path / 'requirements.txt'}"
    return VersionError(
        f"{bundle.name} does not load with the versions that are installed",
        path=str(bundle.path),
        why="\n       ".join(map(str, found)),
        help=line,
        mismatches=found,
    )
