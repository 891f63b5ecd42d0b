"""Opens, checks, converts and loads mgpack bundles.

A bundle is a folder that holds a model and everything its loader reads, sealed so that every byte can be checked.

    bundle = mgpack.open("MGM-7B-int8")      # its manifest; tensors as numpy arrays without a copy
    assert bundle.verify()                   # every byte against the seal
    tokenizer, model, image_processor, context_len = mgpack.load("MGM-7B-int8")
    mgpack.convert("34b", scheme="int8", gpus="2x24GiB")     # plan, map, pull, doctor, report, inspect, release likewise

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
    FileError,
    Finding,
    HubError,
    LoadError,
    Mismatch,
    MissingPackageError,
    Notice,
    VersionError,
)
from .loading import Loaded, load
from .results import Checkpoint, Comparison, Diagnosis, Maps, Plan, Pullable, Pulled, Released
from .tensors import Tensors
from .verbs import doctor, inspect, plan, pull, release, report
from .verbs import map as map

# Without `open` and `map`: `from mgpack import *` must not put them in the place of Python's own.
__all__ = [
    "Bundle",
    "BundleError",
    "Checkpoint",
    "CheckpointError",
    "Comparison",
    "ConversionError",
    "Converted",
    "DeviceMapError",
    "Diagnosis",
    "Error",
    "FileError",
    "Finding",
    "HubError",
    "LoadError",
    "Loaded",
    "Maps",
    "Mismatch",
    "MissingPackageError",
    "Notice",
    "Plan",
    "Pullable",
    "Pulled",
    "Released",
    "Report",
    "Tensors",
    "VersionError",
    "__version__",
    "convert",
    "doctor",
    "inspect",
    "load",
    "plan",
    "pull",
    "release",
    "report",
    "verify",
]
