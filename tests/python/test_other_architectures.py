"""Architectures of today convert as generic checkpoints, and transformers loads what the bundles are for.

DeepSeek-V3's kind (GLM-4.7-Flash, Kimi K2.5), experts one by one (Qwen3-MoE, Mixtral) and as one tensor (Llama 4), and
vision towers (Kimi K2.5, PaddleOCR-VL).
"""

import json

import architectures
import oracles
import pytest
import torch
from compressed_tensors.entrypoints.convert import CompressedTensorsDequantizer
from transformers import BitsAndBytesConfig

ALL = list(architectures.CONFIGS)
FUSED = "llama4_text"
LOADED_IN_INT8 = [name for name in ALL if name != FUSED]

BNB = ("--int8", "--format", "bnb")
W8A8 = ("--scheme", "W8A8")
W8A16 = ("--scheme", "W8A16")

# What is not the decoder layers', by the names in the checkpoint and in the class: model_free_ptq goes by the former, the
# loader by the latter. So for routers, one of which is called `gate` and another `router`.
NOT_LAYERS = [
    "re:.*lm_head",
    "re:.*embed_tokens",
    "re:.*[.](gate|router)$",
    "re:.*(visual|vision_tower)",
    "re:.*(mlp_AR|projector)",
]


@pytest.fixture(params=ALL)
def name(request):
    return request.param


@pytest.mark.parametrize(
    ("name", "tensor", "shape", "dtype"),
    [
        ("glm4_moe_lite", "model.layers.1.mlp.experts.3.down_proj.weight", (128, 128), torch.bfloat16),
        ("glm4_moe_lite", "model.layers.1.mlp.gate.e_score_correction_bias", (4,), torch.float32),
        ("glm4_moe_lite", "model.layers.0.self_attn.kv_a_proj_with_mqa.weight", (144, 128), torch.bfloat16),
        ("kimi_k25", "language_model.model.layers.1.mlp.experts.0.up_proj.weight", (128, 128), torch.bfloat16),
        ("kimi_k25", "language_model.model.layers.1.mlp.gate.e_score_correction_bias", (4,), torch.float32),
        ("kimi_k25", "vision_tower.encoder.blocks.1.wqkv.weight", (192, 64), torch.bfloat16),
        ("kimi_k25", "mm_projector.proj.0.weight", (256, 256), torch.bfloat16),
        ("llama4_text", "model.layers.1.feed_forward.experts.gate_up_proj", (4, 128, 512), torch.bfloat16),
        ("llama4_text", "model.layers.1.feed_forward.experts.down_proj", (4, 256, 128), torch.bfloat16),
        ("mixtral", "model.layers.1.block_sparse_moe.experts.3.w2.weight", (128, 256), torch.bfloat16),
        ("paddleocr_vl", "visual.vision_model.encoder.layers.1.self_attn.k_proj.weight", (64, 64), torch.bfloat16),
        ("paddleocr_vl", "mlp_AR.linear_1.weight", (256, 256), torch.bfloat16),
        ("qwen3_moe", "model.layers.1.mlp.experts.3.gate_proj.weight", (128, 128), torch.bfloat16),
    ],
)
def test_the_checkpoints_are_built_as_the_released_ones(made, name, tensor, shape, dtype):
    found = oracles.read_checkpoint(made.checkpoint(name))[tensor]
    assert tuple(found.shape) == shape
    assert found.dtype == dtype


@pytest.mark.loads("transformers", of="name", scheme="option")
@pytest.mark.parametrize(("option", "dtype"), [("--bf16", torch.bfloat16), ("--fp16", torch.float16)])
def test_16_bit_bundles_of_f32_checkpoints_equal_a_cast_by_torch(made, name, option, dtype):
    source = made.checkpoint(f"{name}-f32")
    want = architectures.logits(name, architectures.load(name, source, dtype=dtype))
    bundle = architectures.load(name, made.bundle(f"{name}-f32", option))
    assert bundle.dtype == dtype
    assert torch.equal(architectures.logits(name, bundle), want)


@pytest.mark.parametrize("name", ["glm4_moe_lite", "kimi_k25"])
@pytest.mark.parametrize("options", [("--bf16",), ("--fp16",), BNB, W8A16], ids=" ".join)
def test_the_bias_that_routes_tokens_keeps_every_bit(made, name, options):
    source = oracles.read_checkpoint(made.checkpoint(name))
    bundle = oracles.read_checkpoint(made.bundle(name, *options))
    biases = [tensor for tensor in source if tensor.endswith("e_score_correction_bias")]
    assert biases
    for tensor in biases:
        assert not torch.equal(source[tensor].bfloat16().float(), source[tensor]), "a cast would not show"
        oracles.assert_same_bits(bundle[tensor], source[tensor], tensor)


