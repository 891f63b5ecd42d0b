"""`mgpack.load`: generic bundles for real on a CPU, and every refusal before a weight is read.

MGM's loader itself is run in tests/mgm, where MGM is.
"""

import json
import shutil
from types import SimpleNamespace

import mgpack
import numpy
import pytest
import torch
from mgpack import placement
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPImageProcessor,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

GIB = 1 << 30


def logits(model):
    tokens = torch.arange(3, 35).reshape(2, 16)
    with torch.inference_mode():
        return model(tokens).logits.float()


def test_a_bf16_bundle_gives_the_models_own_logits_from_any_folder(made, tmp_path, monkeypatch):
    want = logits(LlamaForCausalLM.from_pretrained(made.checkpoint(), dtype=torch.bfloat16))
    folder = made.generic("--bf16")
    monkeypatch.chdir(tmp_path)
    loaded = mgpack.load(folder, device="cpu")
    tokenizer, model, processor, context_len = loaded
    assert type(model) is LlamaForCausalLM and model is loaded.model
    assert (tokenizer, processor, context_len) == (None, None, 128)
    assert torch.equal(logits(model), want)


@pytest.mark.parametrize("options", [["--int8"], ["--int8", "--format", "bnb"], ["--scheme", "W8A16"]])
def test_quantized_bundles_load_and_are_close(made, options):
    want = logits(LlamaForCausalLM.from_pretrained(made.checkpoint(), dtype=torch.float32))
    got = logits(mgpack.load(made.generic(*options), device="cpu", verify="full").model)
    # Not zero: else nothing would have been quantized.
    assert 1e-4 < ((got - want).norm() / want.norm()).item() < 0.05


class Loaded(Exception):
    """The transformers' loader was called."""


@pytest.fixture
def loader(monkeypatch):
    """Ends the load where transformers would begin, and tells what it was given."""

    def from_pretrained(path, **options):
        raise Loaded(options)

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", from_pretrained)


@pytest.mark.parametrize("breakage", ["deleted", "truncated", "flipped"])
@pytest.mark.parametrize("kind", ["generic", "mgm"])
def test_a_broken_file_is_named_before_anything_is_loaded(made, copy, loader, kind, breakage):
    folder = copy(made.generic("--int8") if kind == "generic" else made.mgm("--int8"))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) >= (8 if kind == "generic" else 15)
    for path in files:
        good = path.read_bytes()
        if breakage == "deleted":
            path.unlink()
        elif breakage == "truncated":
            path.write_bytes(good[:-1])
        else:
            path.write_bytes(good[:-1] + bytes([good[-1] ^ 0x40]))
        with pytest.raises(mgpack.BundleError) as raised:
            mgpack.load(folder, device="cpu", check_versions="no", verify="full")
        assert path.relative_to(folder).as_posix() in str(raised.value)
        path.write_bytes(good)
    with pytest.raises((Loaded, mgpack.LoadError)):
        mgpack.load(folder, device="cpu", check_versions="no", verify="full")


