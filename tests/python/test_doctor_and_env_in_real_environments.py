"""`mgpack doctor` in real virtual environments, and `mgpack env` against the package index.

Needs the package index, as tests/run.sh does: without it these tests fail, and say so.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest

FAMILIES = ["2b", "7b", "8b", "13b", "34b", "8x7b"]
CACHE_POSITION = "got an unexpected keyword argument 'cache_position'"


def run(*line, **options):
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True, timeout=900, **options)
    if done.returncode != 0:
        pytest.fail(f"{line} needs the package index\n{done.stdout[-2000:]}{done.stderr[-4000:]}", pytrace=False)
    return done


@pytest.fixture(scope="session")
def environments(tmp_path_factory):
    """Interpreters of environments with one transformers each, made when first asked for."""
    made = {}

    def environment(version):
        if version not in made:
            folder = tmp_path_factory.mktemp("environment")
            run(sys.executable, "-m", "venv", folder)
            python = folder / "bin/python"
            run(python, "-m", "pip", "install", "--quiet", "--no-deps", f"transformers=={version}")
            made[version] = python
        return made[version]

    return environment


@pytest.fixture(scope="session")
def bundles(mgpack, tmp_path_factory):
    """A bundle of the built-in 7B and one of the same checkpoint as a 2B would name itself."""
    root = tmp_path_factory.mktemp("bundles")
    cache = root / "cache"
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(cache)
    try:
        mgpack("convert", "tiny", "--int8", "-o", root / "MGM-7B", "--progress", "none", check=True)
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before
    (tiny,) = (cache / "mgpack").iterdir()
    gemma = root / "gemma"
    shutil.copytree(tiny, gemma)
    config = json.loads((gemma / "config.json").read_text())
    config["model_type"], config["architectures"] = "mgm_gemma", ["MGMGemmaForCausalLM"]
    (gemma / "config.json").write_text(json.dumps(config))
    mgpack("convert", gemma, "--int8", "-o", root / "MGM-2B", "--progress", "none", check=True)
    assert json.loads((root / "MGM-2B/mgpack.json").read_text())["model"]["family"] == "mgm-2b"
    return root


@pytest.mark.parametrize(
    ("bundle", "version", "raises", "call", "pin"),
    [
        ("MGM-7B", "4.39.0", CACHE_POSITION, "model.generate", "4.36.2"),
        ("MGM-2B", "4.36.2", "Tokenizer class GemmaTokenizer does not exist", "load_pretrained_model", "4.39.0"),
    ],
)
def test_doctor_names_the_exception_the_call_and_the_line_that_mends_it(
    mgpack, environments, bundles, bundle, version, raises, call, pin
):
    python = environments(version)
    done = mgpack("doctor", bundles / bundle, "--python", python, "--no-import", "--json")
    assert done.returncode == 1, done.stderr
    (finding,) = (f for f in json.loads(done.stdout)["findings"] if f["what"].startswith("transformers"))
    assert version in finding["what"]
    assert raises in finding["why"] and call in finding["why"]
    assert finding["help"] == f"{python} -m pip install 'transformers=={pin}'"
    text = mgpack("doctor", bundles / bundle, "--python", python, "--no-import")
    # What is longer than a line is folded, a command so that a shell takes it as one.
    shown = " ".join(text.stdout.replace("\\\n", "").split())
    assert text.returncode == 1 and finding["why"] in shown and finding["help"] in shown


def test_the_line_that_mends_it_mends_it(mgpack, environments, bundles):
    python = environments("4.38.2")

    def report():
        return json.loads(mgpack("doctor", bundles / "MGM-7B", "--python", python, "--no-import", "--json").stdout)

    (finding,) = (f for f in report()["findings"] if f["what"].startswith("transformers"))
    run(*shlex.split(finding["help"]))
    report = report()
    assert report["python"]["packages"]["transformers"] == "4.36.2"
    assert not [f for f in report["findings"] if f["what"].startswith("transformers")]
    (absent,) = (f for f in report["findings"] if "not installed" in f["what"])
    assert " torch," in absent["what"] and "No module named 'torch'" in absent["why"]
    assert "'torch==2.0.1'" in absent["help"]


def test_doctor_without_a_bundle_shows_the_environment_and_finds_nothing(mgpack, environments):
    python = environments("4.39.0")
    report = json.loads(mgpack("doctor", "--python", python, "--json", check=True).stdout)
    assert report["findings"] == [] and report["families_served"] == []
    assert report["python"]["version"] == ".".join(str(part) for part in sys.version_info[:3])
    assert report["devices"]["host"]["free"] > 0 and report["disks"][0]["free"] > 0


def test_doctor_without_an_interpreter_could_not_run(mgpack):
    done = mgpack("doctor", "--python", "/nowhere/python")
    assert done.returncode == 2 and "--python" in done.stderr


def assert_resolves(folder, python):
    # Wheels only, so that what resolves can also be installed; deepspeed is published as source alone.
    run(
        sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--python-version", python,
        "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:", "--no-binary", "deepspeed",
        folder / "requirements.txt", "-o", folder / "resolved.txt",
    )  # fmt: skip
    assert "torch==" in (folder / "resolved.txt").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_environment_of_a_family_can_be_installed(mgpack, tmp_path, family):
    report = json.loads(mgpack("env", family, "-o", tmp_path, "--json", check=True).stdout)
    pins = {need["package"]: need["pin"] for need in report["requirements"]}
    assert f"python={pins['python']}" in (tmp_path / "environment.yml").read_text()
    assert_resolves(tmp_path, pins["python"])


@pytest.mark.parametrize("options", [("--bf16",), ("--int8",), ("--int8", "--format", "bnb")], ids=" ".join)
def test_the_environment_of_a_generic_bundle_can_be_installed(mgpack, made, tmp_path, options):
    bundle = made.bundle("llama", *options)
    mgpack("env", bundle, "-o", tmp_path, check=True)
    assert (tmp_path / "requirements.txt").read_bytes() == b"# made by mgpack\n" + (bundle / "requirements.txt").read_bytes()
    assert_resolves(tmp_path, "3.11")
