"""Calls of the library's verbs: arguments are checked and become JSON, and what there is to say becomes warnings."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

from . import _mgpack, arguments
from .arguments import Progress
from .errors import Notice

#: How the weights are stored: one of the words that the library has, which `_mgpack.SCHEMES` lists.
Scheme = str
#: Layout of `int8`.
Format = Literal["bnb", "compressed-tensors"]
#: What becomes of finite values beyond the output type's range.
OnOverflow = Literal["error", "clamp", "inf"]
Attention = Literal["eager", "sdpa"]
#: Who plans a device map.
Planner = Literal["mgm", "accelerate-0.25-sequential"]

#: A call in JSON.
Call = dict[str, Any]


def run(verb: str, call: Any, progress: Progress | None = None) -> Any:
    """The result of a verb, from JSON. Notices are warnings of the line that called the caller of this function."""
    return json.loads(_mgpack.run_verb(verb, json.dumps(call), warner([], 4), progress))


def warner(notices: list[str], level: int) -> Callable[[str], None]:
    """What takes a notice: keeps it, and warns `level` frames above itself."""

    def notice(said: str) -> None:
        notices.append(said)
        warnings.warn(said, Notice, stacklevel=level)

    return notice


def path(name: str, value: Any) -> Any:
    """A path as calls have it: text, or what is not UTF-8 as bytes."""
    read = arguments.path(name, value)
    try:
        read.encode()
    except UnicodeEncodeError:
        return {"Unix": list(os.fsencode(read))}
    return read


def optional(name: str, value: Any, read: Callable[[str, Any], Any]) -> Any:
    """None, or what `read` makes of the value."""
    return None if value is None else read(name, value)


def model(name: str, value: Any) -> str:
    """A path, an alias or a hub id."""
    return arguments.text(name, arguments.path(name, value))


def size(name: str, value: Any) -> int:
    """Bytes, at least one."""
    return arguments.size(name, value)


def size_or_nothing(name: str, value: Any) -> int:
    """Bytes, or 0."""
    return arguments.size(name, value, least=0)


def weights(given: Mapping[str, Any]) -> Call:
    """The scheme with its format and what is ignored."""
    format = given["format"]
    return {
        "scheme": arguments.one_of("scheme", given["scheme"], _mgpack.SCHEMES),
        "format": None if format is None else arguments.choice("format", format, Format),
        "ignore": arguments.texts("ignore", given["ignore"]),
    }


def room(given: Mapping[str, Any]) -> Call:
    """What a device map is planned for."""
    attention = given["attention"]
    tables = arguments.memory_tables("gpus", given["gpus"])
    call = {
        "gpus": tables,
        "context": arguments.count("context", given["context"], "tokens"),
        "batch": arguments.count("batch", given["batch"], "sequences"),
        "reserve": optional("reserve", given["reserve"], size_or_nothing),
        "allow_cpu": arguments.host_memory(tables, optional("allow_cpu", given["allow_cpu"], size_or_nothing)),
        "attention": None if attention is None else arguments.choice("attention", attention, Attention),
    }
    return _without_none(call)


def plan(given: Mapping[str, Any]) -> Call:
    """The arguments that `plan` and `convert` share."""
    call = {
        "model": model("model", given["model"]),
        "weights": weights(given),
        "room": room(given),
        "on_overflow": arguments.choice("on_overflow", given["on_overflow"], OnOverflow),
        "stats": arguments.flag("stats", given["stats"]),
        "max_shard_size": optional("max_shard_size", given["max_shard_size"], size),
        "max_memory": optional("max_memory", given["max_memory"], size),
        "threads": arguments.threads(given["threads"]),
        "towers": optional("towers", given["towers"], path),
        "keep_towers": arguments.flag("keep_towers", given["keep_towers"]),
        "revision": optional("revision", given["revision"], arguments.text),
        "isa": optional("isa", given["isa"], isa),
    }
    return _without_none(call)


def isa(name: str, value: Any) -> str:
    """An instruction set of this CPU."""
    return arguments.one_of(name, value, _mgpack.INSTRUCTION_SETS)


def excluded(name: str, value: bool, others: Mapping[str, Any]) -> None:
    """Raises where `name` is given together with one of the others."""
    both = next((other for other, given in others.items() if value and given), None)
    if both is not None:
        raise ValueError(f"{name}=True goes without {both}, not with it")


def _without_none(call: Call) -> Call:
    """Without what is left to the library."""
    return {name: value for name, value in call.items() if value is not None}
