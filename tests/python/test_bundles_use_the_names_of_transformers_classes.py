"""A bundle names modules as the class does that loads it, whatever the checkpoint calls them.

The oracle is transformers: its classes, and the names that `save_pretrained` gives their tensors, which are those of the
released checkpoints. Whether a client takes a linear for int8 is asked of the client's own matching. No weights: models
are built on the meta device, and the checkpoint has small zeros under the real names.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from compressed_tensors.utils import match_named_modules
from safetensors.torch import save_file
from transformers.core_model_loading import revert_weight_conversion
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.quantizers.quantizers_utils import should_convert_module

CAUSAL = "AutoModelForCausalLM"
MASKED = "AutoModelForMaskedLM"
IMAGE = "AutoModelForImageTextToText"
SPEECH = "AutoModelForSpeechSeq2Seq"
ENCODER_DECODER = "AutoModelForSeq2SeqLM"

# Renamed as a whole, and in part; heads tied under other names; embeddings that are linears; routers; hybrids.
MODELS = {
    **dict.fromkeys(
        "aria gemma3 got_ocr2 internvl llava llava_next llava_onevision mistral3 mllama paligemma vipllava qwen2_vl "
        "qwen2_5_vl qwen3_vl idefics3 smolvlm glm4v cohere2_vision lfm2_vl blip-2 ovis2 deepseek_vl".split(),
        IMAGE,
    ),
    **dict.fromkeys(
        "bloom cohere deepseek_v3 fuyu gemma gemma2 glm4 gpt_bigcode gpt_neox gpt_oss granite granitemoe jamba "
        "llama minimax mistral mixtral mpt nemotron_h olmo2 opt phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe "
        "qwen3_next starcoder2".split(),
        CAUSAL,
    ),
    **dict.fromkeys("bert roberta electra distilbert deberta-v2 modernbert camembert".split(), MASKED),
    **dict.fromkeys("qwen2_audio voxtral whisper moonshine".split(), SPEECH),
    **dict.fromkeys("t5 mt5 bart m2m_100 nllb-moe".split(), ENCODER_DECODER),
}
SPEECH_AS_TEXT = ["qwen2_audio", "voxtral"]

# The head is tied under a name that a map of several devices lacks.
ONE_DEVICE_ONLY = ["blip-2", "whisper", "moonshine"]


def shrink(config):
    """Two layers of everything, four experts."""
    sizes = {"num_hidden_layers": 2, "num_layers": 2, "n_layer": 2, "n_layers": 2, "depth": 2}
    sizes |= {"encoder_layers": 2, "decoder_layers": 2}
    sizes |= {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4}
    for name, value in sizes.items():
        if isinstance(getattr(config, name, None), int) and getattr(config, name) > value:
            setattr(config, name, value)
    if isinstance(getattr(config, "layer_types", None), list):
        with contextlib.suppress(AttributeError):  # Some follow from other fields.
            config.layer_types = config.layer_types[: config.num_hidden_layers]
    for part in ["text_config", "vision_config", "audio_config"]:
        if hasattr(getattr(config, part, None), "model_type"):
            shrink(getattr(config, part))


class Model:
    """A class of transformers with its checkpoint's names."""

    def __init__(self, model_type, folder):
        config = CONFIG_MAPPING[model_type]()
        shrink(config)
        auto = "AutoModelForMultimodalLM" if model_type in SPEECH_AS_TEXT else MODELS[model_type]
        with torch.device("meta"):
            self.model = getattr(transformers, auto).from_config(config)
        self.tied = set(self.model.all_tied_weights_keys)
        self.state = {key: value for key, value in self.model.state_dict().items() if key not in self.tied}
        self.folder = folder
        folder.mkdir()
        small = {key: self._small(value) for key, value in self._in_checkpoint(self.state).items()}
        save_file(small, folder / "model.safetensors", metadata={"format": "pt"})
        self.bytes = sum(tensor.numel() * 2 for tensor in small.values())
        config.architectures = [type(self.model).__name__]
        config.save_pretrained(folder)
        self._shrink_vocabulary(folder / "config.json")

    @staticmethod
    def _shrink_vocabulary(path):
        """To that of the small tensors: a map leaves room for the logits."""
        config = json.loads(path.read_text())
        for part in [config, config.get("text_config", {})]:
            part["vocab_size"] = 128
        path.write_text(json.dumps(config))

    def _in_checkpoint(self, tensors):
        return revert_weight_conversion(self.model, dict(tensors))

    def _small(self, tensor):
        return torch.zeros([min(size, 128) for size in tensor.shape], dtype=torch.bfloat16)

    @functools.cached_property
    def linears(self):
        """Every linear of the class, with the names of the tensors it is made of: none for tied ones."""
        modules = [name for name, module in self.model.named_modules() if isinstance(module, torch.nn.Linear)]
        return {module: self._made_of(f"{module}.weight") for module in modules}

    def _made_of(self, key):
        if key not in self.state:
            return []
        try:
            return list(self._in_checkpoint({key: self.state[key]}))
        except Exception:  # It is made with others from one tensor, and cannot be undone alone.
            return None


