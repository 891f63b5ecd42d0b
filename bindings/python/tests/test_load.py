"""`mgpack.load`: generic bundles for real on a CPU, and every refusal before a weight is read.

MGM's loader itself is run in tests/mgm, where MGM is.
"""

import json

import mgpack
import pytest
import torch
from mgpack import placement
from transformers import LlamaForCausalLM

GIB = 1 << 30


def logits(model):
    tokens = torch.arange(3, 35).reshape(2, 16)
    with torch.inference_mode():
        return model(tokens).logits.float()


def test_a_bf16_bundle_gives_the_models_own_logits_from_any_folder(made, tmp_path, monkeypatch):
    want = logits(LlamaForCausalLM.from_pretrained(made.checkpoint(), dtype=torch.bfloat16))
    folder = made.generic("--bf16")
    monkeypatch.chdir(tmp_path)
    model = mgpack.load(folder, device="cpu")
    assert type(model) is LlamaForCausalLM
    assert torch.equal(logits(model), want)


@pytest.mark.parametrize("options", [["--int8"], ["--int8", "--format", "bnb"], ["--scheme", "W8A16"]])
def test_quantized_bundles_load_and_are_close(made, options):
    want = logits(LlamaForCausalLM.from_pretrained(made.checkpoint(), dtype=torch.float32))
    got = logits(mgpack.load(made.generic(*options), device="cpu", verify="full"))
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
    with pytest.warns(UserWarning, match="help: pip install torch=="), pytest.raises(mgpack.MissingPackageError):
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


def test_a_map_of_the_callers_own_is_taken_as_it_is(made, loader):
    assert placed(made.generic("--fp16"), device_map={"": "cpu"}) == {"": "cpu"}


def test_arguments_that_mean_nothing_are_refused(made):
    for wrong in ({"verify": "some"}, {"check_versions": True}, {"device": "tpu"}):
        with pytest.raises(ValueError, match="is '"):
            mgpack.load(made.generic("--fp16"), **wrong)
