#!/usr/bin/env python3
"""Kills every command that writes at its system calls, and fails the calls one at a time, with strace.

    tests/faults/sweep.py [--quick] [--mgpack target/release/mgpack] [--only convert,release] [--keep]

For each command and each of its calls (openat, write, fsync, mkdir, rename, unlink, ...): one run that is killed at the
call, and one for each error that the call can answer. strace counts the calls of each thread; a point is one number.
After each fault:

- the target is absent, or what it was, byte for byte, or new and good (`verify`, or the bytes of an undisturbed run);
- exit code 0 means new and good;
- what is read is as it was;
- the same command then succeeds, with the bytes of an undisturbed run, or says that the target is there, and it is good;
- then nothing of the earlier run is left beside the target.

Commands that only read have their looks at files fail: 0 means the output of an undisturbed run, and 1 (what is read is at
fault) is never the answer, since nothing is.

Prints the counts by command and fault, and each point at which one of these does not hold. `--quick` takes some
points of every call and always the first and the last. Needs strace; writes in a temporary folder only.
"""

import argparse
import collections
import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Call -> the errors that it is made to answer.
ERRORS = {
    "clone3": ["EAGAIN"],
    "openat": ["EMFILE", "EIO", "EACCES"],
    "pread64": ["EINTR", "EIO"],
    "write": ["ENOSPC", "EIO", "EINTR"],
    "fsync": ["EIO", "EINVAL"],
    "fallocate": ["ENOSPC", "EOPNOTSUPP"],
    "mkdir": ["ENOSPC", "EROFS"],
    "rename": ["EIO", "EXDEV"],
    "renameat2": ["EINVAL", "ENOSYS", "EIO"],
    "linkat": ["EPERM"],
    "flock": ["ENOLCK", "EINTR"],
    "unlink": ["EIO"],
    "unlinkat": ["EIO"],
    "rmdir": ["EIO"],
}


def digest(path):
    """What is at a path: None, or names and digests of all below it."""
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(found for found in path.rglob("*") if ".mgpack-" not in str(found.relative_to(path)))
    return [
        (str(file.relative_to(path)), hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "")
        for file in files
    ]


def checkpoint(folder):
    """A small model of four linears in two shards."""
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
                    "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 32})
    )
    weight_map, number = {}, 0
    for shard in range(2):
        tensors, data = {}, b""
        names = [f"model.layers.{shard}.{name}.weight" for name in ("self_attn.q_proj", "mlp.up_proj")]
        for name in names:
            values = struct.pack("<1024f", *(((number * 1024 + i) * 37 % 101 - 50) / 64 for i in range(1024)))
            tensors[name] = {"dtype": "F32", "shape": [32, 32], "data_offsets": [len(data), len(data) + len(values)]}
            data += values
            number += 1
            weight_map[name] = f"model-{shard + 1:05}-of-00002.safetensors"
        head = json.dumps(tensors).encode()
        head += b" " * (-len(head) % 8)
        (folder / f"model-{shard + 1:05}-of-00002.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + data)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": number * 4096}, "weight_map": weight_map})
    )


class Command:
    """A command that writes: its arguments, its target, and what is at the target before."""

    def __init__(self, name, arguments, target, before=None):
        self.name, self.arguments, self.target, self.before = name, arguments, target, before


COMMANDS = [
    Command("convert", ["convert", "ckpt", "--int8", "-j", "1", "-o", "out"], "out"),
    Command("convert --force", ["convert", "ckpt", "--int8", "-j", "1", "-o", "out", "--force"], "out", "old"),
    Command("release", ["release", "bundle", "-o", "out"], "out"),
    Command("report", ["report", "bundle", "--against", "ckpt", "-j", "1", "-o", "out.html"], "out.html", "old.html"),
    Command("env", ["env", "bundle", "-o", "out"], "out"),
    Command("map --svg", ["map", "7b", "--int8", "--svg", "out.svg"], "out.svg"),
]


#: Commands that read, and what they read.
READERS = [
    ["inspect", "bundle"],
    ["inspect", "ckpt"],
    ["verify", "bundle"],
    ["verify", "released"],
    ["plan", "ckpt", "--int8"],
    ["map", "bundle"],
    ["map", "ckpt", "--int8"],
    ["env", "bundle", "--json", "-o", "environment"],
]
LOOKS = {"statx": ["EIO", "EACCES"], "openat": ["EIO", "EMFILE"], "getdents64": ["EIO"], "pread64": ["EIO"]}


