"""Writes models.json: for every model type of the pinned transformers, what its class makes of a checkpoint.

    .venv/bin/python formats/architectures/make_models.py [TYPE ...]          writes it, or these entries of it
    .venv/bin/python formats/architectures/make_models.py --check [TYPE ...]  exits with 1 where it would be another

All of it takes about two minutes.

Everything is asked of transformers itself: its configurations, its classes built on the meta device with two layers, and
the renaming that it does when it loads. Run it with the versions of tests/python/requirements.txt. Nothing is downloaded.
The fields are described in formats/bundle.md,
"Architectures".
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import re
import sys
import warnings
from pathlib import Path

import torch
import transformers
from make import auto_classes, given, pin
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key, revert_weight_conversion
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

HERE = Path(__file__).resolve().parent
TARGET = HERE / "models.json"

# What is asked of the configuration of the decoder, by the names that most configurations have.
SIZES = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "kv_lora_rank",
    "qk_rope_head_dim",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "n_shared_experts",
]

# Two layers of everything, four experts.
SMALL = {"num_hidden_layers": 2, "num_layers": 2, "n_layer": 2, "n_layers": 2, "depth": 2, "encoder_layers": 2}
SMALL |= {"decoder_layers": 2, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4}

# Values that a configuration leaves to the checkpoint, or with whose defaults the class cannot be built.
MISSING = {"head_dim": 64, "num_key_value_heads": 4, "num_attention_heads": 16, "prediction_length": 8, "is_decoder": True}

# The same of single model types, by keys joined with dots.
NEEDED = {
    "aya_vision": {"vision_config.num_attention_heads": 16},
    "chameleon": {"vocabulary_map": {}},
    "dbrx": {"attn_config.rope_theta": 10000.0},
    "deepseek_ocr2": {"text_config.mlp_layer_types": ["dense", "sparse"]},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "emu3": {"vocabulary_map": {}, "text_config.pad_token_id": 0},
    "esm": {"vocab_size": 33},
    "lfm2_moe": {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
    "moonshine_streaming": {"num_key_value_heads": 4},
}


def value(config, name):
    """What a configuration has under a name; `None` where it has nothing, or another value for each layer."""
    try:
        return getattr(config, name, None)
    except Exception:
        return None


def shrink(config):
    for name, small in SMALL.items():
        found = value(config, name)
        if isinstance(found, int) and not isinstance(found, bool) and found > small:
            setattr(config, name, small)
    if isinstance(value(config, "layer_types"), list):
        with contextlib.suppress(AttributeError):  # Some follow from other fields.
            config.layer_types = config.layer_types[: config.num_hidden_layers]
    for part in config.sub_configs:
        if hasattr(value(config, part), "model_type"):
            shrink(value(config, part))


def complete(config, model_type):
    """Puts the values that this model type needs."""
    for path, some in NEEDED.get(model_type, {}).items():
        *parts, name = path.split(".")
        part = config
        for one in parts:
            part = getattr(part, one)
        setattr(part, name, some)


def fill(config):
    """Puts a value where a configuration has none."""
    for name, some in MISSING.items():
        if hasattr(config, name) and not value(config, name):
            setattr(config, name, some)
    for part in config.sub_configs:
        if hasattr(value(config, part), "model_type"):
            fill(value(config, part))


def classes_of(model_type, autos):
    """The classes for a model type, what it is for before what is more general."""
    found = [name for _, classes in autos for name, types in classes.items() if model_type in types]
    return list(dict.fromkeys(name for name in found if hasattr(transformers, name)))


def reason(error):
    """The last line of an error that is one, without what to do about it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line.split(" library ")[0] for line in lines if " library " in line), lines[-1])


def build(model_type, autos):
    """The first class that can be built with two layers; the reasons where none can."""
    why = "transformers has no class for it alone"
    for name in classes_of(model_type, autos):
        for change in [[shrink], [shrink, fill], [], [fill]]:
            try:
                config = CONFIG_MAPPING[model_type]()
                complete(config, model_type)
                for step in change:
                    step(config)
                with torch.device("meta"):
                    return getattr(transformers, name)(config), None
            except Exception as error:  # Whatever a class does with a configuration that nobody released.
                why = reason(error)
    return None, why


