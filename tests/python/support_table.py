"""Writes docs/support.md's tables from the tests that load bundles: what is in them was loaded, or refused, by a test.

A test says with `pytest.mark.loads(LOADER, ...)` what its cases show; the names of its parameters say for which
architecture and scheme. As a plugin of pytest (`-p support_table`) this notes the cases in the file that $SUPPORT_CASES
names: all that were collected, or, where tests ran, those that passed.

    python tests/python/support_table.py               writes the tables from the tests that there are
    python tests/python/support_table.py CASES...      writes them from such files, say of all three environments
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/support.md"
FOLDERS = ["tests/python", "tests/vllm", "tests/mgm"]
BEGIN, END = "<!-- tests/python/support_table.py writes what follows -->", "<!-- up to here -->"

SCHEMES = ["bf16", "fp16", "bnb int8", "W8A8", "W8A16", "FP8_DYNAMIC", "FP8_BLOCK"]

# In this order in a cell; "names" has a table of its own.
LETTERS = {"transformers": "T", "mgm": "M", "vllm": "V", "not transformers": "-T", "refused": "x"}


def scheme_of(value):
    words = [value] if isinstance(value, str) else list(value)
    if "bnb" in words or words == ["int8"]:
        return "bnb int8"
    if words == ["--int8"]:  # Of a model that is not MGM.
        return "W8A8"
    (found,) = [scheme for scheme in SCHEMES if {scheme, f"--{scheme}"} & set(words)]
    return found


def cases_of(item):
    """Loader, architecture and scheme that each mark of a test shows."""
    if item.get_closest_marker("xfail"):
        return
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    for mark in item.iter_markers("loads"):
        (loader,), named = mark.args, mark.kwargs
        name = parameters[named["of"]] if named["of"] in parameters else named["of"]
        # `kinds` has several of one architecture: bert-masked, t5-encoder.
        name = {"time": "patchtst"}.get(name.split("-")[0], name.split("-")[0]) if named.get("is_kind") else name
        name = f"MGM ({name})" if loader == "mgm" else name
        for scheme in named.get("schemes") or [parameters[named.get("scheme", "options")]]:
            yield loader, name, scheme_of(scheme)


def pytest_configure(config):
    config.addinivalue_line("markers", "loads: what docs/support.md says of a case")
    config.support = {}


def pytest_collection_finish(session):
    if session.config.option.collectonly:
        session.config.support = {item.nodeid: list(cases_of(item)) for item in session.items}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call" and report.passed and not hasattr(report, "wasxfail"):
        item.config.support[item.nodeid] = list(cases_of(item))
    return report


def pytest_sessionfinish(session):
    if "SUPPORT_CASES" in os.environ:
        Path(os.environ["SUPPORT_CASES"]).write_text(json.dumps(sorted(sum(session.config.support.values(), []))))


def collected():
    """The cases of all tests that there are, run or not."""
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for tests in FOLDERS:
            # Each has a conftest.py of its own.
            note = Path(folder) / "cases.json"
            paths = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
            line = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "support_table", tests]
            environment = os.environ | {"SUPPORT_CASES": str(note), "PYTHONPATH": paths}
            done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            cases += json.loads(note.read_text())
    return cases


def tables(cases):
    cells, named = {}, {}
    for loader, architecture, scheme in cases:
        if loader == "names":
            named.setdefault(architecture, set()).add(scheme)
        else:
            cells.setdefault(architecture, {}).setdefault(scheme, set()).add(LETTERS[loader])
    lines = [f"| architecture | {' | '.join(SCHEMES)} |", f"|---{'|---' * len(SCHEMES)}|"]
    order = list(LETTERS.values())
    for architecture in sorted(cells, key=lambda name: (not name.startswith("MGM"), name)):
        row = [" ".join(sorted(cells[architecture].get(scheme, ()), key=order.index)) for scheme in SCHEMES]
        lines.append(f"| {architecture} | {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |"))
    all_schemes = {frozenset(schemes) for schemes in named.values()}
    assert len(all_schemes) == 1, "every architecture is held against its class in the same schemes"
    schemes = [scheme for scheme in SCHEMES if scheme in next(iter(all_schemes))]
    text = f"{len(named)} architectures are held against their class in {', '.join(schemes[:-1])} and {schemes[-1]}: "
    return "\n".join(lines) + "\n\n" + fold(text + ", ".join(sorted(named)) + ".") + "\n"


def fold(text, width=120):
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


def parts():
    """The page's text before and after the tables, and the tables."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    made, _, after = rest.partition(END)
    return before + BEGIN, made.strip() + "\n", END + after


if __name__ == "__main__":
    files = sys.argv[1:]
    known = sum((json.loads(Path(name).read_text()) for name in files), []) if files else collected()
    before, _, after = parts()
    PAGE.write_text(f"{before}\n\n{tables(known)}\n{after}")
