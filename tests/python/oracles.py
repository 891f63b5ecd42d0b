"""The oracles: small checkpoints from transformers, and what torch, bitsandbytes and llm-compressor make of them."""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LLM_COMPRESSOR_LOG_DISABLED"] = "true"

import bitsandbytes
import torch
from llmcompressor import model_free_ptq
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, MixtralConfig, Qwen3Config

# Widths are multiples of 128, or W8A16 would refuse them. 32 is the size of an attention head.
SIZES = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # large enough that the layers, not the embeddings alone, decide the logits
    "initializer_range": 0.05,
}

FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4),
    "gemma": GemmaConfig(**SIZES, head_dim=32),
    "qwen3": Qwen3Config(**SIZES, head_dim=32),
}

# What model_free_ptq must leave alone: it goes by names, and would quantise embeddings and routers too.
# Its entries are whole module names, or regexes that match from the start; never substrings.
IGNORE = ["lm_head", "re:.*embed_tokens", "re:.*gate$"]

# The last part of the names of the modules that become int8.
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}


def make_checkpoint(family, dtype, folder):
    """Writes a random model as transformers saves it, in several shards."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family], dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter += torch.randn_like(parameter) * 0.1
    model.to(dtype).save_pretrained(folder, max_shard_size="200KB")


def is_linear(name):
    module, _, parameter = name.rpartition(".")
    return parameter == "weight" and module.rpartition(".")[2] in LINEAR


def read_checkpoint(folder):
    """Every tensor by name, from every shard, after checking that shards and index agree."""
    folder = Path(folder)
    tensors, shard_of = {}, {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as shard:
            for name in shard.keys():
                assert name not in tensors, f"{name} is in two shards"
                tensors[name] = shard.get_tensor(name)
                shard_of[name] = path.name
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == shard_of
    assert tensors
    return tensors


def shard_of(folder):
    return json.loads((Path(folder) / "model.safetensors.index.json").read_text())["weight_map"]


def config_of(folder):
    return json.loads((Path(folder) / "config.json").read_text())


def assert_same_bits(got, want, name):
    """Dtype, shape and every bit: -0.0 is not 0.0."""
    assert got.dtype == want.dtype, f"{name}: {got.dtype}, not {want.dtype}"
    assert got.shape == want.shape, f"{name}: {tuple(got.shape)}, not {tuple(want.shape)}"
    differing = (bytes_of(got) != bytes_of(want)).sum().item()
    assert differing == 0, f"{name}: {differing} of {bytes_of(want).numel()} bytes differ"


def bytes_of(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def bitsandbytes_int8(weight):
    """Codes and scales as `load_in_8bit` computes them: the parameter's own path, which goes through fp16."""
    parameter = bitsandbytes.nn.Int8Params(weight.clone(), requires_grad=False).to("cpu")
    return parameter.CB, parameter.SCB


def compressed_tensors(source, folder, scheme, ignore=IGNORE):
    """What llm-compressor writes for a checkpoint. On the CPU: its GPU kernel rounds differently."""
    model_free_ptq(source, folder, scheme=scheme, ignore=ignore, device="cpu")
    return folder


def logits(folder, dtype=torch.float32):
    """The logits of a fixed batch of tokens, from a model that must load without a missing or unexpected tensor."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(report.values()), report
    tokens = torch.randint(3, SIZES["vocab_size"], (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(tokens).logits.float()


def relative_error(got, want):
    return ((got - want).norm() / want.norm()).item()
