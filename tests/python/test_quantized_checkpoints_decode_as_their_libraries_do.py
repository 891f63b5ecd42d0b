"""Checkpoints that llm-compressor, transformers and bitsandbytes write quantized become what the same libraries decode them to."""

import json

import bitsandbytes
import oracles
import pytest
import torch
from compressed_tensors.entrypoints.convert import CompressedTensorsDequantizer, FP8BlockDequantizer
from conftest import mgpack
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

# Presets of compressed-tensors, each with the part that tells it from plain weights.
PRESETS = {
    "W8A8": "weight_scale",
    "W8A16": "weight_packed",
    "W4A16": "weight_packed",
    "W4A16_ASYM": "weight_zero_point",
    "FP8_DYNAMIC": "weight_scale",
    "FP8_BLOCK": "weight_scale",
    "MXFP4A16": "weight_packed",
    "MXFP8A16": "weight_scale",
}


def convert(source, folder, *options):
    done = mgpack("convert", source, *options, "-o", folder, "--progress", "none", check=True)
    return oracles.read_checkpoint(folder), done.stderr


def write(folder, tensors, config):
    """Two shards, so that scales and codes lie apart."""
    folder.mkdir()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[0::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name].contiguous() for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def assert_equal(got, want):
    assert got.keys() == want.keys(), sorted(got.keys() ^ want.keys())
    for name, tensor in want.items():
        oracles.assert_same_bits(got[name], tensor.to(torch.bfloat16), name)


def assert_plain(folder):
    text = (folder / "config.json").read_text()
    assert "quantization_config" not in text and "compression_config" not in text
    tensors = json.loads((folder / "mgpack.json").read_text())["tensors"]
    decoded = [tensor["decoding"] for tensor in tensors if "decoding" in tensor]
    assert decoded and all(len(decoding["parts"]) > 1 for decoding in decoded)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_of_compressed_tensors(made, tmp_path, preset):
    source = made.reference("llama", preset)
    stored = oracles.read_checkpoint(source)
    assert any(name.endswith("." + PRESETS[preset]) for name in stored)
    got, talk = convert(source, tmp_path / "b", "--bf16")
    dequantizer = CompressedTensorsDequantizer(str(source), dtype=torch.bfloat16)
    assert_equal(got, dequantizer.process(dict(stored)))
    assert_plain(tmp_path / "b")
    assert "weights are decoded from codes: 14 of" in talk


@pytest.mark.parametrize("place", ["compression_config", "text_config", "beside", "none"])
def test_the_key_may_stand_elsewhere_or_nowhere(made, tmp_path, place):
    source = made.reference("llama", "W4A16")
    tensors, config = oracles.read_checkpoint(source), oracles.config_of(source)
    want, _ = convert(source, tmp_path / "want", "--bf16")
    key = config.pop("quantization_config")
    if place == "text_config":
        config["text_config"] = {"quantization_config": key, "rope": {"theta": 1e4}}
    elif place == "compression_config":
        config[place] = {"quantization_config": key, "sparsity_config": {}}
    write(tmp_path / "moved", tensors, config)
    if place == "beside":
        (tmp_path / "moved" / "hf_quant_config.json").write_text(json.dumps({"quantization": key}))
    got, _ = convert(tmp_path / "moved", tmp_path / "b", "--bf16")
    assert_equal(got, want)
    assert_plain(tmp_path / "b")
    assert not (tmp_path / "b" / "hf_quant_config.json").exists()