class Sweep:
    def __init__(self, mgpack, folder):
        self.mgpack, self.folder = mgpack, folder
        self.base = folder / "base"
        self.base.mkdir()
        checkpoint(self.base / "ckpt")
        self.good(self.base, ["convert", "ckpt", "--int8", "-o", "bundle"])
        self.good(self.base, ["release", "bundle", "-o", "released"])
        self.good(self.base, ["convert", "ckpt", "--bf16", "-o", "old"])
        self.good(self.base, ["report", "old", "--against", "ckpt", "-o", "old.html"])
        self.counts = collections.Counter()
        self.failures = []

    def run(self, world, arguments, strace=()):
        line = [*strace, str(self.mgpack), *arguments]
        environment = {"HOME": str(self.folder / "home"), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
        return subprocess.run(line, cwd=world, env=environment, capture_output=True, text=True, timeout=120)

    def good(self, world, arguments):
        ran = self.run(world, arguments)
        if ran.returncode != 0:
            sys.exit(f"{arguments} failed without a fault:\n{ran.stderr}")

    def world(self, command):
        """A fresh copy of the inputs, with what is at the target before."""
        world = self.folder / "world"
        shutil.rmtree(world, ignore_errors=True)
        shutil.copytree(self.base, world)
        if command.before:
            (world / command.before).rename(world / command.target)
        return world

    def points(self, command):
        """Call -> the most that one thread makes of it, in an undisturbed run; and what that run writes."""
        world, log = self.world(command), self.folder / "log"
        ran = self.run(world, command.arguments, ["strace", "-f", "-qq", "-e", f"trace={','.join(ERRORS)}", "-o", log])
        if ran.returncode != 0:
            sys.exit(f"{command.name} failed under strace without a fault:\n{ran.stderr}")
        calls = collections.Counter(re.findall(r"^(\d+) +(\w+)\(", log.read_text(), re.MULTILINE))
        most = collections.Counter()
        for (_, call), count in calls.items():
            most[call] = max(most[call], count)
        return most, digest(world / command.target)

    def sweep(self, command, quick):
        most, new = self.points(command)
        for call in sorted(most):
            numbers = range(1, most[call] + 1)
            if quick and len(numbers) > 4:
                numbers = sorted({1, len(numbers) // 3, 2 * len(numbers) // 3, len(numbers)})
            for number in numbers:
                for fault in ["signal=SIGKILL", *(f"error={error}" for error in ERRORS[call])]:
                    self.point(command, call, fault, number, new)

    def point(self, command, call, fault, number, new):
        world = self.world(command)
        before, inputs = digest(world / command.target), self.inputs(world)
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}",
                  "-e", f"inject={call}:{fault}:when={number}"]
        ran = self.run(world, command.arguments, strace)
        where = f"{command.name}: {call} {number} {fault}"
        after = digest(world / command.target)
        is_new = after == new or (command.name == "env" and after is not None and set(after) <= set(new))
        self.expect(where, after == before or is_new, f"the target is neither what it was nor new\n{ran.stderr}")
        self.expect(where, ran.returncode != 0 or after == new, f"exit 0, and the target is not new\n{ran.stderr}")
        self.expect(where, ran.returncode != 101 and "panicked" not in ran.stderr, f"a panic\n{ran.stderr}")
        self.expect(where, self.inputs(world) == inputs, "what is read has changed")
        again = self.run(world, command.arguments)
        after = digest(world / command.target)
        there = "already exists" in again.stderr or "is not empty" in again.stderr
        self.expect(where, (again.returncode == 0 or there) and after == new, f"the next run: {again.stderr}")
        left = list(world.rglob(".mgpack-*"))
        if "complete but not at its target" in ran.stderr:
            # What is finished stays, and both runs say where.
            finished = [digest(path / "content") == new for path in left]
            said = [str(path.name) in again.stderr or "in place now" in again.stderr for path in left]
            self.expect(where, all(finished) and all(said), f"what is finished is not named: {again.stderr}")
            left = []
        self.expect(where, not left, f"left behind: {left}\n{ran.stderr}{again.stderr}")
        self.counts[command.name, "kill" if fault == "signal=SIGKILL" else "error"] += 1

    def read(self, arguments, quick):
        """Fails each look of a command that reads."""
        name, log = f"{arguments[0]} {arguments[1]}", self.folder / "log"
        plain = self.run(self.base, [*arguments, "--force"] if arguments[0] == "env" else arguments,
                         ["strace", "-f", "-qq", "-e", f"trace={','.join(LOOKS)}", "-o", log])
        # What the system's loader and the program's start look at is the same for all.
        calls = collections.Counter(re.findall(r"^(\d+) +(\w+)\(", log.read_text(), re.MULTILINE))
        for call, errors in LOOKS.items():
            most = max((count for (_, found), count in calls.items() if found == call), default=0)
            numbers = range(1, most + 1)
            if quick and most > 8:
                numbers = sorted({1 + at * (most - 1) // 7 for at in range(8)})
            for number in numbers:
                for error in errors:
                    world = self.folder / "world"
                    shutil.rmtree(world, ignore_errors=True)
                    shutil.copytree(self.base, world)
                    ran = self.run(world, arguments, ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}",
                                                      "-e", f"inject={call}:error={error}:when={number}"])
                    where = f"{name}: {call} {number} {error}"
                    # 127: the system's loader found no library.
                    self.expect(where, ran.returncode in (0, 2, 127), f"exit {ran.returncode}\n{ran.stdout}{ran.stderr}")
                    same = ran.stdout == plain.stdout
                    self.expect(where, ran.returncode != 0 or same, f"exit 0 and another output\n{ran.stdout}{ran.stderr}")
                    self.counts[name, "error"] += 1

    def inputs(self, world):
        return [digest(world / name) for name in ("ckpt", "bundle")]

    def expect(self, where, holds, what):
        if not holds:
            self.failures.append(where)
            print(f"{where}: {what}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mgpack", type=Path, default=ROOT / "target/release/mgpack")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    options = parser.parse_args()
    if not shutil.which("strace"):
        sys.exit("strace is not installed (Debian: apt-get install strace)")
    folder = Path(tempfile.mkdtemp(prefix="mgpack-faults-"))
    try:
        sweep = Sweep(options.mgpack.resolve(), folder)
        for command in COMMANDS:
            if not options.only or command.name.split()[0] in options.only.split(","):
                sweep.sweep(command, options.quick)
        for arguments in READERS:
            if not options.only or arguments[0] in options.only.split(","):
                sweep.read(arguments, options.quick)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    for (command, kind), count in sorted(sweep.counts.items()):
        print(f"{command:16} {kind:6} {count:5}")
    total = sum(sweep.counts.values())
    print(f"{total} faults, {len(set(sweep.failures))} of them with a broken promise")
    sys.exit(1 if sweep.failures or not total else 0)


if __name__ == "__main__":
    main()
