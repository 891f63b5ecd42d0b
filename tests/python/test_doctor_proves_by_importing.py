"""`mgpack doctor` imports what a bundle's client needs, in a process of its own.

The environments are made of modules written here, with the metadata that pip would leave: what is tested is what doctor
makes of them. tests/environments has the real ones.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

TORCH = "class cuda:\n    is_available = staticmethod(lambda: {})\n"


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An interpreter for which nothing is installed."""
    folder = tmp_path_factory.mktemp("empty")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin/python"


@pytest.fixture(scope="module")
def bundle(mgpack, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "MGM-7B-int8"
    mgpack("convert", "tiny", "--int8", "-o", folder, "--progress", "none", check=True)
    return folder


@pytest.fixture
def site(bundle, tmp_path):
    """A folder with every package that the bundle asks for, as pinned, and MGM beside them, without metadata."""
    site = tmp_path / "site"
    for need in json.loads((bundle / "mgpack.json").read_text())["requirements"]:
        package, pin = need["package"], need["pin"]
        if package != "python":
            (site / f"{package}-{pin}.dist-info").mkdir(parents=True)
            (site / f"{package}-{pin}.dist-info/METADATA").write_text(f"Name: {package}\nVersion: {pin}\n")
            module = site / {"open_clip_torch": "open_clip"}.get(package, package)
            module.mkdir()
            (module / "__init__.py").touch()
    (site / "torch/__init__.py").write_text(TORCH.format(True))
    (site / "mgm/model").mkdir(parents=True)
    (site / "mgm/__init__.py").touch()
    (site / "mgm/model/__init__.py").write_text("class MGMLlamaForCausalLM: pass\n")
    (site / "mgm/model/builder.py").write_text("import deepspeed, transformers\n")
    return site


@pytest.fixture
def findings(mgpack, python, bundle, site):
    """What doctor finds wrong with the environment, memory apart; and its whole answer."""

    def ask(*options, where=None, path=None):
        before, at = os.environ.get("PYTHONPATH"), os.getcwd()
        os.environ["PYTHONPATH"] = str(path or site)
        os.chdir(where or at)
        try:
            done = mgpack("doctor", bundle, "--python", python, "--json", *options)
        finally:
            os.chdir(at)
            os.environ.pop("PYTHONPATH")
            if before is not None:
                os.environ["PYTHONPATH"] = before
        answer = json.loads(done.stdout)
        return [f for f in answer["findings"] if "map" not in f["what"]], answer

    return ask


def test_a_whole_environment_with_mgm_on_pythonpath_has_no_finding(findings):
    found, answer = findings()
    assert found == []
    assert "mgm.model.builder" in answer["imports"]["good"] and answer["imports"]["cuda"] is True


def test_a_package_that_does_not_import_is_a_finding_with_the_exception_and_the_mend(findings, site, python):
    # As bitsandbytes 0.41.0 did without scipy: every version was right, and nothing could be loaded.
    (site / "bitsandbytes/__init__.py").write_text("import undeclared\n")
    (site / "accelerate/__init__.py").write_text("import bitsandbytes\n")
    (site / "transformers/__init__.py").write_text(
        "try:\n import accelerate\nexcept Exception as error:\n raise RuntimeError(f'cannot be used:\\n{error}')\n"
    )
    found, _ = findings()
    (one,) = found
    assert "bitsandbytes" in one["what"] and "accelerate" in one["what"] and "transformers" in one["what"]
    assert "No module named 'undeclared'" in one["why"]
    assert one["help"] == f"{python} -m pip install 'undeclared'"
    assert not [f for f in findings("--no-import")[0] if "import" in f["what"]]


def test_a_module_that_ends_the_interpreter_is_found(findings, site):
    (site / "timm/__init__.py").write_text("import os\nos._exit(3)\n")
    # What comes after it was not asked, torch's GPU among it.
    one = findings()[0][0]
    assert "timm" in one["what"] and "exit status: 3" in one["why"]


def test_a_class_that_mgm_leaves_out_in_silence_is_found(findings, site):
    (site / "mgm/model/__init__.py").write_text("")
    (one,) = findings()[0]
    assert "MGMLlamaForCausalLM" in one["why"]


def test_mgm_that_is_nowhere_is_a_finding(findings, site):
    shutil.rmtree(site / "mgm")
    (one,) = findings()[0]
    assert one["what"] == "mgm is neither installed nor on PYTHONPATH" and "dvlab-research/MGM@" in one["help"]


def test_a_module_in_the_place_of_deepspeed_serves(findings, site):
    shutil.rmtree(next(site.glob("deepspeed-*")))
    found, answer = findings()
    assert found == []
    (row,) = (row for row in answer["packages"] if row["package"] == "deepspeed")
    assert row["found"] == "a stand-in" and row["good"]
    shutil.rmtree(site / "deepspeed")
    assert [f["what"] for f in findings()[0]] == ["deepspeed is not installed"]


def test_an_int8_bundle_without_a_gpu_is_a_finding(findings, site):
    (site / "torch/__init__.py").write_text(TORCH.format(False))
    (one,) = findings()[0]
    assert "int8" in one["what"] and "No GPU found" in one["why"] and "--fp16" in one["help"]


def test_nothing_of_the_bundle_is_run(findings, site, bundle, tmp_path):
    ran = tmp_path / "ran"
    (bundle / "einops.py").write_text(f"open({str(ran)!r}, 'w')\n")
    try:
        # The bundle is the working directory, and on the path by name and as an empty entry.
        found, answer = findings(where=bundle, path=f"{bundle}::.:{site}")
    finally:
        (bundle / "einops.py").unlink()
    assert not ran.exists() and found == []
    assert "einops" in answer["imports"]["good"]
