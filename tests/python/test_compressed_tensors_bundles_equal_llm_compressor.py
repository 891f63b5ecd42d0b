"""`--int8 --format compressed-tensors` writes the tensors of llm-compressor's model_free_ptq on a CPU, bit for bit."""

import oracles
import pytest
from compressed_tensors.quantization import QuantizationConfig


@pytest.fixture(params=["W8A8", "W8A16", "FP8_DYNAMIC", "FP8_BLOCK"])
def scheme(request):
    return request.param


@pytest.fixture
def folders(made, checkpoint, scheme):
    """The bundle and llm-compressor's result, for one checkpoint."""
    bundle = made.bundle(checkpoint, "--int8", "--format", "compressed-tensors", "--scheme", scheme)
    return bundle, made.reference(checkpoint, scheme)


def test_the_same_tensors_have_the_same_bits(folders):
    bundle, reference = (oracles.read_checkpoint(folder) for folder in folders)
    assert set(bundle) == set(reference)
    for name, want in reference.items():
        oracles.assert_same_bits(bundle[name], want, name)
    assert sum(name.endswith(".weight_scale") for name in reference) >= 14


def test_the_quantization_config_means_the_same(folders):
    bundle, reference = (parsed(oracles.config_of(folder)["quantization_config"]) for folder in folders)
    # the key of a group is free, and so is the list of ignored modules: what it does is seen when the bundle is loaded
    assert list(bundle.config_groups.values()) == list(reference.config_groups.values())
    assert bundle.format == reference.format
    assert bundle.quantization_status == reference.quantization_status
    assert "lm_head" in bundle.ignore


def test_the_rest_of_the_config_is_the_sources(folders, made, checkpoint):
    source = oracles.config_of(made.checkpoint(checkpoint))
    config = oracles.config_of(folders[0])
    config.pop("quantization_config")
    # both names of the dtype may be there
    dtype = source.pop("dtype")
    assert {config.pop("dtype", dtype), config.pop("torch_dtype", dtype)} == {dtype}
    assert config == source


def test_scales_and_shapes_lie_in_the_shard_of_their_codes(folders):
    shards = oracles.shard_of(folders[0])
    modules = {name.removesuffix(".weight_scale") for name in shards if name.endswith(".weight_scale")}
    assert modules
    for module in modules:
        assert len({shards[name] for name in shards if name.rpartition(".")[0] == module and ".weight" in name}) == 1


def parsed(config):
    # the two keys that compressed-tensors itself takes off before it parses
    config = {key: value for key, value in config.items() if key not in ("version", "transform_config")}
    return QuantizationConfig.model_validate(config)
