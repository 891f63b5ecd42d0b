"""`--int8 --format bnb` writes what bitsandbytes computes on a CPU, bit for bit."""

import oracles
import pytest
import torch
from safetensors import safe_open

OPTIONS = ("--int8", "--format", "bnb")


def becomes_int8(name):
    # transformers 5 fuses experts, and bitsandbytes has linears only
    return oracles.is_linear(name) and ".experts." not in name


@pytest.fixture
def both(made, checkpoint):
    """The source's tensors and the bundle's."""
    source = oracles.read_checkpoint(made.checkpoint(checkpoint))
    return source, oracles.read_checkpoint(made.bundle(checkpoint, *OPTIONS))


def test_every_source_tensor_is_accounted_for_and_nothing_is_added(both):
    source, bundle = both
    want = set(source)
    for name in source:
        if becomes_int8(name):
            module = name.removesuffix("weight")
            want |= {module + "SCB", module + "weight_format"}
    assert set(bundle) == want


def test_every_linear_weight_has_the_codes_and_scales_of_bitsandbytes(both):
    source, bundle = both
    compared = 0
    for name, weight in source.items():
        if not becomes_int8(name):
            continue
        codes, scales = oracles.bitsandbytes_int8(weight)
        module = name.removesuffix("weight")
        oracles.assert_same_bits(bundle[name], codes, name)
        oracles.assert_same_bits(bundle[module + "SCB"], scales, module + "SCB")
        oracles.assert_same_bits(bundle[module + "weight_format"], torch.tensor(0, dtype=torch.uint8), module + "weight_format")
        compared += codes.numel()
    assert compared > 90_000


def test_every_other_tensor_keeps_its_values(both):
    # bf16 or fp16: the loaders of this layout read both
    source, bundle = both
    kept = [name for name in source if not becomes_int8(name)]
    assert kept
    for name in kept:
        want = source[name] if bundle[name].dtype == source[name].dtype else source[name].half()
        oracles.assert_same_bits(bundle[name], want, name)


def test_scales_lie_in_the_shard_of_their_weight(made, checkpoint):
    shards = oracles.shard_of(made.bundle(checkpoint, *OPTIONS))
    scales = [name for name in shards if name.endswith(".SCB")]
    assert scales
    for name in scales:
        assert shards[name] == shards[name.removesuffix("SCB") + "weight"]


def test_every_shard_says_that_it_is_for_torch(made, checkpoint):
    # MGM's transformers refuses a shard without it
    shards = list(made.bundle(checkpoint, *OPTIONS).glob("*.safetensors"))
    assert shards
    for path in shards:
        with safe_open(path, framework="pt") as shard:
            assert shard.metadata()["format"] == "pt"
