"""Runs MGM's own code, unmodified, on a CPU.

MGM asks for CUDA in three places that have nothing to do with what is tested. Each is met in the test's process only:

- it replaces the device map unless the device is "cuda": `Cpu` is "cpu" and does not differ from "cuda";
- its transformers admits bitsandbytes on CUDA only: `admit_bitsandbytes`;
- it imports deepspeed, which only training uses: an empty module.

README.md has the environments.
"""

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

BINARY = Path(os.environ.get("MGPACK") or Path(__file__).resolve().parents[2] / "target/release/mgpack")
README = "see tests/mgm/README.md"


class Cpu(str):
    """A device that MGM takes for its usual one."""

    def __new__(cls):
        return str.__new__(cls, "cpu")

    def __ne__(self, other):
        return other != "cuda" and str.__ne__(self, other)

    __eq__ = str.__eq__
    __hash__ = str.__hash__


def admit_bitsandbytes(monkeypatch):
    """Lets transformers 4.36 to 4.40 use bitsandbytes on a CPU, as newer ones do."""
    import transformers.integrations.bitsandbytes as integration

    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "transformers" and module]
    for module in modules:
        if "is_bitsandbytes_available" in vars(module):
            monkeypatch.setattr(module, "is_bitsandbytes_available", lambda: True)
    monkeypatch.setattr("transformers.utils.is_bitsandbytes_available", lambda: True)
    importlib.reload(integration)  # it imports bitsandbytes where that is available
    try:
        from transformers.quantizers.quantizer_bnb_8bit import Bnb8BitHfQuantizer
    except ImportError:
        return
    monkeypatch.setattr(Bnb8BitHfQuantizer, "validate_environment", lambda self, *args, **options: None)


