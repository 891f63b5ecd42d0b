"""The compiled part of mgpack. Internal: use the functions of `mgpack`."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike

__version__: str
#: Devices that a memory table has at most.
MAX_DEVICES: int
#: Words for how weights are stored.
SCHEMES: list[str]
#: Instruction sets of this CPU that kernels are for.
INSTRUCTION_SETS: list[str]
#: Files of which one at least is there where a tokenizer is.
TOKENIZER_FILES: list[str]
#: Files of which one at least is there where images, sound or video are prepared.
PROCESSOR_FILES: list[str]

def run_command(args: Sequence[str]) -> int: ...
def read_manifest(bundle: str | PathLike[str]) -> tuple[str, str]: ...
def class_of(config: str | None, files: set[str]) -> str: ...
def parse_size(text: str) -> int | None: ...
def parse_memory_table(text: str) -> dict[str, int]: ...
def verify_bundle(
    bundle: str | PathLike[str],
    full: bool,
    id: str | None = None,
    threads: int | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> str: ...
def convert_checkpoint(
    call: str, notice: Callable[[str], object], progress: Callable[[str, int, int], object] | None = None
) -> str: ...
def run_verb(
    verb: str, call: str, notice: Callable[[str], object], progress: Callable[[str, int, int], object] | None = None
) -> str: ...
def place(
    bundle: str | PathLike[str],
    gpus: Mapping[str, int],
    host: int | None,
    *,
    context: int | None,
    batch: int | None,
    reserve: int | None,
    allow_cpu: int | None,
    attention: str | None,
) -> str: ...
def host_memory() -> int | None: ...
def selected_attention(torch: str) -> str: ...
def are_served(requirements: str, installed: Mapping[str, str], bare: Sequence[str]) -> list[bool]: ...
