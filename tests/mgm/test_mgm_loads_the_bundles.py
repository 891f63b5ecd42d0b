"""MGM's `load_pretrained_model`, unmodified, and `mgpack.load` over it: three classes, three schemes.

The oracle is the checkpoint itself in the same loader. The bundle is loaded as its card says: the working directory is
the bundle, and the map is the bundle's with "cpu" in the place of its GPU. int8 goes to one device: transformers 4.36
refuses a map that has both "cpu" and several keys, since it takes it for offloading. A bundle is where its user may have
it: as it was made, moved, renamed, behind a link.
"""

import functools
import json

import pytest
from harness import FAMILIES, Cpu, admit_bitsandbytes, answer, put, require_mgm

# Relative error of int8 logits: rounding of the weights, and what bitsandbytes loses by quantizing activations.
INT8_LIMIT = {"llama": 0.03, "mixtral": 0.045, "gemma": 0.03}

SIXTEEN_BITS = [("bfloat16", "fp16", "as made"), ("bfloat16", "bf16", "moved"), ("float16", "fp16", "renamed")]


@pytest.fixture(scope="module")
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


def measured(got, want):
    agreement = (got.logits.argmax(-1) == want.logits.argmax(-1)).float().mean().item()
    return f"relative error {relative_error(got, want):.4f}, argmax agreement {agreement:.3f}"


@pytest.mark.loads("mgm", of="family", scheme="scheme")
@pytest.mark.parametrize(("dtype", "scheme", "place"), SIXTEEN_BITS)
def test_16_bit_bundles_answer_bit_for_bit_as_the_checkpoint(
    made, family, dtype, scheme, place, monkeypatch, tmp_path, record_property
):
    import torch

    want = original(made, family, dtype)
    bundle = made.bundle(family, dtype, scheme)
    folder = put(bundle, place, tmp_path)
    monkeypatch.chdir(folder)
    device_map = {module: "cpu" for module in json.loads((folder / "device_map.json").read_text())}
    assert len(device_map) > 8
    got = answer(*load_pretrained_model(".", bundle.name, device_map))
    assert want.logits.std() > 0.01
    record_property(family, f"{scheme} of {dtype}, {place}: {measured(got, want)}")
    assert torch.equal(got.logits, want.logits)
    assert got.tokens == want.tokens


@pytest.mark.loads("mgm", of="family", schemes=["int8"])
def test_int8_bundles_answer_nearly_as_the_checkpoint(made, family, monkeypatch, tmp_path, record_property):
    from mgm.mm_utils import get_model_name_from_path

    want = original(made, family, "bfloat16")
    # A link of the right name serves MGM, whatever the folder is called.
    link = put(made.bundle(family, "bfloat16", "int8"), "behind a link", tmp_path)
    assert link.resolve().name == "prod-2b"
    monkeypatch.chdir(link)
    admit_bitsandbytes(monkeypatch)
    got = answer(*load_pretrained_model(str(link), get_model_name_from_path(str(link)), {"": "cpu"}))
    assert got.linear == "Linear8bitLt"
    error = relative_error(got, want)
    record_property(family, f"int8 of bfloat16: {measured(got, want)}")
    # Not zero: else nothing would have been quantized.
    assert 1e-3 < error <= INT8_LIMIT[family]


def test_mgm_by_itself_finds_the_towers_only_from_inside_the_bundle(made, family, monkeypatch, tmp_path):
    """Why the card changes the working directory."""
    import torch

    folder = made.bundle(family, "bfloat16", "fp16")
    monkeypatch.chdir(tmp_path)
    try:
        with pytest.raises(ValueError, match="Not find vision tower: model_zoo/OpenAI/"):
            load_pretrained_model(str(folder), folder.name, {"": "cpu"})
    finally:
        # transformers leaves it at float16 where a class fails, and what is loaded next is then not bit-equal.
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("scheme", "place"), [("fp16", "renamed"), ("bf16", "moved"), ("int8", "behind a link")]
)
def test_mgpack_load_gives_the_same_from_any_folder(made, family, scheme, place, monkeypatch, tmp_path):
    import mgpack
    import torch

    want = original(made, family, "bfloat16")
    folder = put(made.bundle(family, "bfloat16", scheme), place, tmp_path)
    # The towers are those of the bundle, also where the working directory has folders of their names.
    for tower in (folder / "model_zoo/OpenAI").iterdir():
        (tmp_path / "model_zoo/OpenAI" / tower.name).mkdir(parents=True)
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
    if scheme == "int8":
        assert got.linear == "Linear8bitLt" and relative_error(got, want) <= INT8_LIMIT[family]
    else:
        assert torch.equal(got.logits, want.logits) and got.tokens == want.tokens
