"""`mypy --strict` on the package and on a program that uses it, and what the package puts into a namespace."""

import ast
import builtins
import re
import subprocess
import sys
from pathlib import Path

import mgpack

HERE = Path(__file__).resolve().parent


def mypy(tmp_path, *arguments):
    line = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", *arguments]
    return subprocess.run([*map(str, line)], capture_output=True, text=True, timeout=600)


def test_the_package_is_clean(tmp_path):
    package = HERE.parent / "python" / "mgpack"
    done = mypy(tmp_path, package)
    assert done.returncode == 0, done.stdout + done.stderr
    files = len([*package.glob("*.py"), *package.glob("*.pyi")])
    assert files > 10 and f"no issues found in {files} source files" in done.stdout, done.stdout


def test_a_program_is_checked_against_the_installed_package(tmp_path):
    done = mypy(tmp_path, HERE / "typed_user.py")
    assert done.returncode == 0, done.stdout + done.stderr
    # The check itself: without the comments that expect them, the wrong lines are errors.
    text = (HERE / "typed_user.py").read_text()
    expected = len(re.findall(r"  # type: ignore\[[a-z-]+\]", text))
    bare = tmp_path / "bare.py"
    bare.write_text(re.sub(r"  # type: ignore\[[a-z-]+\]", "", text))
    done = mypy(tmp_path, bare)
    assert expected == 11 and f"Found {expected} errors" in done.stdout, done.stdout


def test_the_files_import_each_other_in_one_direction():
    package = HERE.parent / "python" / "mgpack"
    imports = {}
    for file in package.glob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom) and node.level]
        named = {node.module or alias.name for node in nodes for alias in node.names}
        imports[file.stem] = {name for name in named if (package / f"{name}.py").exists()}
    assert len(imports) > 12 and imports["loading"] >= {"bundle", "placement", "versions"}
    left = set(imports)
    while left:
        free = {name for name in left if not imports[name] & left}
        assert free, f"a circle among {sorted(left)}"
        left -= free


def test_a_star_import_replaces_nothing_of_pythons_own():
    # Once, it put `mgpack.open` in the place of `open`.
    namespace = {}
    exec("from mgpack import *", namespace)
    assert namespace.keys() >= {"load", "convert", "verify", "Bundle", "Error"}
    assert not {name for name in namespace.keys() & vars(builtins).keys() if not name.startswith("__")}
    assert set(mgpack.__all__) <= set(dir(mgpack)) and callable(mgpack.open)
