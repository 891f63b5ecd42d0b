"""Torch files as torch writes them give the bundle of the same safetensors, and the towers load where MGM loads them."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, CLIPVisionModel

AUX = "model_zoo/OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup"
CLIP = "model_zoo/OpenAI/clip-vit-large-patch14-336"


def without_source(folder):
    manifest = json.loads((folder / "mgpack.json").read_text())
    assert manifest.pop("source") and manifest.pop("seal")
    return manifest


@pytest.mark.parametrize("family", ["llama", "gemma"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_model_saved_by_torch_gives_the_bundle_of_its_safetensors(made, mgpack, tmp_path, family, legacy):
    source = made.checkpoint(family)
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    folder = tmp_path / source.name
    folder.mkdir()
    for path in source.iterdir():
        if "safetensors" not in path.name:
            (folder / path.name).write_bytes(path.read_bytes())
    state = model.state_dict()
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    if family == "gemma":
        assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()
    # The card names the folder.
    ours, theirs = tmp_path / "ours/out", tmp_path / "theirs/out"
    mgpack("convert", folder, "--int8", "-o", ours, "--progress", "none", check=True)
    mgpack("convert", source, "--int8", "-o", theirs, "--progress", "none", check=True)
    assert without_source(ours) == without_source(theirs)
    names = {path.name for path in ours.iterdir()}
    assert names == {path.name for path in theirs.iterdir()}
    for name in names - {"mgpack.json"}:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def test_the_towers_load_with_torch_and_transformers(mgpack, tmp_path):
    bundle = tmp_path / "MGM-7B-tiny-int8"
    mgpack("convert", "tiny", "--int8", "-o", bundle, "--progress", "none", check=True)
    state = torch.load(bundle / AUX / "open_clip_pytorch_model.bin", map_location="cpu", weights_only=True)
    assert len(state) == 340 and {tensor.dtype for tensor in state.values()} == {torch.float16}
    assert all(name.startswith(("visual.trunk.stem.", "visual.trunk.stages.")) for name in state)
    assert state["visual.trunk.stages.3.blocks.0.mlp.fc1.weight"].shape == (6144, 1536)
    mapped = torch.load(bundle / AUX / "open_clip_pytorch_model.bin", map_location="cpu", weights_only=True, mmap=True)
    assert all(torch.equal(mapped[name], tensor) for name, tensor in state.items())

    weights = load_file(bundle / CLIP / "model.safetensors")
    model, report = CLIPVisionModel.from_pretrained(bundle / CLIP, dtype="auto", output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"], report
    loaded = model.state_dict()
    assert weights and {tensor.dtype for tensor in weights.values()} == {torch.float16}
    for name, tensor in weights.items():
        own = name if name in loaded else name.removeprefix("vision_model.")
        assert torch.equal(loaded[own], tensor), name
