"""transformers loads the bundles on a CPU, and the model still gives nearly the same logits."""

import oracles
import pytest
import torch

BNB = ("--int8", "--format", "bnb")
W8A8 = ("--int8", "--format", "compressed-tensors", "--scheme", "W8A8")
W8A16 = ("--int8", "--format", "compressed-tensors", "--scheme", "W8A16")

# Mixtral in int8 is in test_other_architectures.py, with all that have experts.
FAMILIES = ["llama", "gemma", "qwen3"]


@pytest.mark.loads("transformers", of="family")
@pytest.mark.parametrize("options", [BNB, W8A8, W8A16], ids=["bnb", "W8A8", "W8A16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_int8_logits_are_within_a_twentieth(made, family, options):
    want = oracles.logits(made.checkpoint(family))
    got = oracles.logits(made.bundle(family, *options))
    # not zero: else the model would not have been quantized at all
    assert 1e-4 < oracles.relative_error(got, want) < 0.05


@pytest.mark.loads("transformers", of="family", scheme="scheme")
@pytest.mark.parametrize("scheme", ["FP8_DYNAMIC", "FP8_BLOCK"])
@pytest.mark.parametrize("family", FAMILIES)
def test_fp8_logits_are_those_of_llm_compressors_bundle(made, family, scheme):
    want = oracles.logits(made.reference(family, scheme))
    got = oracles.logits(made.bundle(family, "--scheme", scheme))
    assert torch.equal(got, want)


@pytest.mark.loads("transformers", of="family", schemes=["bf16"])
@pytest.mark.parametrize("family", [*FAMILIES, "mixtral"])
def test_bf16_logits_are_the_originals(made, family):
    want = oracles.logits(made.checkpoint(family))
    got = oracles.logits(made.bundle(family, "--bf16"))
    assert torch.equal(got, want)
