"""Counts the working memory of the classes that load a bundle, and prints it as JSON.

    python3.11 -m venv mgm && mgm/bin/pip install torch==2.5.1 torchvision==0.20.1 transformers==4.36.2 'numpy<2' \
        timm==0.9.16 open_clip_torch==2.24.0 einops==0.6.1 scipy setuptools bitsandbytes==0.41.0
    mgm/bin/python -O count_memory.py mgm MGM > memory/mgm-transformers-4.36.2.json      # Llama, Mixtral, towers
    mgm/bin/pip install transformers==4.39.0
    mgm/bin/python -O count_memory.py mgm MGM > memory/mgm-transformers-4.39.0.json      # Gemma
    python3.11 -m venv generic && generic/bin/pip install torch==2.13.0 transformers==5.23.0
    generic/bin/python count_memory.py generic > memory/generic-transformers-5.23.0.json

`MGM` is a checkout of github.com/dvlab-research/MGM at 769820c. No weight, no GPU: every tensor is torch's FakeTensor,
which has a shape and a storage of a length and no bytes. A dispatch mode follows the storages; the peak is the largest
sum of those that live at one time. README.md says what is counted and what stands in for a kernel. With -O, because
bitsandbytes asserts that its tensors lie on a GPU, and fake ones on a GPU need a driver.
"""

import functools
import gc
import gzip
import json
import math
import os
import sys
import types
from importlib.metadata import version
from pathlib import Path
from unittest import mock

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FAMILIES = Path(__file__).resolve().parents[3] / "formats" / "families"
MODELS = Path(__file__).resolve().parent / "models"
#: Sequences and tokens of each. Several sequences differ in length, so that all but one are padded.
WORKLOADS = ((1, 256), (1, 640), (1, 1024), (1, 2624), (1, 4672), (4, 640))
#: Layers that are built: one that begins and one whose input is the output of another.
LAYERS = 2
#: Columns, of a thousand, that have a value beyond bitsandbytes' threshold ("about 0.1% of all values", LLM.int8).
OUTLIERS = 1 / 1000


