"""Opens, checks, converts and loads mgpack bundles.

A bundle is a folder that holds a model and everything its loader reads, sealed so that every byte can be checked.

    bundle = mgpack.open("MGM-7B-int8")      # its manifest; tensors as numpy arrays without a copy
    bundle.verify()                          # every byte against the seal
    tokenizer, model, image_processor, context_len = mgpack.load("MGM-7B-int8")

Importing mgpack imports neither torch nor transformers.
"""

from ._mgpack import __version__
from .bundle import Bundle, Finding, Report, open, verify
from .conversion import convert
from .errors import (
    BundleError,
    CheckpointError,
    ConversionError,
    DeviceMapError,
    Error,
    LoadError,
    MissingPackageError,
    VersionError,
)
from .loading import load

__all__ = [
    "Bundle",
    "BundleError",
    "CheckpointError",
    "ConversionError",
    "DeviceMapError",
    "Error",
    "Finding",
    "LoadError",
    "MissingPackageError",
    "Report",
    "VersionError",
    "__version__",
    "convert",
    "load",
    "open",
    "verify",
]
