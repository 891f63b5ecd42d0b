"""Reads what callers give.

Each function returns a plain value of Python's own types, or raises `TypeError` or `ValueError` with one sentence that
names the argument and says what it may be.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, Literal, Protocol, TypeVar, Union, cast, get_args

import numpy

from . import _mgpack

#: A path as `os` takes them.
AnyPath = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
#: Bytes, or a text such as "2GiB".
Size = Union[int, str]
#: Called with the name of a stage, the bytes done and the bytes in all.
Progress = Callable[[str, int, int], object]


class TorchDevice(Protocol):
    """What is read of a `torch.device`; torch itself is not needed."""

    @property
    def type(self) -> str: ...
    @property
    def index(self) -> Any: ...


#: One device: `cuda` (every GPU that torch sees), `cpu`, a GPU as its number or `cuda:N`, or a `torch.device`.
Device = Union[str, int, TorchDevice]
#: Bytes for each device: `{0: "24GiB", 1: "24GiB"}`, or a text such as `2x24GiB` or `0=22GiB,1=24GiB`.
MemoryTable = Union[str, Mapping[Any, Size]]
#: Memory tables, each for a device map of its own. Not any iterable: a table is one of its keys.
MemoryTables = Union[MemoryTable, Sequence[MemoryTable], Iterator[MemoryTable]]

#: The largest number that is passed on.
MOST = (1 << 63) - 1
#: The most threads, as for the command.
MOST_THREADS = (1 << 16) - 1

T = TypeVar("T")


def path(name: str, value: AnyPath) -> str:
    """A path as text; bytes are decoded as the file system's."""
    try:
        read = os.fsdecode(value)
    except TypeError:
        raise TypeError(f"{name} is a path (str, bytes or os.PathLike), not {shown(value)}") from None
    if not read or "\0" in read:
        raise ValueError(f"{name} is a path that is not empty and holds no NUL, not {shown(value)}")
    return read


def text(name: str, value: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is a str, not {shown(value)}")
    if not value or not _is_utf8(value):
        raise ValueError(f"{name} is a text that is not empty and can be written as UTF-8, not {shown(value)}")
    return str(value)


def texts(name: str, value: str | Iterable[str] | None) -> list[str]:
    """Texts; one text is a list of one. A set is sorted: its order is another one in every process."""
    if value is None:
        return []
    if isinstance(value, str):
        return [text(name, value)]
    several = None if isinstance(value, Mapping) else _several(value)
    if several is None:
        raise TypeError(f"{name} is a str or several of them, not {shown(value)}")
    read = [text(f"each of {name}", one) for one in several]
    return sorted(read) if isinstance(value, Set) else read


def choice(name: str, value: T, literal: Any) -> T:
    """One of the words of a `Literal`."""
    one_of(name, value, get_args(literal))
    return value


def one_of(name: str, value: object, words: Sequence[str]) -> str:
    """One of these words."""
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name} is {_one_of(words)}, not {shown(value)}")
    return value


def identity(name: str, value: str) -> str:
    """A bundle's id."""
    if not re.fullmatch(r"(sha256:)?[0-9a-f]{64}", text(name, value)):
        raise ValueError(f"{name} is 'sha256:' and 64 lower-case hexadecimal digits, not {shown(value)}")
    return value


def flag(name: str, value: bool) -> bool:
    """True or False. Nothing else: `"no"` is true to Python."""
    if not isinstance(value, (bool, numpy.bool_)):
        raise TypeError(f"{name} is True or False, not {shown(value)}")
    return bool(value)


