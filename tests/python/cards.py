"""Runs a card's lines of Python, each in a process of its own.

The processes are forked from one that has imported torch and transformers and done nothing with them: to import both takes
longer than all that a card does.
"""

import multiprocessing
import os
import re
import sys
import traceback

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "transformers", "transformers.models.auto"])

LIMIT = 300

# What transformers says where weights are not those of the checkpoint.
WRONG = ["newly initialized", "MISSING", "UNEXPECTED", "MISMATCH"]


def code_of(card):
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code


def run(code, where):
    """What the code printed on stdout. Nothing on stderr may say that weights are missing, or were made up."""
    files = [where / "stdout.txt", where / "stderr.txt"]
    child = CONTEXT.Process(target=_child, args=(code, *map(str, [where, *files])))
    child.start()
    child.join(LIMIT)
    if child.is_alive():
        child.kill()
        raise AssertionError(f"not done after {LIMIT} s\n{code}")
    printed, said = (file.read_text() for file in files)
    assert child.exitcode == 0, f"{code}\n{printed}\n{said}"
    assert not any(wrong in said for wrong in WRONG), said
    return printed


def _child(code, where, stdout, stderr):
    # The descriptors, so that nothing written past Python is lost.
    for number, path in [(1, stdout), (2, stderr)]:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    os.chdir(where)
    status = 0
    try:
        exec(compile(code, "card", "exec"), {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
