"""A small Llama checkpoint, written with nothing but the standard library: before there is any environment."""

import json
import random
import struct

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def tensors():
    """Name → shape."""
    wide, inner, words = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    yield "model.embed_tokens.weight", (words, wide)
    for layer in range(CONFIG["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, rows in [("q", wide), ("k", wide // 2), ("v", wide // 2), ("o", wide)]:
            yield f"{at}self_attn.{name}_proj.weight", (rows, wide)
        for name, shape in [("gate", (inner, wide)), ("up", (inner, wide)), ("down", (wide, inner))]:
            yield f"{at}mlp.{name}_proj.weight", shape
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}{name}.weight", (wide,)
    yield "model.norm.weight", (wide,)
    yield "lm_head.weight", (words, wide)


def write(folder):
    """bfloat16, normal with a deviation of 0.05; norms are one."""
    folder.mkdir(parents=True)
    numbers = random.Random(7)
    header, data = {"__metadata__": {"format": "pt"}}, bytearray()
    for name, shape in tensors():
        values = [1.0] * shape[0] if len(shape) == 1 else [numbers.gauss(0, 0.05) for _ in range(shape[0] * shape[1])]
        begin = len(data)
        packed = struct.pack(f"<{len(values)}f", *values)
        # The upper half of each float: bfloat16, cut off.
        data += b"".join(packed[at + 2 : at + 4] for at in range(0, len(packed), 4))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2))
