"""Classes that do more with a linear's weight than multiply by it: what is left float, refused, or said to be for vLLM.

Where transformers can load more than is said here, these tests fail, and the notice has become wrong.
"""

import json

import oracles
import pytest
import torch
import transformers
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, BitsAndBytesConfig

SIZES = {"vocab_size": 256, "hidden_size": 128, "num_hidden_layers": 2}
MAMBA = SIZES | {"state_size": 16}
OLD = {"vocab_size": 256, "n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 128}
T5 = {"vocab_size": 256, "d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4}

CONFIGS = {
    "falcon": transformers.FalconConfig(**SIZES, num_attention_heads=4),
    "falcon_mamba": transformers.FalconMambaConfig(**MAMBA),
    "gpt2": transformers.GPT2Config(**OLD),
    "gpt_bigcode": transformers.GPTBigCodeConfig(**OLD),
    "mamba": transformers.MambaConfig(**MAMBA),
    "mamba2": transformers.Mamba2Config(**MAMBA, num_heads=8, head_dim=32, n_groups=1),
    "modernbert": transformers.ModernBertConfig(
        **SIZES, intermediate_size=256, num_attention_heads=4, pad_token_id=0, cls_token_id=1, sep_token_id=2
    ),
    "longt5": transformers.LongT5Config(**T5, decoder_start_token_id=0),
    "mt5": transformers.MT5Config(**T5, decoder_start_token_id=0),
    "t5": transformers.T5Config(**T5, decoder_start_token_id=0),
    "umt5": transformers.UMT5Config(**T5, decoder_start_token_id=0),
}
ENCODER_DECODER = ["longt5", "mt5", "t5", "umt5"]
READ_PACKED = ["falcon", "falcon_mamba", "gpt_bigcode", "mamba", "mamba2", "modernbert", *ENCODER_DECODER]


def auto_class(name):
    if name in ENCODER_DECODER:
        return AutoModelForSeq2SeqLM
    return AutoModelForMaskedLM if name == "modernbert" else AutoModelForCausalLM


@pytest.fixture
def source(request, tmp_path):
    torch.manual_seed(0)
    name = request.param
    auto_class(name).from_config(CONFIGS[name], dtype=torch.bfloat16).save_pretrained(tmp_path / name)
    return tmp_path / name


def logits(folder, **options):
    model = auto_class(folder.name).from_pretrained(folder, dtype=torch.bfloat16, **options).eval()
    tokens = torch.randint(3, 200, (2, 16), generator=torch.Generator().manual_seed(0))
    inputs = {"decoder_input_ids": tokens} if folder.name in ENCODER_DECODER else {}
    with torch.no_grad():
        return model(input_ids=tokens, **inputs).logits.float()


def convert(mgpack, source, *options):
    target = source.parent / "bundle" / source.name
    target.parent.mkdir(exist_ok=True)
    return target, mgpack("convert", source, *options, "-o", target, "--progress", "none")


@pytest.mark.parametrize("source", ["gpt2"], indirect=True)
@pytest.mark.parametrize("options", [("--int8",), ("--int8", "--format", "bnb"), ("--scheme", "W8A16")], ids=" ".join)
def test_transposed_weights_stay_float_and_the_refusal_says_why(mgpack, source, options):
    target, done = convert(mgpack, source, *options)
    assert done.returncode == 2
    assert "8 × transposed (Conv1D): its rows are inputs, not outputs" in done.stderr
    assert not target.exists()
    with safe_open(source / "model.safetensors", "pt") as file:
        assert file.get_slice("transformer.h.0.attn.c_attn.weight").get_shape() == [128, 3 * 128]


@pytest.mark.parametrize("source", READ_PACKED, indirect=True)
def test_packed_weights_that_a_class_reads_itself_are_for_vllm_and_the_notice_says_so(mgpack, source):
    target, done = convert(mgpack, source, "--scheme", "W8A16")
    assert done.returncode == 0
    assert "with packed weights, which its class reads itself: this bundle is for vLLM" in done.stderr
    with pytest.raises(AttributeError, match="has no attribute 'weight'"):
        logits(target)


@pytest.mark.parametrize("source", READ_PACKED, indirect=True)
def test_w8a8_of_these_classes_loads_and_agrees_with_the_checkpoint(mgpack, source):
    target, done = convert(mgpack, source, "--scheme", "W8A8")
    assert done.returncode == 0
    assert 1e-4 < oracles.relative_error(logits(target), logits(source)) < 0.1


@pytest.mark.parametrize("source", ["falcon", "mamba"], indirect=True)
def test_what_bitsandbytes_makes_nothing_of_is_refused_in_its_layout(mgpack, source):
    target, done = convert(mgpack, source, "--int8", "--format", "bnb")
    assert done.returncode == 1
    assert "no client loads this architecture with scheme bnb-int8" in done.stderr
    assert not target.exists()
    # transformers itself leaves the one float and fails on the other.
    own = BitsAndBytesConfig(load_in_8bit=True)
    if source.name == "falcon":
        assert torch.equal(logits(source, quantization_config=own), logits(source))
    else:
        with pytest.raises(RuntimeError, match="same dtype"):
            logits(source, quantization_config=own)


@pytest.mark.parametrize("source", ["mt5", "t5", "umt5"], indirect=True)
def test_t5_keeps_the_weight_whose_type_it_looks_at(mgpack, source):
    own = logits(source, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    target, done = convert(mgpack, source, "--int8", "--format", "bnb")
    assert done.returncode == 0
    assert torch.equal(logits(target), own)
    tensors = json.loads((target / "mgpack.json").read_text())["tensors"]
    codes = {tensor["name"] for tensor in tensors if tensor["dtype"] == "I8"}
    feed_forward = {name.rsplit(".", 2)[1] for name in codes if ".DenseReluDense." in name}
    assert feed_forward in ({"wi"}, {"wi_0", "wi_1"})
