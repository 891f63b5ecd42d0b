"""What the other tests take for granted about transformers and llm-compressor. Needs no binary."""

import oracles
import pytest


def test_every_checkpoint_has_several_shards(made, checkpoint):
    shards = set(oracles.shard_of(made.checkpoint(checkpoint)).values())
    assert len(shards) >= 3


def test_transformers_writes_mixtral_expert_by_expert(made):
    # In memory they are one 3-D tensor since transformers 5; save_pretrained takes them apart again.
    names = oracles.read_checkpoint(made.checkpoint("mixtral"))
    for expert in range(4):
        for part in ("w1", "w2", "w3"):
            assert f"model.layers.1.block_sparse_moe.experts.{expert}.{part}.weight" in names
    assert "model.layers.0.block_sparse_moe.gate.weight" in names


@pytest.mark.parametrize("scheme", ["W8A8", "W8A16"])
def test_llm_compressor_quantizes_the_linear_modules_and_no_others(made, checkpoint, scheme):
    source = oracles.read_checkpoint(made.checkpoint(checkpoint))
    written = oracles.read_checkpoint(made.reference(checkpoint, scheme))
    quantized = {name.removesuffix("_scale") for name in written if name.endswith(".weight_scale")}
    linear = {name for name in source if oracles.is_linear(name)}
    assert quantized == linear and linear


def test_llm_compressor_keeps_shard_names_and_drops_the_shards_metadata(made):
    source, written = made.checkpoint("llama"), made.reference("llama", "W8A8")
    assert sorted(p.name for p in source.iterdir()) == sorted(p.name for p in written.iterdir())
    placed, before = oracles.shard_of(written), oracles.shard_of(source)
    assert all(placed[name] == before[name] for name in before)


@pytest.mark.parametrize("family", ["llama", "gemma", "qwen3"])
def test_transformers_loads_what_llm_compressor_writes(made, family):
    want = oracles.logits(made.checkpoint(family))
    got = oracles.logits(made.reference(family, "W8A8"))
    assert 1e-4 < oracles.relative_error(got, want) < 0.05


def test_transformers_cannot_load_mixtral_quantized_expert_by_expert(made):
    # The day this fails, Mixtral joins the models of test_transformers_loads_the_bundles.py.
    with pytest.raises(RuntimeError, match="automatic conversion of the weights"):
        oracles.logits(made.reference("mixtral", "W8A8"))