def function(name: str, value: Progress | None) -> Progress | None:
    """Something that can be called, or None."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} is a function of (stage, bytes done, bytes in all) or None, not {shown(value)}")
    return value


def count(name: str, value: int, unit: str) -> int:
    """A whole number from 1."""
    number = _whole(value)
    what = f"{name} is a whole number of {unit} from 1"
    if number is None:
        raise TypeError(f"{what}, not {shown(value)}")
    if not 1 <= number <= MOST:
        raise ValueError(f"{what} to 2**63 - 1, not {shown(value)}")
    return number


def threads(value: int | None) -> int | None:
    """How many threads; None and -1 are one for each core."""
    if value is None:
        return None
    number = _whole(value)
    what = f"threads is a whole number from 1 to {MOST_THREADS}, or None or -1 for one thread a core"
    if number is None:
        raise TypeError(f"{what}, not {shown(value)}")
    if number == -1:
        return None
    if not 1 <= number <= MOST_THREADS:
        raise ValueError(f"{what}, not {shown(value)}")
    return number


def size(name: str, value: Size, *, least: int = 1, with_unit: bool = False) -> int:
    """Bytes, from a number or a text. `least`: 0 where none is a size too. `with_unit`: every text must have one."""
    what = f'{name} is a number of bytes, or a number with a unit such as "2GiB" or "512MiB"'
    if isinstance(value, str):
        plain = value.isascii() and value.isdecimal() and not with_unit
        # Python itself does not read numbers of more than 4,300 digits.
        number = (int(value) if len(value) < 20 else MOST + 1) if plain else _mgpack.parse_size(text(name, value))
        if number is None:
            raise ValueError(f"{what}, not {shown(value)}")
    else:
        number = _whole(value)
        if number is None:
            raise TypeError(f"{what}, not {shown(value)}")
    if not least <= number <= MOST:
        raise ValueError(f"{what}, from {least} to 2**63 - 1 bytes, not {shown(value)}")
    return number


def memory_table(name: str, value: MemoryTable) -> dict[str, int]:
    """Bytes by device: `"0"`, `"1"` and so on, and `"cpu"`."""
    what = f'{name} is bytes for each device, such as {{0: "24GiB", 1: "24GiB"}} or "2x24GiB"'
    if isinstance(value, str):
        try:
            table = dict(_mgpack.parse_memory_table(text(name, value)))
        except ValueError as error:
            raise ValueError(f"{what}, not {shown(value)}: {error}") from None
        return _with_a_gpu(table, what, value)
    if not isinstance(value, Mapping):
        raise TypeError(f"{what}, not {shown(value)}")
    table = {}
    for key, given in value.items():
        read = _key(name, key)
        if read in table:
            raise ValueError(f"{name} names device {read} twice")
        table[read] = size(f"{name}[{shown(key)}]", given, with_unit=True)
    return _with_a_gpu(table, what, value)


def memory_tables(name: str, value: MemoryTables | None) -> list[str | dict[str, int]]:
    """Memory tables, each for a device map of its own; `auto` is what this machine has. A text is read, and stays one."""
    if value is None:
        return []
    is_one = isinstance(value, (str, Mapping))
    several: Iterator[Any] | None = iter([value]) if is_one else None if isinstance(value, Set) else _several(value)
    if several is None:
        raise TypeError(
            f'{name} is "auto", bytes for each GPU such as "2x24GiB" or {{0: "24GiB"}}, or several of these for a device '
            f"map each, not {shown(value)}"
        )
    each = name if is_one else f"each of {name}"
    tables = [(one, {} if one == "auto" else memory_table(each, one)) for one in several]
    return [given if isinstance(given, str) else read for given, read in tables]


def host_memory(tables: Iterable[str | dict[str, int]], allow_cpu: int | None) -> int | None:
    """The bytes of host memory that `allow_cpu` or the tables give to layers."""
    read = [_mgpack.parse_memory_table(one) if isinstance(one, str) else one for one in tables if one != "auto"]
    given = {table["cpu"] for table in read if "cpu" in table}
    if allow_cpu is not None:
        given.add(allow_cpu)
    if len(given) > 1:
        sizes = " and ".join(str(one) for one in sorted(given))
        raise ValueError(f"allow_cpu and 'cpu' in memory tables are one number of bytes, not {sizes}")
    return next(iter(given), None)


def device(name: str, value: Device, also: str = "") -> str:
    """`cuda`, `cpu`, or `cuda:N`. `also`: what else this argument may be, for the sentence."""
    what = f"{name} is {also}'cuda', 'cpu', a GPU as its number or 'cuda:N', or a torch.device"
    if isinstance(value, str):
        word = str(value)
    elif (number := _whole(value)) is not None:
        word = f"cuda:{number}"
    elif isinstance(kind := getattr(value, "type", None), str):
        index = getattr(value, "index", None)
        word = kind if index is None else f"{kind}:{index}"
    else:
        raise TypeError(f"{what}, not {shown(value)}")
    if word == "cpu:0":
        return "cpu"
    if word not in ("cuda", "cpu") and not re.fullmatch(r"cuda:(0|[1-9][0-9]{0,2})", word):
        raise ValueError(f"{what}, not {shown(value)}")
    return word


def shown(value: object) -> str:
    """A value as a message shows it: short, on one line."""
    read = " ".join(repr(value).split())
    return read if len(read) <= 80 else f"{read[:60]}… of type {type(value).__name__}"


def _several(value: object) -> Iterator[Any] | None:
    """What goes through a list or the like; None for one value, bytes and what only looks iterable."""
    if isinstance(value, (bytes, bytearray)):
        return None
    try:
        return iter(cast(Iterable[Any], value))
    except TypeError:
        return None


def _with_a_gpu(table: dict[str, int], what: str, value: object) -> dict[str, int]:
    if not table.keys() - {"cpu"}:
        raise ValueError(f"{what}, with at least one GPU, not {shown(value)}")
    return table


def _key(name: str, key: object) -> str:
    """A device in a memory table: its number, or `cpu`."""
    if isinstance(key, str) and re.fullmatch(r"[0-9]{1,3}", key):
        word = str(int(key))
    else:
        try:
            word = device(name, cast(Any, key)).removeprefix("cuda:")
        except (TypeError, ValueError):
            word = "none"
    if word != "cpu" and not (word.isdecimal() and int(word) < _mgpack.MAX_DEVICES):
        most = _mgpack.MAX_DEVICES - 1
        raise ValueError(f"a device in {name} is a GPU's number from 0 to {most} or 'cpu', not {shown(key)}")
    return word


def _whole(value: object) -> int | None:
    """A whole number of any type that is one; None for all else. A bool is none here."""
    if isinstance(value, (bool, numpy.bool_)):
        return None
    try:
        return operator.index(cast(Any, value))
    except TypeError:
        return None


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _one_of(words: Sequence[str]) -> str:
    *most, last = map(repr, words)
    return f"{', '.join(most)} or {last}" if most else last