class Live(TorchDispatchMode):
    """The bytes of all storages that were made under it or given to it, now and at the most."""

    def __init__(self):
        super().__init__()
        self.storages, self.peak = {}, 0

    def add(self, values):
        for tensor in tree_leaves(values):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages.setdefault(StorageWeakRef(storage), storage.nbytes())

    def bytes(self):
        for dead in [ref for ref in self.storages if ref.expired()]:
            del self.storages[dead]
        return sum(self.storages.values())

    def __torch_dispatch__(self, func, kinds, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.add((args, kwargs, out))
        self.peak = max(self.peak, self.bytes())
        return out


def peak_of(model, call, *given):
    """Bytes at the most while `call` runs, beyond the weights of `model` and the buffers it has. `given`: inputs,
    which are counted."""
    gc.collect()
    live = Live()
    live.add([*model.parameters(), *model.buffers(), *int8_parts(model)])
    weights = live.bytes()
    live.add(given)
    with torch.no_grad(), live:
        result = call(*given)
    del result
    return live.peak - weights


# What has no fake kernel, or whose shape depends on values.


def attention_kernel(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """What CUDA's fused attention allocates: the output and one float32 a row of the scores. Keys and values stay
    grouped where it is asked for."""
    if attn_mask is not None:  # on CUDA, transformers 4 makes its operands contiguous where there is a mask
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    lse = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        # The kernel adds its mask: torch makes numbers of a mask of bools first.
        attn_mask = torch.zeros(attn_mask.shape, dtype=query.dtype, device=query.device)
    out = torch.empty((*query.shape[:-1], value.shape[-1]), dtype=query.dtype, device=query.device)
    del lse, attn_mask
    return out


def softmax(input, dim=None, _stacklevel=3, dtype=None, *, kernel):
    """`kernel`: "cast" writes the operand's cast to float32 out, as torch does on every device and for every type but
    one; "fused" does not, as torch does for float16 on CUDA."""
    if dtype is None or dtype == input.dtype:
        return torch._softmax(input, dim, False)
    if kernel == "fused" and input.dtype == torch.float16:
        return torch._softmax(input, dim, True)
    return torch._softmax(input.to(dtype), dim, False)


def where(*args):
    """The rows of an expert: all of them, the most that a router can send to one."""
    if len(args) == 1:
        rows = args[0].shape[-1]
        device = args[0].device
        return torch.zeros(rows, dtype=torch.long, device=device), torch.arange(rows, device=device)
    return real_where(*args)


class Mask:
    """What a class finds when it looks into the mask of a prompt: no padding, unless sequences differ in length."""

    is_padded = False

    @staticmethod
    def all(*args, **kwargs):
        return not Mask.is_padded if len(args) == 1 and not kwargs else real_all(*args, **kwargs)

    @staticmethod
    def any(*args, **kwargs):
        return Mask.is_padded if len(args) == 1 and not kwargs else real_any(*args, **kwargs)


real_where, real_all, real_any = torch.where, torch.all, torch.any


def unique(values):
    return torch.arange(unique.count, dtype=torch.int32, device=values.device)


def stand_ins(kernel):
    from transformers.modeling_attn_mask_utils import AttentionMaskConverter

    # It changes rows of the mask in place, those whose tokens all are padding.
    AttentionMaskConverter._unmask_unattended = staticmethod(lambda mask, *_, **__: mask)
    stack = mock.patch.multiple(
        torch.nn.functional,
        scaled_dot_product_attention=attention_kernel,
        softmax=functools.partial(softmax, kernel=kernel),
    )
    others = mock.patch.multiple(torch, where=where, unique=unique, all=Mask.all, any=Mask.any)
    tensor = mock.patch.multiple(
        torch.Tensor,
        # bitsandbytes asks for the number of outlying values only.
        item=lambda self: unique.values,
    )
    # An index of a list is made a tensor of the same length.
    indices = mock.patch.object(FakeTensor, "tolist", lambda self: self)
    return stack, others, tensor, indices


# int8: bitsandbytes' own code over a library of kernels that do nothing.


class Int8Linear(torch.nn.Module):
    """A Linear8bitLt whose weight was quantized already, as after loading."""

    def __init__(self, linear):
        import bitsandbytes

        super().__init__()
        rows, columns = linear.weight.shape
        device = linear.weight.device
        self.state = bitsandbytes.MatmulLtState()
        self.state.threshold, self.state.has_fp16_weights, self.state.use_pool = 6.0, False, True
        self.weight = types.SimpleNamespace(
            CB=torch.empty((rows, columns), dtype=torch.int8, device=device),
            SCB=torch.empty(rows, dtype=torch.float32, device=device),
            shape=(rows, columns),
            data=None,
        )
        self.weight.data = self.weight.CB
        self.bias = linear.bias
        self.width = columns

    def init_8bit_state(self):
        self.state.CB, self.state.SCB = self.weight.CB, self.weight.SCB
        self.weight.CB = self.weight.SCB = None

    def forward(self, x):
        import bitsandbytes

        unique.count = math.ceil(self.width * OUTLIERS)
        unique.values = math.ceil(x.numel() * OUTLIERS)
        if self.weight.CB is not None:
            self.init_8bit_state()
        weight = self.weight.data
        out = bitsandbytes.matmul(x, weight, bias=self.bias, state=self.state)
        if self.state.CB is not None and self.state.CxB is not None:
            del self.state.CB
            self.weight.data = self.state.CxB
        return out


def int8_parts(model):
    for module in model.modules():
        if isinstance(module, Int8Linear):
            yield from (module.weight.data, module.weight.SCB, module.state.SCB)


def quantize(model, skipped):
    for name, module in list(model.named_modules()):
        for child, linear in list(module.named_children()):
            path = f"{name}.{child}"
            if isinstance(linear, torch.nn.Linear) and not any(part in path for part in skipped):
                setattr(module, child, Int8Linear(linear))


def stand_in_for_kernels_of_bitsandbytes():
    if __debug__:
        raise SystemExit("run it with python -O: bitsandbytes asserts that its tensors lie on a GPU")
    import bitsandbytes.autograd._functions as functions
    import bitsandbytes.functional as functional

    if version("bitsandbytes") != "0.41.0":
        raise SystemExit("this counts what bitsandbytes 0.41.0 allocates")

    class Library:
        def __getattr__(self, name):
            return lambda *_: 0

    functional.lib = Library()
    functional.get_ptr = lambda tensor: None
    functional.is_on_gpu = lambda tensors: True
    functional.pre_call = functional.post_call = lambda device: None
    functional.CUBLAS_Context = types.SimpleNamespace(
        get_instance=lambda: types.SimpleNamespace(get_context=lambda device: None)
    )
    functions.supports_igemmlt = lambda device: True
    functions.MatmulLtState.formatB = "col_ampere"
    torch.cuda.set_device = lambda device: None


# The models.


def decoder_config(family):
    shapes = family["shapes"]
    common = {
        key: shapes[key]
        for key in (
            "hidden_size",
            "num_attention_heads",
            "num_key_value_heads",
            "intermediate_size",
            "vocab_size",
            "max_position_embeddings",
            "tie_word_embeddings",
        )
    }
    common |= {"num_hidden_layers": LAYERS, "use_cache": True}
    kind = family["model"]["model_type"]
    if kind == "mgm_gemma":
        return transformers.GemmaConfig(head_dim=shapes["head_dim"], hidden_act="gelu", **common)
    if kind == "mgm_mixtral":
        experts = {key: shapes[key] for key in ("num_local_experts", "num_experts_per_tok")}
        return transformers.MixtralConfig(sliding_window=None, **experts, **common)
    return transformers.LlamaConfig(**common)


def build(config, attention, dtype):
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cpu"):
            model = transformers.AutoModelForCausalLM.from_config(
                config, torch_dtype=dtype, attn_implementation=attention
            )
    finally:
        torch.set_default_dtype(torch.float32)
    return model.eval()


def cache_bytes(config, tokens, batch=1):
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 4 * config.num_key_value_heads * head * tokens * batch


def count_decoder(make, config, tokens, dtype, kernel, batch):
    """Bytes beyond weights and cache: of the model as a whole, of a device with decoder layers alone, of the head."""
    hidden = lambda: torch.empty((batch, tokens, config.hidden_size), dtype=dtype, device="cpu")
    counts = {}
    first, second, third, fourth = stand_ins(kernel)
    with FakeTensorMode(), first, second, third, fourth:
        model = make()
        # transformers 5 does not look into a fake mask for padding: it gets none where there is none.
        given = Mask.is_padded or transformers.__version__.startswith("4.")
        mask = torch.ones((batch, tokens), dtype=torch.long, device="cpu") if given else None
        cache = cache_bytes(config, tokens, batch) * LAYERS
        run = lambda embeds, mask: model(inputs_embeds=embeds, attention_mask=mask, use_cache=True)
        counts["whole"] = peak_of(model, run, hidden(), mask) - cache

        # A device behind the first: its layers take what the model's own loop hands them, as copies of their own.
        model = make()
        seen = {}

        def layer_alone(module, args, kwargs):
            seen["args"], seen["kwargs"] = args, kwargs
            raise StopIteration

        handle = model.model.layers[1].register_forward_pre_hook(layer_alone, with_kwargs=True)
        try:
            with torch.no_grad():
                run(hidden(), mask)
        except StopIteration:
            pass
        handle.remove()
        layer, args, kwargs = model.model.layers[1], seen.pop("args"), seen.pop("kwargs")
        kept = {key: value for key, value in kwargs.items() if key not in ("past_key_value", "past_key_values")}
        inputs = [value.clone() for value in tree_leaves((args, kept)) if isinstance(value, torch.Tensor)]
        call = lambda *_: layer(*args, **kwargs)
        model = None
        del kept
        replaced = iter(inputs)
        clone = lambda value: next(replaced) if isinstance(value, torch.Tensor) else value
        args = tuple(clone(value) for value in args)
        kwargs = {
            key: value
            if key in ("past_key_value", "past_key_values")
            else tuple(map(clone, value)) if isinstance(value, tuple) else clone(value)
            for key, value in kwargs.items()
        }
        counts["layer"] = peak_of(layer, call, *inputs) - cache_bytes(config, tokens, batch)

        model = make()
        logits = lambda hidden: head_logits(model, hidden)
        counts["head"] = peak_of(model, logits, hidden())
    return counts


def head_logits(model, hidden):
    hidden = model.model.norm(hidden)
    logits = model.lm_head(hidden)
    return logits.float() if transformers.__version__.startswith("4.") else logits


def count_towers(family, checkpoint, mgm):
    """Bytes beyond weights while MGM encodes one picture: both towers, `vlm_uni_*`, the projector."""
    sys.path.insert(0, mgm)
    sys.modules.setdefault("deepspeed", types.ModuleType("deepspeed"))
    import open_clip
    import timm
    from mgm.model.mgm_arch import MGMMetaForCausalLM
    from mgm.model.multimodal_encoder.clip_encoder import CLIPVisionTower
    from mgm.model.multimodal_encoder.openclip_encoder import CLIP, OpenCLIPVisionTower
    from mgm.model.multimodal_projector.builder import build_vision_projector
    from open_clip.factory import get_model_config
    from torch.nn import LayerNorm, Linear, Sequential

    shapes, config = family["shapes"], dict(checkpoint["config"])
    clip = transformers.CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    )
    with FakeTensorMode(), stand_ins("cast")[2]:
        with torch.device("cpu"):
            tower = CLIPVisionTower.__new__(CLIPVisionTower)
            torch.nn.Module.__init__(tower)
            tower.select_layer, tower.select_feature, tower.is_optimize = -2, "patch", False
            tower.vision_tower = transformers.CLIPVisionModel(clip)
            aux = OpenCLIPVisionTower.__new__(OpenCLIPVisionTower)
            torch.nn.Module.__init__(aux)
            aux.is_optimize = False
            trunk = timm.create_model("convnext_large", num_classes=0)
            aux.vision_stem, aux.vision_stages = trunk.stem, trunk.stages
            width, width_aux = shapes["mm_hidden_size"], shapes["mm_hidden_size_aux"]
            model = torch.nn.Module()
            model.vision_tower, model.vision_tower_aux = tower, aux
            model.mm_projector = build_vision_projector(
                types.SimpleNamespace(
                    mm_projector_type=shapes["mm_projector_type"],
                    mm_hidden_size=width,
                    hidden_size=shapes["hidden_size"],
                )
            )
            model.vlm_uni_query_projector = Sequential(LayerNorm(width), Linear(width, width))
            model.vlm_uni_aux_projector = Sequential(LayerNorm(width_aux), Linear(width_aux, width))
            model.vlm_uni_val_projector = Sequential(LayerNorm(width_aux), Linear(width_aux, width))
        model.half().eval()
        model.get_vision_tower = lambda: tower
        model.get_vision_tower_aux = lambda: aux

        class Encoder(MGMMetaForCausalLM):
            config = types.SimpleNamespace(image_grid=0, image_global=False)

            def get_model(self):
                return model

        encoder = Encoder()
        encoder.config = types.SimpleNamespace(**config)
        grid = config["image_grid"]
        tiles = grid * grid + int(config["image_global"])
        side = config["image_size_aux"]
        image = torch.empty((1, tiles, 3, 336, 336) if grid > 1 else (1, 3, 336, 336), dtype=torch.float16, device="cpu")
        image_aux = torch.empty((1, 3, side, side), dtype=torch.float16, device="cpu")
        return peak_of(model, encoder.encode_images, image, image_aux)


def count_mgm(mgm, only):
    stand_in_for_kernels_of_bitsandbytes()
    decoders, towers = [], []
    for path in sorted(FAMILIES.glob("*.json")):
        family = json.loads(path.read_text())
        pins = {pin["package"]: pin["pin"] for pin in family["requirements"]}
        if pins["transformers"] != transformers.__version__ or (only and family["name"] not in only):
            continue
        skipped = family["quantization"]["skip_modules"]
        config = decoder_config(family)
        classes = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        for attention in ("eager", "sdpa"):
            if attention == "sdpa" and not classes._supports_sdpa:
                continue  # Mixtral in 4.36.2: eager whatever torch there is
            for weights in ("fp16", "int8"):

                def make():
                    model = build(config, attention, torch.float16)
                    if weights == "int8":
                        quantize(model, skipped)
                    return model

                for batch, tokens in WORKLOADS:
                    Mask.is_padded = batch > 1
                    entry = {"family": family["name"], "attention": attention, "weights": weights}
                    entry |= {"batch": batch, "tokens": tokens}
                    count = functools.partial(count_decoder, make, config, tokens, torch.float16, batch=batch)
                    entry |= count("cast")
                    if attention == "eager":
                        fused = count("fused")
                        entry |= {f"{key}_fused": fused[key] for key in ("whole", "layer")}
                    decoders.append(entry)
                    print(entry, file=sys.stderr, flush=True)
        for checkpoint in family["checkpoints"]:
            entry = {"family": family["name"], "variant": checkpoint["variant"]}
            entry["peak"] = count_towers(family, checkpoint, mgm)
            towers.append(entry)
            print(entry, file=sys.stderr, flush=True)
    return {"decoders": decoders, "towers": towers}


def count_generic():
    """Language models of the configurations beside this script, in bfloat16."""
    decoders = []
    for path in sorted(MODELS.glob("*.generic.json.gz")):
        described = json.loads(gzip.decompress(path.read_bytes()))
        shapes = {key: value for key, value in described["config"].items() if key != "torch_dtype"}
        if shapes["hidden_size"] < 512:
            continue  # A tree made for its biases; nothing is measured on 64 columns.
        config_class = getattr(transformers, described["cls"].replace("ForCausalLM", "Config"))
        config = config_class(**shapes | {"num_hidden_layers": LAYERS})
        for attention in ("eager", "sdpa"):
            make = functools.partial(build, config, attention, torch.bfloat16)
            for batch, tokens in WORKLOADS:
                Mask.is_padded = batch > 1
                entry = {"model": path.name.split(".generic")[0], "attention": attention, "weights": "bf16"}
                entry |= {"batch": batch, "tokens": tokens}
                entry |= count_decoder(make, config, tokens, torch.bfloat16, "cast", batch)
                decoders.append(entry)
                print(entry, file=sys.stderr, flush=True)
    return {"decoders": decoders}


def main():
    counts = count_generic() if sys.argv[1] == "generic" else count_mgm(sys.argv[2], sys.argv[3:])
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    lines = {key: ",\n".join("    " + json.dumps(entry) for entry in entries) for key, entries in counts.items()}
    body = ",\n".join(f'  "{key}": [\n{text}\n  ]' for key, text in lines.items())
    print(f'{{\n  "versions": {json.dumps(versions)},\n{body}\n}}')


if __name__ == "__main__":
    main()