class Names:
    """The names of a class and those that its checkpoints may have."""

    def __init__(self, model):
        self.model, self.state = model, model.state_dict()
        # Without those for names of before 2019 (`gamma`, `beta`).
        transforms = get_model_conversion_mapping(model, add_legacy=False)
        self.renamings = [it for it in transforms if isinstance(it, WeightRenaming)]
        self.converters = [it for it in transforms if isinstance(it, WeightConverter)]
        self.back = []
        for transform in reversed(transforms):
            with contextlib.suppress(Exception):  # What cannot be undone alone.
                self.back.append(transform.reverse_transform())

    def in_class(self, name):
        """The name of the class's tensor that a checkpoint's becomes; `None` where it becomes a part of one."""
        renamed, pattern = rename_source_key(
            name, self.renamings, self.converters, self.model.base_model_prefix, self.state
        )
        if pattern is not None:
            one = next(it for it in self.converters if pattern in it.source_patterns)
            if len(one.source_patterns) > 1 or len(one.target_patterns) > 1 or "*" in pattern:
                return None
        return renamed if renamed in self.state else None

    def in_checkpoints(self, name):
        """Names that checkpoints may have for it: as transformers saves it, and with each renaming undone."""
        names = {name}
        with contextlib.suppress(Exception):
            names |= set(revert_weight_conversion(self.model, {name: self.state[name]}))
        for transform in self.back:
            if len(names) > 64:
                break
            names |= {transform.rename_source_key(one)[0] for one in sorted(names)}
        prefix = self.model.base_model_prefix + "."
        if type(self.model).__name__.endswith("ConditionalGeneration"):
            names |= {one.removeprefix(prefix) for one in sorted(names)}
        return {one for one in sorted(names) if ".model.model." not in f".{one}." and self.in_class(one) == name}

    def pairs(self):
        return sorted({(old, new) for new in self.state for old in self.in_checkpoints(new)})


def starred(name):
    """The name with `*` for its numbers, and these."""
    parts = name.split(".")
    return ".".join("*" if part.isdigit() else part for part in parts), [part for part in parts if part.isdigit()]


def generalized(pairs):
    """Pairs with `*` for numbers where one number is as good as another."""
    groups = {}
    for old, new in pairs:
        groups.setdefault(starred(old)[0], []).append((old, new))
    result = {}
    for pattern, group in groups.items():
        targets = {starred(new)[0] for _, new in group}
        if len(targets) == 1 and all(starred(old)[1] == starred(new)[1] for old, new in group):
            result[pattern] = targets.pop()
        else:
            result |= dict(group)
    return result


def rules(names):
    """The fewest prefixes from which every new name follows, so that the first that fits is right. `names`: old → new."""
    found = []

    def descend(prefix, members):
        depth = len(prefix)
        rest = lambda name: name.split(".")[depth:]  # noqa: E731
        heads = set()
        for old, new in members.items():
            tail = rest(old)
            parts = new.split(".")
            if len(parts) < len(tail) or parts[len(parts) - len(tail) :] != tail:
                heads.add(None)
            else:
                heads.add(".".join(parts[: len(parts) - len(tail)]))
        if len(heads) == 1 and None not in heads:
            head = heads.pop()
            if head != ".".join(prefix):
                found.append([".".join(prefix), head])
            return
        if set(members) == {".".join(prefix)}:
            found.append([".".join(prefix), next(iter(members.values()))])
            return
        for part, group in itertools.groupby(sorted(members, key=lambda one: one.split(".")), lambda one: one.split(".")[depth]):
            descend([*prefix, part], {one: members[one] for one in group})

    descend([], names)
    return sorted(found, key=lambda rule: (-rule[0].count("."), rule[0].count("*"), rule[0]))


def is_tower(module, model):
    """True for a model within the model that is neither the whole nor the text: of images, sound, motion."""
    if not isinstance(module, transformers.PreTrainedModel):
        return False
    text = [model.config, model.config.get_text_config(decoder=True), model.config.get_text_config(encoder=True)]
    return module.config.model_type not in [config.model_type for config in text]


