"""`--fp16` and `--bf16` write what `tensor.to(dtype)` gives."""

import oracles
import pytest
import torch


@pytest.mark.parametrize(("option", "dtype"), [("--fp16", torch.float16), ("--bf16", torch.bfloat16)])
def test_every_tensor_is_cast_as_torch_does(made, checkpoint, option, dtype):
    source = oracles.read_checkpoint(made.checkpoint(checkpoint))
    bundle = oracles.read_checkpoint(made.bundle(checkpoint, option))
    assert set(bundle) == set(source)
    for name, tensor in source.items():
        oracles.assert_same_bits(bundle[name], tensor.to(dtype), name)


@pytest.mark.parametrize(("option", "dtype"), [("--fp16", "float16"), ("--bf16", "bfloat16")])
def test_the_config_names_the_new_dtype(made, checkpoint, option, dtype):
    config = oracles.config_of(made.bundle(checkpoint, option))
    named = [config[key] for key in ("dtype", "torch_dtype") if key in config]
    assert named and set(named) == {dtype}
    assert "quantization_config" not in config