@pytest.fixture(scope="module", params=MODELS)
def built(request, tmp_path_factory):
    return Model(request.param, tmp_path_factory.mktemp("names") / request.param)


def convert(mgpack, built, target, *options):
    mgpack("convert", built.folder, *options, "--no-stats", "-o", target, "--progress", "none", check=True)
    config = json.loads((target / "config.json").read_text())["quantization_config"]
    tensors = json.loads((target / "mgpack.json").read_text())["tensors"]
    is_code = lambda tensor: tensor["dtype"] == "I8" or tensor["name"].endswith(".weight_packed")  # noqa: E731
    quantized = {tensor["source"] for tensor in tensors if is_code(tensor)}
    assert quantized
    return config, quantized


def assert_agree(built, quantized, taken):
    assert built.linears
    wrong = []
    for linear, made_of in built.linears.items():
        found = {name in quantized for name in made_of} if made_of is not None else set()
        # Two: it is made of parts that differ. None, where it is made of nothing: tied.
        if made_of == [] or len(found) == 1:
            wrong += [linear] if (found == {True}) != (linear in taken) else []
    assert not wrong, f"quantized in the bundle and float in the client, or the other way round: {wrong}"


@pytest.mark.loads("names", of="built", schemes=["bnb int8"])
def test_bitsandbytes_takes_the_linears_that_are_quantized_and_no_others(mgpack, built, tmp_path):
    config, quantized = convert(mgpack, built, tmp_path / "b", "--int8", "--format", "bnb")
    skip = config["llm_int8_skip_modules"]
    assert_agree(built, quantized, {name for name in built.linears if should_convert_module(name, skip)})


@pytest.mark.loads("names", of="built", scheme="scheme")
@pytest.mark.parametrize("scheme", ["W8A8", "W8A16"])
def test_compressed_tensors_takes_the_linears_that_are_quantized_and_no_others(mgpack, built, tmp_path, scheme):
    config, quantized = convert(mgpack, built, tmp_path / "b", "--scheme", scheme)
    group = config["config_groups"][scheme]
    matched = match_named_modules(built.model, group["targets"], config["ignore"])
    assert_agree(built, quantized, {name for name, _ in matched})


def test_a_map_for_one_gpu_and_for_several_has_a_place_for_every_parameter(mgpack, built, tmp_path):
    mgpack("convert", built.folder, "--bf16", "--no-stats", "--gpus", "1x8GiB", "-o", tmp_path / "one", check=True)
    assert json.loads((tmp_path / "one/device_map.json").read_text()) == {"": 0}
    if built.folder.name in ONE_DEVICE_ONLY:
        return
    # What stands on the first GPU as a whole differs, and what its layers work in: some configurations are of full size.
    for share in [0.4, 0.6, 0.8, 0.99, 1.3, 1.7, 2.3, 3, 4]:
        each = f"{int(built.bytes * share) // 1024}KiB"
        gpus = ["--gpus", ",".join(f"{at}={each}" for at in range(4)), "--reserve", "1KiB", "--context", "1"]
        done = mgpack("convert", built.folder, "--bf16", "--no-stats", *gpus, "-o", tmp_path / "several")
        if done.returncode == 0:
            break
        assert "does not fit" in done.stderr
    placed = json.loads((tmp_path / "several/device_map.json").read_text())
    assert len(set(placed.values())) > 1
    names = built.model.state_dict()
    lost = [name for name in names if not any(name == key or name.startswith(f"{key}.") for key in placed)]
    assert not lost


def test_the_data_on_architectures_is_what_the_pinned_transformers_says():
    line = [sys.executable, Path(__file__).parents[2] / "formats/architectures/make_models.py", "--check"]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, capture_output=True, text=True, timeout=900, env=offline)
    assert done.returncode == 0, done.stderr[-500:]
