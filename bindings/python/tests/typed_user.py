"""A user's program as type checkers see it. Checked by test_types.py, never run.

A line that ends in `type: ignore` must be an error: mypy complains of one that is none.
"""

import os
from pathlib import Path
from typing import Any, assert_type

import mgpack
import numpy
from numpy.typing import NDArray

loaded = mgpack.load("MGM-7B-int8", device="cuda:0", memory={0: "22GiB"}, verify="full")
assert_type(loaded, mgpack.Loaded)
assert_type(loaded.context_len, int | None)
tokenizer, model, processor, context_len = loaded
mgpack.load(Path("bundle"), device_map="auto", dtype="auto")
mgpack.load(b"bundle", device_map={"": 0, "model.norm": "cpu"}, reserve=1 << 30, context=4096)
mgpack.load("bundle", device=1, memory="2x24GiB")
mgpack.load("bundle", verify="fast")  # type: ignore[arg-type]
mgpack.load("bundle", check_versions=False)  # type: ignore[arg-type]
mgpack.load("bundle", memory=24)  # type: ignore[arg-type]
mgpack.load(None)  # type: ignore[arg-type]

made = mgpack.convert("checkpoint", Path("out"), scheme="W8A8", ignore="lm_head", gpus={0: "24GiB", "cpu": 1 << 36})
assert_type(made, mgpack.Converted)
assert_type(made.notices, tuple[str, ...])
assert_type(made.id, str)
assert_type(made.bundle, mgpack.Bundle)
print(os.fspath(made), os.path.join(made, "config.json"), Path(made))
mgpack.load(made)
mgpack.convert("checkpoint", ignore=["lm_head"], gpus=["2x24GiB", {0: 1 << 34}], threads=-1, progress=print)
mgpack.convert("checkpoint", on_overflow="stop")  # type: ignore[arg-type]
mgpack.convert("checkpoint", format="gptq")  # type: ignore[arg-type]
mgpack.convert("checkpoint", stats="no")  # type: ignore[arg-type]
mgpack.convert("checkpoint", gpus=2)  # type: ignore[arg-type]

plan = mgpack.plan("checkpoint", scheme="W8A8", gpus="auto")
assert_type(plan.totals.bytes, int)
assert_type(plan.tensors[0].why, str | None)
assert_type(mgpack.map("34b", scheme="fp16").device_map, dict[str, int | str])
assert_type(mgpack.pull("org/model"), tuple[mgpack.Pulled, ...])
assert_type(mgpack.pull("org/model", dry_run=True), tuple[mgpack.Pullable, ...])
assert_type(mgpack.doctor("bundle").findings[0].help, str)
assert_type(mgpack.report("bundle", against="checkpoint").tensors[0].sqnr_db, float | None)
assert_type(mgpack.inspect("bundle"), mgpack.Bundle | mgpack.Checkpoint)
assert_type(mgpack.release("bundle", "out", part_size="4GiB").files[0].size, int)
mgpack.map("34b", planner="accelerate")  # type: ignore[arg-type]
mgpack.plan("34b", attention="flash")  # type: ignore[arg-type]
plan.name = "other"  # type: ignore[misc]

with mgpack.open("bundle") as bundle:
    assert_type(bundle, mgpack.Bundle)
    assert_type(bundle.tensors["a"], NDArray[Any])
    assert_type(bundle.device_map, dict[str, int | str])
    numpy.asarray(bundle.tensors["a"]).sum()

report = mgpack.verify(bundle, full=False)
assert report, report
report.raise_for_findings()
for finding in report.findings:
    assert_type(finding.expected, str)

try:
    bundle.verify()
except mgpack.Error as error:
    assert_type(error.help, str | None)