@pytest.mark.loads("transformers", of="name", schemes=["bnb int8"])
@pytest.mark.parametrize("name", LOADED_IN_INT8)
def test_bnb_bundles_give_the_logits_of_bitsandbytes_own(made, name):
    # What transformers quantizes itself when told to leave alone what mgpack does: heads and towers, and kv_b_proj,
    # with which bitsandbytes fails in forward.
    skip = ["lm_head", "kv_b_proj", r".*(visual|vision_tower|projector)[^.]*"]
    own = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    want = architectures.logits(name, architectures.load(name, made.checkpoint(name), quantization_config=own))
    got = architectures.logits(name, architectures.load(name, made.bundle(name, *BNB)))
    assert torch.equal(got, want)
    assert_is_quantized(made, name, got)


@pytest.mark.loads("transformers", of="name")
@pytest.mark.parametrize(
    ("name", "options"), [*[(name, W8A16) for name in LOADED_IN_INT8], ("paddleocr_vl", W8A8)], ids=str
)
def test_compressed_tensors_bundles_give_the_logits_of_llm_compressors(made, name, options):
    reference = made.reference(name, options[1], NOT_LAYERS)
    want = architectures.logits(name, architectures.load(name, reference))
    got = architectures.logits(name, architectures.load(name, made.bundle(name, *options)))
    assert torch.equal(got, want)
    assert_is_quantized(made, name, got)


def assert_is_quantized(made, name, got):
    original = architectures.logits(name, architectures.load(name, made.checkpoint(name)))
    assert 1e-4 < oracles.relative_error(got, original) < 0.1


@pytest.mark.loads("not transformers", of="name", schemes=["W8A8"])
@pytest.mark.parametrize("name", architectures.WITH_EXPERTS)
def test_w8a8_bundles_with_experts_are_for_vllm_and_say_so(made, mgpack, tmp_path, name):
    done = mgpack("convert", made.checkpoint(name), *W8A8, "-o", tmp_path / "b", "--progress", "none", check=True)
    assert "this bundle is for vLLM on a GPU; W8A16 with all experts quantized loads in transformers" in done.stderr
    assert "this bundle is for vLLM" in (tmp_path / "b/README.md").read_text()
    # They hold what llm-compressor writes, which is what vLLM reads ...
    bundle, reference = oracles.read_checkpoint(tmp_path / "b"), made.reference(name, "W8A8", NOT_LAYERS)
    reference = oracles.read_checkpoint(reference)
    assert set(bundle) == set(reference)
    for tensor in bundle:
        oracles.assert_same_bits(bundle[tensor], reference[tensor], tensor)
    # ... and transformers does not. Where this no longer raises, the notice has become wrong.
    with pytest.raises(RuntimeError, match="automatic conversion of the weights"):
        architectures.load(name, tmp_path / "b")


@pytest.mark.parametrize("name", architectures.WITH_EXPERTS)
def test_experts_stay_float_for_bitsandbytes_and_the_plan_says_why(made, mgpack, name):
    done = mgpack("plan", made.checkpoint(name), *BNB, "--json", check=True)
    tensors = {tensor["name"]: tensor for tensor in json.loads(done.stdout)["tensors"]}
    experts = [tensor for name, tensor in tensors.items() if ".experts." in name]
    assert experts
    for tensor in experts:
        assert tensor["fate"] == "copy"
        assert "bitsandbytes quantizes linears only" in json.dumps(tensor)
    shown = mgpack("plan", made.checkpoint(name), *BNB, check=True).stdout
    assert "experts stay float" in " ".join(shown.split()), "folded to the screen's width"


@pytest.mark.loads("not transformers", of=FUSED)
@pytest.mark.parametrize("options", [("--int8",), W8A16], ids=" ".join)
def test_fused_experts_stay_float_and_are_for_vllm(made, mgpack, tmp_path, options):
    source = made.checkpoint(FUSED)
    done = mgpack("convert", source, *options, "-o", tmp_path / "b", "--progress", "none", check=True)
    assert "this bundle is for vLLM" in done.stderr
    originals, bundle = oracles.read_checkpoint(source), oracles.read_checkpoint(tmp_path / "b")
    fused = [name for name in originals if originals[name].dim() == 3]
    assert len(fused) == 2
    for tensor in fused:
        oracles.assert_same_bits(bundle[tensor], originals[tensor], tensor)
    assert r"re:.*\.experts\." in oracles.config_of(tmp_path / "b")["quantization_config"]["ignore"]


