"""Installs what a bundle's requirements.txt pins into an empty environment, and loads the bundle there.

    run.py --mgpack BINARY --wheel WHEEL [--mgm CHECKOUT] [--keep FOLDER] [--first] LIST...

LIST is one of LISTS, or `all`: every list that a bundle can hold. The environment is made as `mgpack env` says: the pinned
Python, nothing but `pip install -r requirements.txt`. What is loaded there, and against what it is compared, is in loads.py.
With --first only the first bundle of a list is loaded. With --keep the environments stay and are used again for the same list; otherwise each is removed when it has served.
Without the pinned Python, the other that the list allows is taken, and said.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import plain

HERE = Path(__file__).resolve().parent

#: A name, the pinned Python and another that the list allows, and the bundles that hold the list.
LISTS = {
    "mgm-7b": ("3.10", "3.11", ["llama-int8", "llama-fp16", "llama-bf16"]),
    "mgm-8x7b": ("3.10", "3.11", ["mixtral-int8", "mixtral-fp16"]),
    "mgm-2b": ("3.10", "3.11", ["gemma-int8", "gemma-fp16"]),
    "generic-16-bit": ("3.11", "3.12", ["generic-bf16", "generic-fp16"]),
    "generic-bnb": ("3.11", "3.12", ["generic-bnb-int8"]),
    "generic-compressed-tensors": ("3.11", "3.12", ["generic-W8A8", "generic-W8A16"]),
}


def interpreter(version):
    """An interpreter of that version that answers, or None: a shim on PATH may be there without it."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for candidate in [f"python{version}", *sorted(pyenv.glob(f"{version}.*/bin/python{version}"))]:
        try:
            if subprocess.run([candidate, "-c", "import venv"], capture_output=True).returncode == 0:
                return str(candidate)
        except OSError:
            continue
    return None


def run(*line, **options):
    return subprocess.run([str(part) for part in line], check=True, **options)


def provide(folder, python, requirements):
    """An environment of exactly that list; True where it was made now."""
    stamp = folder / "requirements.installed"
    if stamp.is_file() and stamp.read_bytes() == requirements.read_bytes():
        return False
    shutil.rmtree(folder, ignore_errors=True)
    run(python, "-m", "venv", folder)
    run(folder / "bin/python", "-m", "pip", "install", "--quiet", "-r", requirements)
    shutil.copy(requirements, stamp)
    return True


def check(name, options, folder, work):
    pinned, other, bundles = LISTS[name]
    bundles = bundles[:1] if options.first else bundles
    python = interpreter(pinned) or interpreter(other)
    if python is None:
        sys.exit(f"no Python {pinned} or {other} here")
    environment = {**os.environ, "MGPACK": str(options.mgpack), "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(work)}
    listed = work / name
    if name.startswith("generic"):
        # The list of a bundle that is made here and now; loads.py makes those that it loads.
        source = work / "plain"
        plain.write(source)
        scheme = {"generic-16-bit": ["--bf16"], "generic-bnb": ["--int8", "--format", "bnb"]}.get(name, ["--int8"])
        run(options.mgpack, "convert", source, *scheme, "-o", listed, "--progress", "none", "--force",
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    else:
        run(options.mgpack, "env", name.removeprefix("mgm-"), "-o", listed,
            env=environment, stdout=subprocess.DEVNULL)  # fmt: skip
    requirements = listed / "requirements.txt"
    made = provide(folder, python, requirements)
    inside = folder / "bin/python"
    # Without dependencies: mgpack must do with what the list has.
    run(inside, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", options.wheel)
    for bundle in bundles:
        if name.startswith("mgm") and options.mgm is None:
            sys.exit(f"{name} needs MGM: --mgm names a checkout")
        environment["PYTHONPATH"] = f"{options.mgm}:{HERE.parent / 'mgm'}" if name.startswith("mgm") else ""
        run(inside, HERE / "loads.py", requirements, bundle, work / "made", env=environment)
    version = Path(python).name
    print(f"{name}: {'installed and ' if made else ''}loaded, {version}, {', '.join(bundles)}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mgpack", type=Path, required=True)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--mgm", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--first", action="store_true")
    parser.add_argument("lists", nargs="+", choices=[*LISTS, "all"])
    options = parser.parse_args()
    lists = list(LISTS) if "all" in options.lists else options.lists
    failed = []
    for name in lists:
        with tempfile.TemporaryDirectory() as work:
            folder = (options.keep or Path(work)) / f"environment-{name}"
            try:
                check(name, options, folder, Path(work))
            except subprocess.CalledProcessError as error:
                print(f"{name}: FAILED: {error}", flush=True)
                failed.append(name)
    print(f"environments: {len(lists) - len(failed)} of {len(lists)} lists serve" + (f"; not {', '.join(failed)}" if failed else ""))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
