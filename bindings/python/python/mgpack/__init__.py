"""Opens, checks, converts and loads mgpack bundles.

A bundle is a folder that holds a model and everything its loader reads, sealed so that every byte can be checked.

    bundle = mgpack.open("MGM-7B-int8")      # its manifest; tensors as numpy arrays without a copy
    assert bundle.verify()                   # every byte against the seal
    tokenizer, model, image_processor, context_len = mgpack.load("MGM-7B-int8")

Importing mgpack imports neither torch nor transformers.
"""

from ._mgpack import __version__
from .bundle import Bundle, Report, verify
from .bundle import open as open
from .conversion import Converted, convert
from .errors import (
    BundleError,
    CheckpointError,
    ConversionError,
    DeviceMapError,
    Error,
    Finding,
    LoadError,
    Mismatch,
    MissingPackageError,
    Notice,
    VersionError,
)
from .loading import Loaded, load
from .tensors import Tensors

# Without `open`: `from mgpack import *` must not put it in the place of Python's own. It is `mgpack.open`.
__all__ = [
    "Bundle",
    "BundleError",
    "CheckpointError",
    "ConversionError",
    "Converted",
    "DeviceMapError",
    "Error",
    "Finding",
    "LoadError",
    "Loaded",
    "Mismatch",
    "MissingPackageError",
    "Notice",
    "Report",
    "Tensors",
    "VersionError",
    "__version__",
    "convert",
    "load",
    "verify",
]