@pytest.mark.loads("refused", of=FUSED, schemes=["bnb int8"])
def test_fused_experts_with_bitsandbytes_are_refused(made, mgpack, tmp_path):
    done = mgpack("convert", made.checkpoint(FUSED), *BNB, "-o", tmp_path / "b")
    assert done.returncode == 1
    assert "no client loads fused experts" in done.stderr
    assert not (tmp_path / "b").exists()
    # Nor does transformers load what it wrote itself.
    own = BitsAndBytesConfig(load_in_8bit=True)
    model = architectures.load(FUSED, made.checkpoint(FUSED), quantization_config=own)
    model.save_pretrained(tmp_path / "own")
    with pytest.raises(NotImplementedError):
        architectures.load(FUSED, tmp_path / "own")


@pytest.mark.parametrize("place", ["top", "text_config"])
def test_experts_in_int4_are_decoded_wherever_the_config_says_so(made, mgpack, tmp_path, place):
    # Kimi K2.5 is released with its experts packed to int4, and its config.json says so in the part for text.
    name = "kimi_k25"
    ignore = [*NOT_LAYERS, "re:.*self_attn", "re:.*shared_experts", "re:.*mlp[.](gate|up|down)_proj"]
    folder = oracles.compressed_tensors(made.checkpoint(name), tmp_path / "int4", "W4A16", ignore)
    stored = oracles.read_checkpoint(folder)
    assert any(tensor.endswith(".experts.0.up_proj.weight_packed") for tensor in stored)
    config = oracles.config_of(folder)
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    want = CompressedTensorsDequantizer(str(folder), dtype=torch.bfloat16).process(stored)
    if place == "text_config":
        config["text_config"]["quantization_config"] = config.pop("quantization_config")
        (folder / "config.json").write_text(json.dumps(config))
    # It is one that loads.
    architectures.load(name, folder)
    mgpack("convert", folder, "--bf16", "-o", tmp_path / "b", check=True)
    got = oracles.read_checkpoint(tmp_path / "b")
    assert got.keys() == want.keys()
    for tensor in want:
        oracles.assert_same_bits(got[tensor], want[tensor], tensor)
    config = oracles.config_of(tmp_path / "b")
    assert "quantization_config" not in config and "quantization_config" not in config["text_config"]
    # As floats it loads as any other.
    architectures.load(name, tmp_path / "b")


def test_device_maps_cover_the_model_and_place_it(made, tmp_path, name):
    bundle = made.bundle(name, "--bf16")
    # On one device the map is the root's entry alone; the manifest lists the modules.
    assert json.loads((bundle / "device_map.json").read_text()) == {"": 0}
    device_map = [why["module"] for why in json.loads((bundle / "mgpack.json").read_text())["device_maps"][0]["why"]]
    assert len(device_map) > 3
    want = architectures.load(name, made.checkpoint(name))
    for tensor in want.state_dict():
        assert any(tensor.startswith(module + ".") for module in device_map), f"{tensor} is on no device"
    for module in device_map:
        want.get_submodule(module)
    # With one layer elsewhere accelerate checks that the map covers the model, and moves what passes through.
    placed = dict.fromkeys(device_map, "cpu") | {next(m for m in device_map if m.endswith(".layers.0")): "disk"}
    parted = architectures.load(name, bundle, device_map=placed, offload_folder=tmp_path)
    assert parted.hf_device_map == placed
    assert torch.equal(architectures.logits(name, parted), architectures.logits(name, want))


def test_a_map_leaves_the_room_that_the_cache_of_keys_and_values_takes(made, mgpack, tmp_path, name):
    context, batch = 24, 2
    room = ["--gpus", "1x1GiB", "--context", str(context), "--batch", str(batch)]
    mgpack("convert", made.checkpoint(name), "--bf16", *room, "-o", tmp_path / "b", check=True)
    used = json.loads((tmp_path / "b/mgpack.json").read_text())["device_maps"][0]["used"]["0"]
    model = architectures.load(name, tmp_path / "b")
    tokens = torch.randint(3, 200, (batch, context), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cache = model(input_ids=tokens, use_cache=True).past_key_values
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    assert used["kv"] == sum(tensor.nbytes for tensor in tensors)