# Class, what its config.json has beside that of `tiny`, the name MGM dispatches on, the versions that run it.
FAMILIES = {
    "llama": ("MGMLlamaForCausalLM", {"model_type": "mgm"}, "MGM-7B", ("4.36", "4.37")),
    "mixtral": (
        "MGMMixtralForCausalLM",
        {"model_type": "mgm_mixtral", "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
        "MGM-8x7B",
        ("4.36", "4.37", "4.38"),
    ),
    "gemma": (
        "MGMGemmaForCausalLM",
        {"model_type": "mgm_gemma", "num_key_value_heads": 1, "head_dim": 64, "hidden_act": "gelu"},
        "MGM-2B",
        ("4.38", "4.39", "4.40"),
    ),
}


def require_mgm(family):
    """Skips, with the reason, what this environment cannot run."""
    import pytest

    if importlib.util.find_spec("mgm") is None:
        pytest.skip(f"MGM is not on PYTHONPATH: {README}")
    from importlib.metadata import version

    found, wanted = version("transformers"), FAMILIES[family][3]
    if not found.startswith(tuple(f"{minor}." for minor in wanted)):
        pytest.skip(f"transformers {found} is installed, MGM's {family} runs with {', '.join(wanted)}: {README}")
    import torch

    # Before anything is loaded: with two, the logits of the first model differ in the last bit. It is also faster.
    torch.set_num_threads(1)


def provide_deepspeed(folder):
    """Puts an empty module in the place of deepspeed, where it is not installed."""
    if importlib.util.find_spec("deepspeed") is None:
        (folder / "deepspeed").mkdir()
        (folder / "deepspeed" / "__init__.py").touch()
        sys.path.append(str(folder))


def mgpack(*arguments, **environment):
    if not BINARY.is_file():
        raise FileNotFoundError(f"no binary at {BINARY}: run `cargo build --release` or set MGPACK")
    line = [str(BINARY), *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr


class Made:
    """Checkpoints by MGM's own classes, and bundles of them, made when first asked for."""

    def __init__(self, root):
        self.root = root

    def tiny(self):
        """The built-in checkpoint: tokenizer, towers and the configuration come from it."""
        # A conversion keeps it in the cache; what writes nothing does not.
        cache = self.root / "cache"
        if not cache.exists():
            mgpack("convert", "tiny", "--fp16", "-o", self.root / "tiny", XDG_CACHE_HOME=str(cache))
        (folder,) = (cache / "mgpack").glob("MGM-7B-tiny-*")
        return folder

    def checkpoint(self, family, dtype):
        """A random model of MGM's class as Hugging Face initializes it (normal, 0.02), in three or more shards."""
        _, _, name, _ = FAMILIES[family]
        folder = self.root / f"{family}-{dtype}" / name
        if not folder.exists():
            make_checkpoint(family, dtype, self.tiny(), folder)
        return folder

    def bundle(self, family, dtype, scheme):
        source = self.checkpoint(family, dtype)
        folder = source.parent / f"{source.name}-{scheme}"
        if not folder.exists():
            mgpack("convert", source, f"--{scheme}", "-o", folder, "--progress", "none")
        return folder


def put(bundle, place, root):
    """A copy of a bundle where its user may have it: `as made`, `moved`, `renamed` or `behind a link`."""
    if place == "as made":
        return bundle
    name = bundle.name if place == "moved" else "prod-2b"  # MGM would take any class of this name for Gemma's, or for none
    folder = root / "another disk" / name
    shutil.copytree(bundle, folder)
    if place != "behind a link":
        return folder
    link = root / bundle.name
    link.symlink_to(folder, target_is_directory=True)
    return link


def make_checkpoint(family, dtype, tiny, folder):
    import mgm.model
    import torch
    from transformers import AutoConfig

    ours = set(tiny.glob("*.safetensors")) | {tiny / "model.safetensors.index.json"}
    shutil.copytree(tiny, folder, ignore=lambda where, names: [n for n in names if Path(where, n) in ours])
    class_name, changes, _, _ = FAMILIES[family]
    values = json.loads((tiny / "config.json").read_text())
    values.update(changes, architectures=[class_name], tie_word_embeddings=family == "gemma", torch_dtype=dtype)
    values["image_size_aux"] = 64  # the auxiliary tower has its full size, and takes most of the time
    (folder / "config.json").write_text(json.dumps(values, indent=2))
    before = os.getcwd()
    os.chdir(folder)  # the towers' paths are relative
    try:
        torch.manual_seed(7)
        model = getattr(mgm.model, class_name)(AutoConfig.from_pretrained(folder))
        wide, narrow = values["mm_hidden_size_aux"], values["mm_hidden_size"]
        for which, width in [("query", narrow), ("aux", wide), ("val", wide)]:
            layers = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, narrow))
            setattr(model.model, f"vlm_uni_{which}_projector", layers)
    finally:
        os.chdir(before)
    model.to(getattr(torch, dtype))
    weights = {name: tensor for name, tensor in model.state_dict().items() if ".vision_tower" not in name}
    assert any("vlm_uni" in name for name in weights) and any("mm_projector" in name for name in weights)
    config = (folder / "config.json").read_bytes()
    model.save_pretrained(folder, state_dict=weights, max_shard_size="2MB")
    (folder / "config.json").write_bytes(config)
    assert len(list(folder.glob("*.safetensors"))) >= 3


class Answer:
    """What a model makes of a picture and a prompt."""

    def __init__(self, logits, tokens, linear):
        self.logits, self.tokens, self.linear = logits, tokens, linear


def answer(tokenizer, model, image_processor, dtype=None):
    """Logits of every position, and eight greedy tokens. The picture is noise of a seed, through the model's processor.

    `dtype`: that of the picture; float16, as MGM's own programs give it, unless the model was made another.
    """
    import numpy
    import torch
    from mgm.mm_utils import tokenizer_image_token
    from PIL import Image

    prompt = "USER: <image>\nWhat is the colour of the coat? ASSISTANT:"
    tokens = tokenizer_image_token(prompt, tokenizer, -200, return_tensors="pt").unsqueeze(0)
    pixels = numpy.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=numpy.uint8)
    picture = image_processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    small = picture.to(dtype or torch.float16)
    side = model.config.image_size_aux
    large = torch.nn.functional.interpolate(picture, (side, side), mode="bilinear").to(small.dtype)
    images = {"images": small, "images_aux": large}
    with torch.inference_mode():
        # MGM builds its auxiliary tower after the model was told to evaluate, so that its DropPath draws random numbers.
        torch.manual_seed(0)
        logits = model(tokens, **images).logits.float()
        greedy = {"do_sample": False, "max_new_tokens": 8, "use_cache": True, "pad_token_id": 0}
        generated = model.generate(tokens, **images, **greedy)
    return Answer(logits, generated.tolist(), type(model.model.layers[0].self_attn.q_proj).__name__)
