"""Small checkpoints of other architectures: random weights in the released files' names, shapes and dtypes.

The classes are transformers' own. What `save_pretrained` of 5.23.0 writes otherwise than the released files is put
right here: it renames the decoder layers of Kimi K2.5 to `blocks`, and leaves `model.` before two of its modules.
"""

import json
from pathlib import Path

import oracles
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Glm4MoeLiteConfig,
    Kimi_K25Config,
    Llama4TextConfig,
    MixtralConfig,
    PaddleOCRVLConfig,
    Qwen3MoeConfig,
)

# Multi-head latent attention and experts as in DeepSeek-V3. The first layer is dense.
LATENT = oracles.SIZES | {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 128,
    "q_lora_rank": 128,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
}

# Below 128, so that W8A16 cannot take a tower's linear for one of its own.
VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}

IMAGE_TOKEN = 250
SPECIAL = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": 251,
    "vision_start_token_id": 252,
    "vision_end_token_id": 253,
    "tie_word_embeddings": False,
}

CONFIGS = {
    "glm4_moe_lite": Glm4MoeLiteConfig(**LATENT),
    "kimi_k25": Kimi_K25Config(
        text_config=LATENT | {"model_type": "deepseek_v3", "first_k_dense_replace": 1},
        vision_config=VISION | {"pos_emb_height": 8, "pos_emb_width": 8},
        projection_hidden_size=64,
        **SPECIAL,
    ),
    "llama4_text": Llama4TextConfig(
        **oracles.SIZES, head_dim=32, num_local_experts=4, intermediate_size_mlp=256, interleave_moe_layer_step=2
    ),
    "mixtral": MixtralConfig(**oracles.SIZES, num_local_experts=4),
    "paddleocr_vl": PaddleOCRVLConfig(
        text_config=oracles.SIZES
        | {
            "head_dim": 32,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 500000.0},
        },
        vision_config=VISION | {"image_size": 56},
        **SPECIAL,
    ),
    "qwen3_moe": Qwen3MoeConfig(
        **oracles.SIZES, head_dim=32, moe_intermediate_size=128, num_experts=4, num_experts_per_tok=2
    ),
}

WITH_VISION = ["kimi_k25", "paddleocr_vl"]
# Experts one by one; those of Llama 4 are one tensor.
WITH_EXPERTS = ["glm4_moe_lite", "kimi_k25", "mixtral", "qwen3_moe"]


def auto_class(name):
    return AutoModelForImageTextToText if name in WITH_VISION else AutoModelForCausalLM


def make_checkpoint(name, dtype, folder):
    torch.manual_seed(0)
    model = auto_class(name).from_config(CONFIGS[name], dtype=torch.float32)
    with torch.no_grad():
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if key.endswith(("norm.weight", "e_score_correction_bias")):
                tensor += torch.randn_like(tensor) * 0.1
    biases = {key: buffer for key, buffer in model.named_buffers() if key.endswith("e_score_correction_bias")}
    biases = {key: buffer.clone() for key, buffer in biases.items()}
    model.to(dtype)
    for key, bias in biases.items():
        module, _, last = key.rpartition(".")
        setattr(model.get_submodule(module), last, bias)
    model.save_pretrained(folder, max_shard_size="200KB")
    if name == "kimi_k25":
        rename(Path(folder), kimi_name)


def kimi_name(name):
    if name.startswith("language_model."):
        name = name.replace(".blocks.", ".layers.")
    name = name.replace("model.mm_projector.", "mm_projector.")
    return name.replace("vision_tower.encoder.patch_embed.", "vision_tower.patch_embed.")


def rename(folder, new_name):
    index = folder / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"] = {new_name(name): shard for name, shard in listed["weight_map"].items()}
    index.write_text(json.dumps(listed))
    for shard in folder.glob("*.safetensors"):
        tensors = {new_name(name): tensor for name, tensor in load_file(shard).items()}
        save_file(tensors, shard, metadata={"format": "pt"})


def load(name, folder, **options):
    """The model, which must load without a missing, unexpected or mismatched tensor."""
    model, report = auto_class(name).from_pretrained(folder, output_loading_info=True, **options)
    assert not any(report.values()), report
    return model.eval()


def logits(name, model):
    """The logits of a fixed batch of tokens, with an image in its midst where the model has a tower."""
    numbers = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 200, (2, 24), generator=numbers)
    inputs = {}
    if name in WITH_VISION:
        # four by four patches each; two by two become one token
        tokens[:, 4:8] = IMAGE_TOKEN
        inputs["image_grid_thw"] = torch.tensor([[1, 4, 4]] * 2)
        inputs["pixel_values"] = torch.randn(32, 3, 14, 14, generator=numbers).to(model.dtype)
        if name == "paddleocr_vl":
            inputs["mm_token_type_ids"] = (tokens == IMAGE_TOKEN).int()
    with torch.no_grad():
        return model(input_ids=tokens, **inputs).logits.float()
