#!/usr/bin/env python3
"""Runs the Rust tests against a sample of mutants; tests/mutants.sh says how.

All mutants of the sample are compiled into one set of test binaries: a function that has mutants gets its body once more
for each, and MGPACK_MUTANT chooses at run time. Then every test is run once without a mutant, and notes which of these
functions it reaches; a mutant is run with the tests that reach it, the quickest first, up to the first that fails. What
cannot be chosen at run time (`const fn`, `-> impl Trait`) is built by itself and run with all tests of its file's module.
"""

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "target/mutants"
ORIGIN = WORK / "origin"  # the files as they were at the begin, whatever is edited meanwhile
TREE = WORK / "tree"  # the same with mutants
TARGETS = ["--lib", "--bins", "--test", "it", "--test", "bounds"]
LIMIT = 16 << 30  # address space of a test in bytes

CHOOSER = """
/// The mutant that a run of the tests is about. `group`: the function that asks.
#[doc(hidden)]
pub fn mutant(group: usize) -> usize {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};
    static CHOSEN: OnceLock<(usize, Option<std::path::PathBuf>)> = OnceLock::new();
    static REACHED: [AtomicBool; 8192] = [const { AtomicBool::new(false) }; 8192];
    let (chosen, folder) = CHOSEN.get_or_init(|| {
        let number = std::env::var("MGPACK_MUTANT").ok().and_then(|text| text.parse().ok());
        (number.unwrap_or(usize::MAX), std::env::var_os("MGPACK_REACHED").map(Into::into))
    });
    if let Some(folder) = folder
        && !REACHED[group].swap(true, Ordering::Relaxed)
    {
        let _ = std::fs::write(folder.join(group.to_string()), "");
    }
    *chosen
}
"""


def cargo(*arguments, **options):
    environment = os.environ | {"CARGO_TARGET_DIR": str(WORK / "build")}
    return subprocess.run(["cargo", *arguments], cwd=TREE, env=environment, text=True, **options)


def update(folder, names, source):
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # Only what differs: a new time would build it again.
        if not target.is_file() or target.read_bytes() != (source / name).read_bytes():
            shutil.copy(source / name, target)


def refresh(names):
    """Takes the mutants out of files."""
    update(TREE, names, ORIGIN)