@pytest.mark.parametrize("block", [(128, 128), (64, 64), (32, 128)])
@pytest.mark.parametrize("scale", [torch.float32, torch.bfloat16])
def test_fp8_blocks_as_deepseek_writes_them(made, tmp_path, block, scale):
    weights = oracles.read_checkpoint(made.checkpoint("llama"))
    config = oracles.config_of(made.checkpoint("llama"))
    stored = {}
    for name, weight in weights.items():
        if not oracles.is_linear(name):
            stored[name] = weight
            continue
        # edges that are no multiple of the block
        weight = weight[:-7, :-3].float()
        grid = [-(-side // length) for side, length in zip(weight.shape, block)]
        generator = torch.Generator().manual_seed(len(name))
        scales = torch.rand(grid, generator=generator).exp().mul(1e-3).to(scale)
        wide = scales.float().repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
        stored[name] = (weight / wide[: weight.shape[0], : weight.shape[1]]).clamp(-448, 448).to(torch.float8_e4m3fn)
        stored[name + "_scale_inv"] = scales
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": list(block)}
    write(tmp_path / "source", stored, config)
    got, _ = convert(tmp_path / "source", tmp_path / "b", "--bf16")
    targets = [name.removesuffix(".weight") for name in stored if name + "_scale_inv" in stored]
    dequantizer = FP8BlockDequantizer(targets=targets, weight_block_size=block)
    assert_equal(got, dequantizer.process(dict(stored)))
    assert_plain(tmp_path / "b")


def test_int8_of_bitsandbytes(made, tmp_path):
    weights = oracles.read_checkpoint(made.checkpoint("llama-f16"))
    config = oracles.config_of(made.checkpoint("llama-f16"))
    stored, want, half = {}, {}, {}
    for name, weight in weights.items():
        if not oracles.is_linear(name):
            stored[name] = want[name] = half[name] = weight
            continue
        codes, scb = oracles.bitsandbytes_int8(weight)
        module = name.removesuffix(".weight")
        stored |= {name: codes, module + ".SCB": scb, module + ".weight_format": torch.tensor(0, dtype=torch.uint8)}
        want[name] = bitsandbytes.functional.int8_vectorwise_dequant(codes, scb)
        half[name] = want[name].half()
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    write(tmp_path / "source", stored, config)
    got, _ = convert(tmp_path / "source", tmp_path / "b", "--bf16")
    assert_equal(got, want)
    # the model is one of float16, and that is what its weights are decoded to
    got, _ = convert(tmp_path / "source", tmp_path / "h", "--fp16")
    for name, tensor in half.items():
        oracles.assert_same_bits(got[name], tensor, name)


def test_experts_of_gpt_oss(tmp_path):
    generator = torch.Generator().manual_seed(0)
    stored, want = {}, {"model.norm.weight": torch.ones(64, dtype=torch.bfloat16)}
    stored |= want
    # one that is turned in several panels
    for layer, (out, blocks) in enumerate([(5760, 90), (96, 3)]):
        name = f"model.layers.{layer}.mlp.experts.gate_up_proj"
        stored[name + "_blocks"] = torch.randint(0, 256, (2, out, blocks, 16), dtype=torch.uint8, generator=generator)
        stored[name + "_scales"] = torch.randint(100, 130, (2, out, blocks), dtype=torch.uint8, generator=generator)
        want[name] = convert_moe_packed_tensors(stored[name + "_blocks"], stored[name + "_scales"])
    config = {"model_type": "gpt_oss", "torch_dtype": "bfloat16", "quantization_config": {"quant_method": "mxfp4"}}
    write(tmp_path / "source", stored, config)
    for threads in ("1", "4"):
        got, _ = convert(tmp_path / "source", tmp_path / f"b{threads}", "--bf16", "-j", threads)
        assert_equal(got, want)
    assert_plain(tmp_path / "b4")


def test_one_scale_a_tensor_as_modelopt_writes_it(made, tmp_path):
    weights = oracles.read_checkpoint(made.checkpoint("llama"))
    stored, want = {}, {}
    for name, weight in weights.items():
        stored[name] = want[name] = weight
        if oracles.is_linear(name):
            module, scale = name.removesuffix(".weight"), weight.float().abs().max() / 448
            stored[name] = (weight.float() / scale).to(torch.float8_e4m3fn)
            stored |= {module + ".weight_scale": scale, module + ".input_scale": torch.tensor(0.25)}
            want[name] = stored[name].float() * scale
        if name.endswith("k_proj.weight"):
            stored[module + ".k_scale"] = torch.tensor(0.5)
    write(tmp_path / "source", stored, oracles.config_of(made.checkpoint("llama")))
    quantization = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    (tmp_path / "source" / "hf_quant_config.json").write_text(json.dumps(quantization))
    got, talk = convert(tmp_path / "source", tmp_path / "b", "--bf16")
    assert_equal(got, want)
    assert_plain(tmp_path / "b")
    assert "2 calibrated scales of the cache are left out" in talk
    # vLLM reads them where the bundle is compressed-tensors'
    got, talk = convert(tmp_path / "source", tmp_path / "q", "--scheme", "W8A8")
    assert sum(name.endswith("k_proj.k_scale") for name in got) == 2
    assert "2 calibrated scales of the cache are kept" in talk


@pytest.mark.parametrize("scheme", [["--scheme", "W8A8"], ["--scheme", "W8A16"], ["--scheme", "FP8_BLOCK"]])
def test_what_is_decoded_quantizes_as_its_floats_would(made, tmp_path, scheme):
    source = made.reference("llama", "FP8_DYNAMIC")
    convert(source, tmp_path / "floats", "--bf16")
    want, _ = convert(tmp_path / "floats", tmp_path / "twice", *scheme)
    got, _ = convert(source, tmp_path / "once", *scheme)
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        oracles.assert_same_bits(got[name], tensor, name)


@pytest.mark.parametrize("scheme", [["--scheme", "W8A8"], ["--scheme", "W8A16"], ["--scheme", "FP8_DYNAMIC"], ["--int8", "--format", "bnb"]])
def test_a_bundle_converts_to_what_it_stands_for(made, tmp_path, scheme):
    bundle = made.bundle("llama", *scheme)
    got, talk = convert(bundle, tmp_path / "b", "--bf16")
    assert "the source is a bundle" in talk
    assert_plain(tmp_path / "b")
    stored = oracles.read_checkpoint(bundle)
    if "bnb" in scheme:
        for name in got:
            if oracles.is_linear(name):
                scb = stored[name.removesuffix("weight") + "SCB"]
                want = bitsandbytes.functional.int8_vectorwise_dequant(stored[name], scb)
                oracles.assert_same_bits(got[name], want.to(torch.bfloat16), name)
    else:
        dequantizer = CompressedTensorsDequantizer(str(bundle), dtype=torch.bfloat16)
        assert_equal(got, dequantizer.process(dict(stored)))


def test_a_stale_key_over_plain_weights_is_left_out(made, tmp_path):
    weights = oracles.read_checkpoint(made.checkpoint("llama"))
    config = oracles.config_of(made.checkpoint("llama"))
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    write(tmp_path / "source", weights, config)
    got, talk = convert(tmp_path / "source", tmp_path / "b", "--bf16")
    assert_equal(got, weights)
    assert "`quantization_config` (`fp8`) says that the weights are quantized; they are plain" in talk
    assert "quantization_config" not in (tmp_path / "b" / "config.json").read_text()
    assert "decoding" not in (tmp_path / "b" / "mgpack.json").read_text()