def parts(model):
    """Prefixes of the lists of layers, outside towers, and those of towers."""
    layers, towers = [], []
    inside = lambda name, prefixes: any(name == one or name.startswith(one + ".") for one in prefixes)  # noqa: E731
    for name, module in model.named_modules():
        if not name or inside(name, towers) or inside(name, layers):
            continue
        if is_tower(module, model):
            towers.append(name)
        elif isinstance(module, torch.nn.ModuleList) and len(module):
            whole = set(model._no_split_modules or [])
            if isinstance(module[0], GradientCheckpointingLayer) or type(module[0]).__name__ in whole:
                layers.append(name)
    return layers, towers


def text_path(config):
    """Where the configuration of the decoder is within that of the model."""
    text = config.get_text_config(decoder=True)

    def find(one, path):
        if one is text:
            return path
        subs = [(part, value(one, part)) for part in one.sub_configs]
        found = (find(sub, [*path, part]) for part, sub in subs if hasattr(sub, "model_type"))
        return next((path for path in found if path is not None), None)

    return find(config, []) or []


def sizes(config):
    """Of the decoder: the key in config.json where it has another name, and the value where config.json has none."""
    text = type(config.get_text_config(decoder=True))
    keys = {name: text.attribute_map[name] for name in SIZES if name in text.attribute_map}
    # A field's own: what an instance has may follow from others, such as the width of a head.
    fields = {field.name: field.default for field in dataclasses.fields(text)}
    defaults = {name: fields.get(keys.get(name, name)) for name in SIZES}
    return keys, {name: default for name, default in defaults.items() if type(default) is int}


def facts(model_type, autos):
    entry = {}
    try:
        config = CONFIG_MAPPING[model_type]()
    except Exception as error:
        return {"ties": False, "unbuilt": reason(error)}
    if path := text_path(config):
        entry["text"] = path
    keys, defaults = sizes(config)
    entry |= {"keys": keys} if keys else {}
    entry |= {"defaults": defaults} if defaults else {}
    entry["ties"] = bool(value(config, "tie_word_embeddings"))
    model, why = build(model_type, autos)
    if model is None:
        return entry | {"unbuilt": why}
    entry["class"] = type(model).__name__
    names = Names(model)
    pairs = generalized(names.pairs())
    layers, towers = parts(model)
    found = {
        "renames": rules(pairs),
        "layers": layers,
        "towers": towers,
        "tied": sorted({name.rpartition(".")[0] for name in model.all_tied_weights_keys}),
        "float32": sorted(model._keep_in_fp32_modules_strict | model._keep_in_fp32_modules),
        "dropped": sorted(model._keys_to_ignore_on_load_unexpected),
        "made": [
            {"from": it.source_patterns, "to": it.target_patterns, "by": [type(op).__name__ for op in it.operations]}
            for it in names.converters
        ],
    }
    return entry | {key: value for key, value in found.items() if value}


def make(model_types):
    version = transformers.__version__
    assert version == pin("transformers"), f"transformers {version} is not the one that is pinned"
    autos = [(auto.__name__, given(auto)) for auto in auto_classes()]
    for model_type in model_types:
        yield model_type, facts(model_type, autos)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("types", nargs="*", metavar="TYPE")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    known = json.loads(TARGET.read_text())["models"] if arguments.check or arguments.types else {}
    made = json.loads(json.dumps(dict(make(arguments.types or sorted(CONFIG_MAPPING_NAMES)))))
    if arguments.check:
        wrong = [name for name, entry in made.items() if known.get(name) != entry]
        sys.exit(f"{TARGET} is not what transformers says: {', '.join(wrong)}" if wrong else None)
    lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted((known | made).items())]
    text = f'{{"transformers": {json.dumps(transformers.__version__)}, "models": {{\n' + ",\n".join(lines) + "\n}}\n"
    TARGET.write_text(text)


if __name__ == "__main__":
    main()
