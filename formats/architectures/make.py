"""Writes classes.json: for every model class of the pinned transformers, what loads it and what it reads.

    .venv/bin/python formats/architectures/make.py            writes it
    .venv/bin/python formats/architectures/make.py --check    exits with 1 where it would be another

Everything is asked of transformers itself: its Auto classes' mappings, its classes' `forward`. Run it with the versions of
tests/python/requirements.txt. Nothing is downloaded, no model is built.
"""

import argparse
import inspect
import json
import re
import sys
from pathlib import Path

import transformers

HERE = Path(__file__).resolve().parent
PINS = HERE.parents[1] / "tests/python/requirements.txt"

# Of several Auto classes that give the same class, the first here is named: what the class is for, then what is more
# general. Those that are not here come after `EARLY` by their names, and `LATE` at the end.
EARLY = [
    "AutoModelForImageTextToText",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForMaskedLM",
    "AutoModelForImageClassification",
    "AutoModelForZeroShotImageClassification",
]
LATE = ["AutoModelForMultimodalLM", "AutoModelForPreTraining", "AutoModel", "AutoModelForTextEncoding"]

# Parameter of `forward` → what it holds.
SENSES = {
    "input_ids": "text",
    "pixel_values": "image",
    "input_features": "audio",
    "input_values": "audio",
    "pixel_values_videos": "video",
}

# Packages that a card's example needs beside the bundle's own requirements.
EXTRA = ["pillow", "sentence-transformers"]


def auto_classes():
    """Every Auto class of models, in the order in which they are preferred."""
    names = [name for name in dir(transformers) if re.fullmatch(r"AutoModel(For\w+)?", name)]
    missing = set(EARLY + LATE) - set(names)
    assert not missing, f"transformers has no {missing}"
    rest = sorted(set(names) - set(EARLY + LATE))
    return [getattr(transformers, name) for name in EARLY + rest + LATE]


def given(auto):
    """Class → the model types for which an Auto class gives it."""
    classes = {}
    for model_type, found in auto._model_mapping._model_mapping.items():
        # Of several the Auto class takes the one that config.json's `architectures` names.
        for name in [found] if isinstance(found, str) else found:
            classes.setdefault(name, []).append(model_type)
    return classes


def model_classes():
    """Every model class that can be imported from transformers and has weights of its own."""
    for name in sorted(dir(transformers)):
        if name.startswith("_") or name.endswith("PreTrainedModel"):
            continue
        found = getattr(transformers, name)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            yield name, found


def facts(name, found, autos):
    parameters = list(inspect.signature(found.forward).parameters)
    main = found.main_input_name
    asked = set(parameters) | set([main] if isinstance(main, str) else main)
    own = getattr(found.config_class, "model_type", None)
    takes = sorted({sense for parameter, sense in SENSES.items() if parameter in asked})
    videos = transformers.models.auto.modeling_auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES
    if own in videos and takes == ["image"]:
        takes = ["video"]  # Frames, under the name of pictures.
    giving = [auto for auto, classes in autos if name in classes]
    if takes == ["text"]:
        # Some map their language model under both.
        giving.sort(key=lambda auto: auto in EARLY[:2])
    auto = giving[0] if giving else None
    model_types = dict(autos)[auto][name] if auto else [own] if own else []
    entry = {"auto": auto, "reader": reader(auto, takes), "takes": takes, "model_types": sorted(model_types)}
    if "decoder_input_ids" in asked:
        entry["decoder"] = True
    return entry


def reader(auto, takes):
    """What prepares the input of a class that takes these."""
    if takes == ["text"]:
        return "AutoTokenizer"
    if takes == ["image"]:
        return "AutoImageProcessor"
    # What writes text needs a tokenizer beside.
    if takes == ["audio"] and auto not in ["AutoModelForCTC", "AutoModelForSpeechSeq2Seq"]:
        return "AutoFeatureExtractor"
    return None if takes in ([], ["video"]) else "AutoProcessor"


def pin(package):
    found = re.search(rf"^{re.escape(package)}==(\S+)$", PINS.read_text(), re.MULTILINE)
    assert found, f"{PINS} does not pin {package}"
    return found[1]


def make():
    version = transformers.__version__
    assert version == pin("transformers"), f"transformers {version} is not the one that {PINS} pins"
    autos = [(auto.__name__, given(auto)) for auto in auto_classes()]
    classes = {name: facts(name, found, autos) for name, found in model_classes()}
    lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in classes.items()]
    packages = json.dumps({package: pin(package) for package in EXTRA})
    body = ",\n".join(lines)
    return f'{{"transformers": {json.dumps(version)}, "packages": {packages}, "classes": {{\n{body}\n}}}}\n'


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    target = HERE / "classes.json"
    text = make()
    if parser.parse_args().check:
        sys.exit(None if target.read_text() == text else f"{target} is not what transformers {transformers.__version__} says")
    target.write_text(text)
