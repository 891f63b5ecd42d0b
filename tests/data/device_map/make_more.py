"""Asks accelerate 0.25.0 for the maps of random small models and prints the answers, one JSON object a line.

    pip install accelerate==0.25.0 torch
    python make_more.py SEED COUNT | gzip -9n > more.jsonl.gz

The same form as toys.jsonl.gz, with what those do not have: 4-bit and 32-bit targets, several groups of shared
parameters, uint8 buffers, `mps`, sizes with units, negative and fractional sizes, and unknown devices.
Checked with torch 2.13.0; the planner of accelerate 0.25.0 does not depend on torch's version.
"""

import json
import logging
import random
import sys
import warnings

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)

import accelerate  # noqa: E402
import torch  # noqa: E402
from accelerate.utils import CustomDtype  # noqa: E402
from accelerate.utils.modeling import (  # noqa: E402
    compute_module_sizes,
    find_tied_parameters,
    infer_auto_device_map,
)
from torch import nn  # noqa: E402

assert accelerate.__version__ == "0.25.0"


class BlockA(nn.Module):
    pass


class BlockB(nn.Module):
    pass


class Cell(nn.Module):
    pass


class Head(nn.Module):
    pass


CLASSES = [BlockA, BlockB, Cell, Head]
NAMES = ["a", "b", "ab", "0", "1", "10", "lin", "lin2", "emb", "head"]
LENGTHS = [1, 3, 8, 16, 33, 64, 128]
DTYPES = {name: getattr(torch, name) for name in "float16 float32 bfloat16 float64 int64 bool uint8".split()}
TEXTS = (
    "1KB,2KiB,8Kb,0.5kib, 1KB,1_0KB,0KB,1e-1MB,12XB,5,1gb,infGB,nanKB,-1KB,1 KB,KB,+1KB,1e400MiB,0.0079KB,"
    ".5KB,5.KB,0x1KB"
).split(",")


def build(rng, depth):
    module = rng.choice(CLASSES)()
    if rng.random() < 0.45:
        dtype = DTYPES[rng.choice(["float16", "float32", "bfloat16"])]
        module.weight = nn.Parameter(torch.empty(rng.choice(LENGTHS), dtype=dtype), requires_grad=False)
    if rng.random() < 0.2:
        dtype = DTYPES[rng.choice(["float16", "float32"])]
        module.bias = nn.Parameter(torch.empty(rng.choice(LENGTHS), dtype=dtype), requires_grad=False)
    if rng.random() < 0.25:
        dtype = DTYPES[rng.choice(["float16", "float32", "float64", "int64", "bool", "uint8"])]
        module.register_buffer("buf", torch.zeros(rng.choice(LENGTHS), dtype=dtype))
    if depth > 0:
        for name in rng.sample(NAMES, rng.choice([0, 1, 2, 3, 4])):
            module.add_module(name, build(rng, depth - 1))
    return module


def tie(rng, model):
    sites = [(module, name) for module in model.modules() for name in module._parameters]
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        if len(sites) >= 2:
            chosen = rng.sample(sites, min(rng.choice([2, 2, 3]), len(sites)))
            if len({id(module) for module, _ in chosen}) == len(chosen):
                shared = chosen[0][0]._parameters[chosen[0][1]]
                for module, name in chosen[1:]:
                    module._parameters[name] = shared


def size(rng, total):
    kind, bytes_ = rng.random(), rng.random() * max(total, 8) * rng.choice([0.2, 0.5, 1, 1.2])
    if kind < 0.75:
        return int(bytes_)
    if kind < 0.9:
        return bytes_
    if kind < 0.96:
        return rng.choice([0, -1, -3.5])
    return rng.choice(TEXTS)


def table(rng, total):
    keys = list(range(rng.choice([1, 1, 2, 3, 4]))) if rng.random() < 0.85 else []
    if rng.random() < 0.1:
        keys = [key * 2 + 1 for key in keys]
    for word, chance in [("cpu", 0.5), ("mps", 0.08), ("disk", 0.08)]:
        if rng.random() < chance:
            keys.append(word)
    if rng.random() < 0.02:
        keys.append(rng.choice(["tpu", "0", "CPU", ""]))
    if rng.random() < 0.15:
        rng.shuffle(keys)
    memory = {key: size(rng, total) for key in keys}
    if keys and rng.random() < 0.1:
        memory[keys[0]] = total if rng.random() < 0.5 else int(total)
    return memory


def vector(rng, name):
    model = build(rng, rng.choice([1, 2, 3, 3]))
    tie(rng, model)
    dtype_names = {dtype: name for name, dtype in DTYPES.items()}
    tensors = [
        {"name": n, "shape": list(t.shape), "dtype": dtype_names[t.dtype], "kind": kind, "persistent": True}
        for kind, named in [("param", model.named_parameters()), ("buffer", model.named_buffers())]
        for n, t in named
    ]
    direct = {n: [p for p, _ in m.named_parameters(recurse=False)] for n, m in model.named_modules()}
    dtype = rng.choice(["float16", "none", "int8", "int4", "bfloat16", "float32"])
    target = {"none": None, "int8": torch.int8, "int4": CustomDtype.INT4}.get(dtype, DTYPES.get(dtype))
    special = []
    if rng.random() < 0.4:
        special = [t["name"] for t in tensors if t["kind"] == "param" and rng.random() < 0.2]
    special_dtypes = {name: torch.float16 for name in special} or None
    sizes = compute_module_sizes(model, dtype=target, special_dtypes=special_dtypes)
    memory = table(rng, float(sizes[""]))
    no_split = rng.sample([c.__name__ for c in CLASSES], rng.choice([0, 1, 1, 2]))
    answer = {
        "id": name,
        "modules": [[n, type(m).__name__] for n, m in model.named_modules()],
        "tensors": tensors,
        "direct_params": {n: names for n, names in direct.items() if names},
        "tied": [list(group) for group in find_tied_parameters(model)],
        "dtype": dtype,
        "special_fp16": special,
        "max_memory": [[key, value] for key, value in memory.items()],
        "no_split": no_split,
        "module_sizes": {name: float(bytes_) for name, bytes_ in sizes.items()},
    }
    try:
        answer["device_map"] = infer_auto_device_map(
            model,
            max_memory=dict(memory),
            no_split_module_classes=no_split,
            dtype=target,
            special_dtypes=special_dtypes,
        )
    except Exception as error:  # The exception is the answer.
        answer["error"] = {"type": type(error).__name__, "message": str(error)}
    return answer


def main():
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    for at in range(count):
        print(json.dumps(vector(rng, f"more{seed}_{at}")))


if __name__ == "__main__":
    main()