def copy_tree():
    listed = subprocess.run(["git", "ls-files", "-zco", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    names = {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()}
    for folder, source in [(ORIGIN, ROOT), (TREE, ORIGIN)]:
        for path in folder.rglob("*"):
            if path.is_file() and str(path.relative_to(folder)) not in names:
                path.unlink()
        update(folder, names, source)


class Source:
    """A file's text, with places given as line and column, from 1 on."""

    def __init__(self, name):
        self.text = (ORIGIN / name).read_text()
        self.starts = [0]
        for line in self.text.split("\n"):
            self.starts.append(self.starts[-1] + len(line) + 1)

    def span(self, span):
        return tuple(self.starts[span[end]["line"] - 1] + span[end]["column"] - 1 for end in ("start", "end"))


TOKEN = re.compile(r"""//[^\n]*|/\*.*?\*/|\bb?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?'(?:\\[^']+|[^'\\])'""", re.DOTALL)


def body(source, mutant):
    """Begin and end of the body of a mutant's function, and the function's signature; `None` where it has none."""
    start, end = source.span(mutant["function"]["span"])
    at, depth = start, 0
    while at < end:
        letter = source.text[at]
        depth += (letter in "([") - (letter in ")]")
        if letter == "{" and depth == 0:
            return (at + 1, source.text.rindex("}", at, end)), source.text[start:at]
        token = TOKEN.match(source.text, at)
        at = token.end() if token else at + 1
    return None


def mutated(source, mutant, begin, end):
    """The text from `begin` to `end` with the mutation."""
    first, last = (begin, end) if mutant["genre"] == "FnValue" else source.span(mutant["span"])
    return source.text[begin:first] + mutant["replacement"] + source.text[last:end]


def is_apart(signature):
    returned = signature.rpartition("->")[2] if "->" in signature else ""
    return bool(re.search(r"\bconst\s+(unsafe\s+)?fn\b", signature)) or "impl " in returned


def write_chosen(mutants):
    """Writes every file with all of its mutants. Returns where each lies, its group, and the files."""
    places, groups, by_file = {}, {}, defaultdict(lambda: defaultdict(list))
    for mutant in mutants:
        source = Source(mutant["file"])
        by_file[mutant["file"]][body(source, mutant)[0]].append(mutant)
    for name, functions in by_file.items():
        source, text, done = Source(name), "", 0
        library_crate = "mgpack" if name == "src/main.rs" else "crate"
        for (begin, end), of_one in sorted(functions.items()):
            group = of_one[0]["number"]
            text += source.text[done:begin] + f"\nmatch {library_crate}::mutant({group}) {{\n"
            for mutant in of_one:
                line = text.count("\n") + 1
                text += f"{mutant['number']} => {{\n{mutated(source, mutant, begin, end)}\n}}\n"
                places[mutant["number"]] = (name, line, text.count("\n") + 1)
                groups[mutant["number"]] = group
            text += "_ => {\n" + source.text[begin:end] + "\n}\n}\n"
            done = end
        (TREE / name).write_text(text + source.text[done:])
    library = TREE / "src/lib.rs"
    library.write_text(library.read_text() + CHOOSER)
    return places, groups, {*by_file, "src/lib.rs"}


def build():
    """Test binaries by name, where it compiles; else the places of the errors, and their texts."""
    arguments = ["test", "--no-run", "--message-format=json", *TARGETS]
    done = cargo(*arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    binaries, places, texts = {}, [], []
    for line in done.stdout.splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("reason") == "compiler-artifact" and message["executable"] and message["profile"]["test"]:
            binaries[f"{message['target']['kind'][0]} {message['target']['name']}"] = message["executable"]
        if message.get("reason") == "compiler-message" and message["message"]["level"] == "error":
            texts.append(message["message"]["rendered"])
            places += [(span["file_name"], span["line_start"]) for span in message["message"]["spans"]]
    return (binaries if done.returncode == 0 else None), places, texts


def passes(binary, test, seconds, **variables):
    """Runs one test by itself."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MGPACK_")} | variables
    bound = lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))  # noqa: E731
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        process = subprocess.Popen(
            [binary, "--exact", test], cwd=TREE, env=environment | {"TMPDIR": folder}, start_new_session=True,
            preexec_fn=bound, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            return process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def tests_of(binaries):
    for name, binary in binaries.items():
        listed = subprocess.run([binary, "--list", "--format=terse"], cwd=TREE, capture_output=True, text=True, check=True)
        for line in listed.stdout.splitlines():
            if line.endswith(": test"):
                yield name, binary, line.removesuffix(": test")


def measure(binaries, pool):
    """Every test: how long it takes, and the groups that it reaches."""

    def one(test):
        name, binary, path = test
        with tempfile.TemporaryDirectory(prefix="reached-") as folder:
            begun = time.monotonic()
            good = passes(binary, path, 1800, MGPACK_REACHED=folder)
            return test, good, time.monotonic() - begun, {int(group) for group in os.listdir(folder)}

    measured = list(pool.map(one, tests_of(binaries)))
    failed = [f"{name} {path}" for (name, _, path), good, _, _ in measured if not good]
    if failed:
        print(f"left out, since they fail without a mutant: {', '.join(failed)}", flush=True)
    return sorted((seconds, test, reached) for test, good, seconds, reached in measured if good)


def judge(measured, group, number):
    """The first test that fails."""
    for seconds, (name, binary, path), reached in measured:
        if group is not None and group not in reached:
            continue
        # Twice, since a test may fail once because the machine is busy.
        if not any(passes(binary, path, 30 + 10 * seconds, MGPACK_MUTANT=str(number)) for _ in range(2)):
            return f"{name} {path}"
    return None


def main():
    parser = argparse.ArgumentParser(usage="tests/mutants.sh [options]")
    parser.add_argument("--every", type=int, default=50, help="take every so many-th mutant")
    parser.add_argument("--offset", type=int, default=0, help="begin with this one, counted from 0")
    parser.add_argument("--names", type=Path, help="take those that this file names, one a line, wherever they are now")
    parser.add_argument("--jobs", type=int, default=2, help="tests at a time")
    given = parser.parse_args()
    TREE.mkdir(parents=True, exist_ok=True)
    copy_tree()
    known = json.loads(cargo("mutants", "--list", "--json", stdout=subprocess.PIPE, check=True).stdout)
    if given.names:
        placeless = lambda name: re.sub(r":\d+:\d+", "", name)  # noqa: E731
        names = {placeless(line) for line in given.names.read_text().splitlines() if line.strip()}
        sample = [mutant for mutant in known if placeless(mutant["name"]) in names]
    else:
        sample = known[given.offset :: given.every]
    print(f"{len(sample)} of {len(known)} mutants", flush=True)
    together, apart, unviable, bodies = [], [], [], {}
    for number, mutant in enumerate(sample):
        mutant["number"] = number
        found = mutant.get("function") and body(Source(mutant["file"]), mutant)
        bodies[number] = (mutant["file"], *(found[0] if found else (0, 0)))
        (together if found and not is_apart(found[1]) else apart).append(mutant)
    # A function inside another's body cannot be written twice.
    inner = [
        mutant for mutant in together
        for file, begin, end in bodies.values()
        if file == mutant["file"] and begin < bodies[mutant["number"]][1] < end
    ]  # fmt: skip
    together, apart = [mutant for mutant in together if mutant not in inner], apart + inner
    while True:
        places, groups, changed = write_chosen(together)
        binaries, errors, texts = build()
        if not binaries:
            bad = {n for n, (file, first, last) in places.items() for at, line in errors if at == file and first <= line <= last}
            if not bad:
                sys.exit("\n".join(texts[:3]) or "the tests do not compile")
            print(f"{len(bad)} do not compile", flush=True)
            unviable += [mutant for mutant in together if mutant["number"] in bad]
            together = [mutant for mutant in together if mutant["number"] not in bad]
        refresh(changed)
        if binaries:
            break
    pool = ThreadPoolExecutor(given.jobs)
    begun = time.monotonic()
    measured = measure(binaries, pool)
    print(f"{len(measured)} tests pass without a mutant, in {time.monotonic() - begun:.0f} s", flush=True)
    caught, missed = {}, []

    def settle(mutant, failed):
        if failed:
            caught[mutant["name"]] = failed
        else:
            missed.append(mutant["name"])
        print(f"{f'caught by {failed}' if failed else 'MISSED'}: {mutant['name']}", flush=True)

    one = lambda mutant: settle(mutant, judge(measured, groups[mutant["number"]], mutant["number"]))  # noqa: E731
    list(pool.map(one, together))
    for mutant in apart:
        source = Source(mutant["file"])
        begin, end = body(source, mutant)[0] if mutant["genre"] == "FnValue" else (0, len(source.text))
        text = source.text[:begin] + mutated(source, mutant, begin, end) + source.text[end:]
        (TREE / mutant["file"]).write_text(text)
        alone, _, _ = build()
        refresh([mutant["file"]])
        if alone:
            again = [(seconds, (name, alone[name], path), reached) for seconds, (name, _, path), reached in measured]
            settle(mutant, judge(again, None, mutant["number"]))
        else:
            unviable.append(mutant)
    done = len(caught) + len(missed)
    print(f"\n{len(caught)} caught, {len(missed)} missed, {len(unviable)} do not compile: {100 * len(caught) / max(1, done):.0f} %")
    for name in sorted(missed):
        print(f"missed: {name}")
    result = {"caught": caught, "missed": sorted(missed), "unviable": sorted(mutant["name"] for mutant in unviable)}
    (WORK / "results.json").write_text(json.dumps(result, indent=1) + "\n")


main()
