"""Loads one bundle in the environment that runs this, as its client does: loads.py REQUIREMENTS BUNDLE FOLDER.

REQUIREMENTS is the list that this environment was made by: the bundle's own must be the same, and each pin must be what is
installed. BUNDLE is a kind and a scheme, `llama-int8` or `generic-W8A8`; it is made in FOLDER. The bundle is loaded by its
client and by `mgpack.load` with its versions checked, and compared with the checkpoint in the same environment.

What an environment pins for GPUs cannot all compute on a CPU. torch 2.0.1 has no float16 kernels: MGM's models are made
float32 once loaded. bitsandbytes 0.41.0 has no int8 there: the codes and scales that it holds are compared with the bundle's
bytes, and its linears then compute with what they mean (formats/schemes.md).
"""

import json
import os
import re
import sys
from importlib.metadata import version
from pathlib import Path

#: Relative error of int8 logits; those of models of 0.02-normal weights are as in tests/mgm.
LEAST, MOST = 1e-3, 0.06


def pins(requirements):
    return re.findall(r"^([\w-]+)==(\S+)$", requirements.read_text(), re.MULTILINE)


def check_pins(requirements, bundle):
    listed = pins(requirements)
    # The comments differ: `mgpack env` names itself, a bundle its family.
    assert pins(bundle / "requirements.txt") == listed, "another list than the bundle's"
    assert len(listed) >= 3
    for package, pin in listed:
        # A build's local label, +cu117, is not of the pin.
        assert version(package).split("+")[0] == pin, f"{package} {version(package)}, not {pin}"


def close(got, want, scheme, equal):
    error = ((got - want).norm() / want.norm()).item()
    assert want.std() > 0.01
    if scheme in ("fp16", "bf16"):
        assert equal, f"relative error {error}"
    else:
        assert LEAST < error <= MOST, f"relative error {error}"
    return error


class Patch:
    """As pytest's monkeypatch, for what tests/mgm/harness.py sets; for good."""

    @staticmethod
    def setattr(target, name, value=None):
        if isinstance(target, str):
            module, _, attribute = target.rpartition(".")
            __import__(module)
            setattr(sys.modules[module], attribute, name)
        else:
            setattr(target, name, value)


def load_mgm(requirements, kind, scheme, root):
    import harness
    import mgm.model.builder
    import mgpack
    import torch

    torch.set_num_threads(1)
    made = harness.Made(root)
    bundle = made.bundle(kind, "float16", scheme)
    check_pins(requirements, bundle)

    def answer(folder, name):
        os.chdir(folder)
        loaded = mgm.model.builder.load_pretrained_model(
            ".", None, name, device_map={"": "cpu"}, device=harness.Cpu()
        )[:3]
        return computing(loaded)

    def computing(loaded):
        if scheme == "int8":
            seen = hold_codes(loaded[1], bundle)
            assert seen == 0 or seen >= 14
        torch.nn.Module.float(loaded[1])
        return harness.answer(*loaded, dtype=torch.float32)

    want = answer(made.checkpoint(kind, "float16"), made.checkpoint(kind, "float16").name)
    if scheme == "int8":
        harness.admit_bitsandbytes(Patch)
    got = answer(bundle, bundle.name)
    os.chdir("/")
    ours = computing(mgpack.load(bundle, device="cpu")[:3])
    assert torch.equal(ours.logits, got.logits) and ours.tokens == got.tokens
    assert (got.linear == "Linear8bitLt") == (scheme == "int8")
    return close(got.logits, want.logits, scheme, torch.equal(got.logits, want.logits))


def hold_codes(model, bundle):
    """Compares each int8 weight that the client holds with the bundle, and lets it compute on a CPU. Returns how many."""
    import torch
    from safetensors.torch import load_file

    stored = {}
    for shard in set(json.loads((bundle / "model.safetensors.index.json").read_text())["weight_map"].values()):
        stored.update(load_file(bundle / shard))
    seen = 0
    for name, module in model.named_modules():
        if type(module).__name__ != "Linear8bitLt":
            continue
        codes, scales = module.weight.data, module.weight.SCB
        assert torch.equal(codes, stored[f"{name}.weight"]) and torch.equal(scales.float(), stored[f"{name}.SCB"].float())
        meant = codes.float() * scales.float()[:, None] / 127
        module.forward = lambda x, meant=meant, module=module: torch.nn.functional.linear(
            x, meant.to(x.dtype), None if module.bias is None else module.bias.to(x.dtype)
        )
        seen += 1
    return seen


def load_generic(requirements, scheme, root):
    import mgpack
    import plain
    import torch
    import transformers

    source, bundle = root / "plain", root / f"plain-{scheme}"
    if not source.exists():
        plain.write(source)
    options = {
        "bf16": ["--bf16"],
        "fp16": ["--fp16"],
        "bnb-int8": ["--int8", "--format", "bnb"],
        "W8A8": ["--scheme", "W8A8"],
        "W8A16": ["--scheme", "W8A16"],
    }[scheme]
    mgpack_command("convert", source, *options, "-o", bundle, "--progress", "none")
    check_pins(requirements, bundle)
    tokens = torch.arange(3, 40).unsqueeze(0)
    dtype = torch.bfloat16 if scheme == "bf16" else torch.float16
    want = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=dtype)(tokens).logits.float()
    got = transformers.AutoModelForCausalLM.from_pretrained(bundle, device_map={"": "cpu"})(tokens).logits.float()
    ours = mgpack.load(bundle, device="cpu").model(tokens).logits.float()
    assert torch.equal(got, ours)
    return close(got, want, scheme, torch.equal(got, want))


def mgpack_command(*arguments):
    import subprocess

    subprocess.run([os.environ["MGPACK"], *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def main():
    requirements, asked, root = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    root.mkdir(parents=True, exist_ok=True)
    kind, _, scheme = asked.partition("-")
    if kind == "generic":
        error = load_generic(requirements, scheme, root)
    else:
        error = load_mgm(requirements, kind, scheme, root)
    print(f"  {asked}: relative error {error:.4f}")


if __name__ == "__main__":
    main()