def test_a_file_that_was_added_is_refused(made, copy, loader):
    folder = copy(made.generic("--int8"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(mgpack.BundleError, match="adapter_config.json"):
        mgpack.load(folder, device="cpu")


def test_wrong_versions_are_told_with_the_line_that_installs_the_right_ones(made, copy):
    folder = copy(made.mgm("--int8"))
    for shard in folder.glob("*.safetensors"):
        shard.unlink()  # versions come first: no weight is looked for
    with pytest.raises(mgpack.VersionError) as raised:
        mgpack.load(folder, device="cpu")
    needs = {need["package"]: need for need in mgpack.open(folder).manifest["requirements"]}
    wrong = {miss.package for miss in raised.value.mismatches}
    assert {"transformers", "accelerate", "timm"} <= wrong
    for package in wrong:
        assert needs[package]["range"] in str(raised.value)
    pins = [f"{need['package']}=={need['pin']}" for need in needs.values() if need["package"] in wrong]
    assert raised.value.help == f"pip install {' '.join(pins)}"


def test_a_wrong_python_is_told_with_the_one_to_use(made):
    bundle = mgpack.open(made.mgm("--int8"))
    pins = {need["package"]: need["pin"] for need in bundle.manifest["requirements"]}
    installed = {**pins, "python": "3.13.0"}
    (miss,) = mgpack.versions.mismatches(bundle, installed.get)
    assert miss.package == "python"
    error = mgpack.versions.version_error(bundle, (miss,))
    assert f"Python {pins['python']}" in error.help and "requirements.txt" in error.help


def test_local_versions_and_every_pin_meet_the_ranges(made):
    for bundle in map(mgpack.open, (made.mgm("--int8"), made.generic("--int8"))):
        pins = {need["package"]: need["pin"] for need in bundle.manifest["requirements"]}
        assert mgpack.versions.mismatches(bundle, pins.get) == ()
        assert mgpack.versions.mismatches(bundle, lambda name: pins[name] + "+cu121") == ()
        assert {miss.package for miss in mgpack.versions.mismatches(bundle, lambda _: None)} == set(pins)


def test_without_mgm_a_whole_bundle_of_it_says_what_is_missing(made):
    with pytest.raises(mgpack.MissingPackageError, match="no Python module `mgm`") as raised:
        mgpack.load(made.mgm("--fp16"), device="cpu", check_versions="no")
    assert isinstance(raised.value, ImportError) and "git clone" in raised.value.help


def test_versions_can_be_a_warning(made):
    with pytest.warns(mgpack.Notice, match="help: pip install torch=="), pytest.raises(mgpack.MissingPackageError):
        mgpack.load(made.mgm("--fp16"), device="cpu", check_versions="warn")


def placed(folder, **options):
    """The device map that the loader gets."""
    with pytest.raises(Loaded) as raised:
        mgpack.load(folder, **options)
    return raised.value.args[0]["device_map"]


def test_the_map_in_the_bundle_is_taken_where_the_gpus_are_those_of_its_table(made, loader):
    folder = made.generic("--fp16", "--gpus=2x600KiB", "--context=16", "--reserve=64KiB")
    own = json.loads((folder / "device_map.json").read_text())
    assert set(own.values()) == {0, 1}
    table = mgpack.open(folder).manifest["device_maps"][0]["memory"]["table"]
    assert placed(folder, memory={int(device): free for device, free in table.items()}) == own


def test_other_gpus_get_a_map_of_their_own(made, loader):
    folder = made.generic("--fp16", "--gpus=2x600KiB", "--context=16", "--reserve=64KiB")
    own = json.loads((folder / "device_map.json").read_text())
    # One device needs no names of modules.
    assert placed(folder, memory={0: GIB}) == {"": 0}
    # A bundle that was planned for no table in particular is planned for what is there.
    two = placed(made.generic("--fp16"), memory={0: 600 << 10, 1: 2 << 20}, context=16, reserve=64 << 10)
    assert set(two) == set(own) and set(two.values()) == {0, 1}


def test_a_model_that_does_not_fit_is_refused_with_the_shortfall(made, loader, monkeypatch):
    with pytest.raises(mgpack.DeviceMapError, match="are missing on gpu 0"):
        mgpack.load(made.generic("--fp16"), memory={0: 1 << 20})
    monkeypatch.setattr(placement, "host_memory", lambda: 1 << 19)
    with pytest.raises(mgpack.DeviceMapError, match="0.00 GiB are available: 0.00 GiB short"):
        mgpack.load(made.generic("--fp16"), device="cpu")


def test_a_map_that_was_planned_for_sdpa_is_not_taken_for_eager(made):
    folder = made.generic("--fp16", "--gpus=2x600KiB", "--context=16", "--reserve=64KiB")
    bundle = mgpack.open(folder)
    (record,) = bundle.manifest["device_maps"]
    assert record["memory"]["attention"] == "sdpa"
    free = {0: 2 << 20, 1: 2 << 20}
    assert placement.on_gpus(bundle, free, attention="sdpa") == record["map"]
    # What fits two small GPUs is planned anew, and on larger ones all of it fits the first.
    assert placement.on_gpus(bundle, free, attention="eager") == {"": 0}
    assert placement.selected_attention(bundle, "eager") == "eager"
    assert placement.selected_attention(bundle) is None


def test_a_map_of_the_callers_own_is_used_as_it_is(made, loader):
    for own in ({"": "cpu"}, {"model": torch.device("cuda:1"), "lm_head": "disk"}, {"model": 0, "lm_head": "cuda:0"}):
        assert placed(made.generic("--fp16"), device_map=own) == own


def test_words_for_a_planned_map_mean_the_map_that_mgpack_plans(made, loader, monkeypatch):
    folder = made.generic("--fp16", "--gpus=2x600KiB", "--context=16", "--reserve=64KiB")
    own = json.loads((folder / "device_map.json").read_text())
    monkeypatch.setattr(placement, "gpu_memory", lambda: {0: 600 << 10, 1: 600 << 10})
    for word in ("auto", "balanced", "balanced_low_0", "sequential", None):
        assert placed(folder, device_map=word) == own
        assert placed(folder, device_map=word, device="cpu") == {"": "cpu"}


def test_one_device_takes_everything(made, loader, monkeypatch):
    folder = made.generic("--fp16")
    monkeypatch.setattr(placement, "gpu_memory", lambda: {0: GIB, 1: 2 * GIB})
    for one in ("cuda:1", 1, numpy.int64(1), torch.device("cuda", 1)):
        assert placed(folder, device=one) == placed(folder, device_map=one) == {"": 1}
        assert placed(folder, device=one, device_map=one) == {"": 1}
        assert placed(folder, device=one, memory={1: "1GiB"}) == {"": 1}
    for cpu in ("cpu", torch.device("cpu")):
        assert placed(folder, device=cpu) == placed(folder, device_map=cpu) == {"": "cpu"}
    # Everything on one device, or an error: never what fits there and the rest elsewhere.
    with pytest.raises(mgpack.DeviceMapError, match="are missing on gpu 1"):
        mgpack.load(folder, device="cuda:1", memory={0: GIB, 1: 1 << 20})
    with pytest.raises(mgpack.LoadError, match="torch has GPUs 0, 1, and no cuda:2"):
        mgpack.load(folder, device="cuda:2")
    with pytest.raises(ValueError, match="device_map='cuda:1' puts everything on that device, and device is 'cpu'"):
        mgpack.load(folder, device="cpu", device_map=1)
    monkeypatch.setattr(placement, "gpu_memory", dict)
    for one in ("cuda", "cuda:0"):
        with pytest.raises(mgpack.LoadError, match="torch sees no GPU here") as raised:
            mgpack.load(folder, device=one)
        assert raised.value.help == 'load it with device="cpu"'


def test_memory_is_a_table_of_sizes(made, loader):
    folder = made.generic("--fp16")
    want = placed(folder, memory={0: 600 << 10, 1: 2 << 20}, context=16, reserve=64 << 10)
    assert set(want.values()) == {0, 1}
    for same in ({0: "600KiB", "1": "2MiB"}, "0=600KiB,1=2MiB", {torch.device("cuda:0"): 600 << 10, 1: "2MiB"}):
        assert placed(folder, memory=same, context=numpy.int32(16), reserve="64KiB") == want
    # `cpu` is host memory for decoder layers.
    small = {"context": 16, "reserve": 0, "memory": {0: "560KiB"}}
    with pytest.raises(mgpack.DeviceMapError):
        mgpack.load(folder, **small)
    host = {**small, "memory": {0: "560KiB", "cpu": "2MiB"}}
    assert placed(folder, **host) == placed(folder, **small, allow_cpu="2MiB")
    assert "cpu" in placed(folder, **host).values()


def test_what_the_loader_of_mgm_is_given_for_a_device(made, monkeypatch):
    """MGM puts everything on a device that is not `cuda`, and moves its towers there."""
    monkeypatch.setattr(mgpack.loading, "_load_mgm", lambda bundle, device, device_map, options: (device, device_map))
    monkeypatch.setattr(placement, "gpu_memory", lambda: {0: 64 * GIB, 1: 64 * GIB})
    load = lambda **options: mgpack.load(made.mgm("--fp16"), check_versions="no", **options)  # noqa: E731
    assert load(device="cpu") == load(device_map="cpu") == ("cpu", {"": "cpu"})
    assert load()[0] == load(device="cuda")[0] == load(device_map="auto")[0] == "cuda"
    where, device_map = load(device="cuda:1")
    assert where == "cuda:1" and set(device_map.values()) == {1}
    assert load(device_map={"": "cpu"})[0] == "cpu"
    assert load(device_map={"": 1})[0] == "cuda:1"
    assert load(device_map={"model": 0, "lm_head": 1})[0] == "cuda"


def test_arguments_that_mean_nothing_are_refused(made):
    for wrong in (
        {"verify": "some"},
        {"check_versions": True},
        {"device": "tpu"},
        {"device_map": "even"},
        {"device_map": {}},
        {"device_map": {1: 0}},
        {"device_map": {"model": "tpu"}},
        {"memory": {}},
        {"memory": {"cpu": GIB}},
    ):
        with pytest.raises(ValueError, match=rf"{next(iter(wrong))}.* is |a device_map of your own"):
            mgpack.load(made.generic("--fp16"), **wrong)


@pytest.fixture(scope="module")
def with_tokenizer(made, tmp_path_factory):
    """A bundle of a checkpoint that has a tokenizer and an image processor beside the model."""
    folder = tmp_path_factory.mktemp("whole") / "llama"
    shutil.copytree(made.checkpoint(), folder)
    words = {f"w{number}": number for number in range(256)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 24}).save_pretrained(folder)
    return mgpack.convert(folder, folder.parent / "llama-bf16", scheme="bf16")


def test_a_tokenizer_and_a_processor_come_with_the_model(with_tokenizer):
    loaded = mgpack.load(with_tokenizer, device="cpu")
    assert type(loaded) is mgpack.Loaded and type(loaded.model) is LlamaForCausalLM
    want = AutoTokenizer.from_pretrained(with_tokenizer.path)
    assert loaded.tokenizer("w5 w7").input_ids == want("w5 w7").input_ids == [5, 7]
    assert type(loaded.tokenizer) is type(want)
    assert loaded.processor.size["shortest_edge"] == 24
    assert loaded.context_len == loaded.model.config.max_position_embeddings


def test_a_tokenizer_that_cannot_be_made_is_a_notice_and_the_model_loads(with_tokenizer, monkeypatch):
    def from_pretrained(*_, **__):
        raise ImportError("needs sentencepiece")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
    with pytest.warns(mgpack.Notice, match="the tokenizer of llama-bf16 cannot be loaded and is None: ImportError") as told:
        loaded = mgpack.load(with_tokenizer, device="cpu")
    assert loaded.tokenizer is None and loaded.processor is not None and type(loaded.model) is LlamaForCausalLM
    assert [one.filename for one in told if one.category is mgpack.Notice] == [__file__]


def renamed(made, tmp_path, **changes):
    """A bundle of the same weights under a config.json with these keys; None leaves one out."""
    folder = tmp_path / "changed"
    shutil.copytree(made.checkpoint(), folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return mgpack.convert(folder, tmp_path / "changed-bf16", scheme="bf16")


def test_a_model_that_is_no_language_model_gets_its_own_class(tmp_path):
    torch.manual_seed(0)
    model = BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "bert")
    loaded = mgpack.load(mgpack.convert(tmp_path / "bert", tmp_path / "b", scheme="bf16"), device="cpu").model
    assert type(loaded) is BertModel
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("changes, why", [
    ({"architectures": None}, "has no `architectures`"),
    ({"architectures": ["NobodysForCausalLM"]}, "has no NobodysForCausalLM"),
])  # fmt: skip
def test_a_model_of_no_known_class_is_refused_and_not_loaded_by_another(made, tmp_path, changes, why):
    with pytest.raises(mgpack.LoadError, match="no class is known") as raised:
        mgpack.load(renamed(made, tmp_path, **changes), device="cpu")
    assert why in raised.value.why and ".tensors" in raised.value.help


def test_code_of_a_checkpoint_is_named_and_run_only_where_it_is_trusted(made, tmp_path, monkeypatch):
    own = {"auto_map": {"AutoConfig": "m.MyConfig", "AutoModelForCausalLM": "m.MyModel"}}
    bundle = renamed(made, tmp_path, architectures=["MyModel"], model_type="mine", **own)
    with pytest.raises(mgpack.LoadError, match="MyModel of .* is code that comes with the checkpoint") as raised:
        mgpack.load(bundle, device="cpu")
    assert "trust_remote_code=True" in raised.value.help
    asked, model = [], SimpleNamespace(config=None)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **options: asked.append(options) or model)
    mgpack.load(bundle, device="cpu", trust_remote_code=True)
    assert asked[0]["trust_remote_code"] is True
