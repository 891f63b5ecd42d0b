"""MGM's `load_pretrained_model`, unmodified, and `mgpack.load` over it: three classes, three schemes.

The oracle is the checkpoint itself in the same loader. The bundle is loaded as its card says: the working directory is
the bundle, and the map is the bundle's with "cpu" in the place of its GPU. int8 goes to one device: transformers 4.36
refuses a map that has both "cpu" and several keys, since it takes it for offloading.
"""

import functools
import json

import pytest
from harness import FAMILIES, Cpu, admit_bitsandbytes, answer, require_mgm

# Relative error of int8 logits: rounding of the weights, and what bitsandbytes loses by quantizing activations.
INT8_LIMIT = {"llama": 0.03, "mixtral": 0.045, "gemma": 0.03}

SIXTEEN_BITS = [("bfloat16", "fp16"), ("bfloat16", "bf16"), ("float16", "fp16")]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    require_mgm(request.param)
    return request.param


@functools.cache
def original(made, family, dtype):
    """What the checkpoint answers."""
    folder = made.checkpoint(family, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return answer(*load_pretrained_model(str(folder), folder.name, {"": "cpu"}))


def load_pretrained_model(path, name, device_map):
    from mgm.model.builder import load_pretrained_model

    return load_pretrained_model(path, None, name, device_map=device_map, device=Cpu())[:3]


def relative_error(got, want):
    return ((got.logits - want.logits).norm() / want.logits.norm()).item()


def agreement(got, want):
    return (got.logits.argmax(-1) == want.logits.argmax(-1)).float().mean().item()


@pytest.mark.parametrize(("dtype", "scheme"), SIXTEEN_BITS)
def test_16_bit_bundles_answer_bit_for_bit_as_the_checkpoint(made, family, dtype, scheme, monkeypatch):
    import torch

    want = original(made, family, dtype)
    folder = made.bundle(family, dtype, scheme)
    monkeypatch.chdir(folder)
    device_map = {module: "cpu" for module in json.loads((folder / "device_map.json").read_text())}
    assert len(device_map) > 8
    got = answer(*load_pretrained_model(".", folder.name, device_map))
    assert want.logits.std() > 0.01
    assert torch.equal(got.logits, want.logits)
    assert got.tokens == want.tokens


def test_int8_bundles_answer_nearly_as_the_checkpoint(made, family, monkeypatch):
    want = original(made, family, "bfloat16")
    folder = made.bundle(family, "bfloat16", "int8")
    monkeypatch.chdir(folder)
    admit_bitsandbytes(monkeypatch)
    got = answer(*load_pretrained_model(".", folder.name, {"": "cpu"}))
    assert got.linear == "Linear8bitLt"
    error = relative_error(got, want)
    print(f"{family} int8: relative error {error:.4f}, argmax agreement {agreement(got, want):.3f}")
    # Not zero: else nothing would have been quantized.
    assert 1e-3 < error <= INT8_LIMIT[family]


@pytest.mark.parametrize("scheme", ["fp16", "bf16", "int8"])
def test_mgpack_load_gives_the_same_from_any_folder(made, family, scheme, monkeypatch, tmp_path):
    import torch

    mgpack = pytest.importorskip("mgpack", reason="mgpack for Python is not installed")
    want = original(made, family, "bfloat16")
    folder = made.bundle(family, "bfloat16", scheme)
    # Another name, which MGM would take for another class.
    folder = folder.rename(folder.with_name(f"renamed-2b-{scheme}"))
    try:
        monkeypatch.chdir(tmp_path)
        if scheme == "int8":
            with pytest.raises(mgpack.LoadError, match="bitsandbytes"):
                mgpack.load(folder, device="cpu", check_versions="no")
            admit_bitsandbytes(monkeypatch)
        tokenizer, model, image_processor, context_len = mgpack.load(
            folder, device="cpu", check_versions="no", verify="full"
        )
        got = answer(tokenizer, model, image_processor)
        assert type(model).__name__ == FAMILIES[family][0] and context_len == 2048
        # No path of this machine in a configuration that may be saved.
        assert not model.config.mm_vision_tower.startswith("/")
    finally:
        folder.rename(folder.with_name(f"{FAMILIES[family][2]}-{scheme}"))
    if scheme == "int8":
        assert got.linear == "Linear8bitLt" and relative_error(got, want) <= INT8_LIMIT[family]
    else:
        assert torch.equal(got.logits, want.logits) and got.tokens == want.tokens
