"""No text that reaches a caller has a flag of the command line; what is an option there is an argument here."""

import inspect
import re
from pathlib import Path

import mgpack
import pytest

SOURCES = Path(__file__).resolve().parents[3] / "src"

#: `--force`, `-o`.
FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z-]*|-[a-z])\b")


def raised_by(function, *arguments, **options):
    with pytest.raises(mgpack.Error) as raised:
        function(*arguments, **options)
    return raised.value


def test_errors_name_arguments(made, tmp_path):
    checkpoint = made.checkpoint()
    there = tmp_path / "there"
    there.mkdir()
    (there / "file").write_text("")
    say = lambda **options: raised_by(mgpack.convert, checkpoint, **{"output": tmp_path / "out", **options})  # noqa: E731
    for error, line in [
        (say(output=there), "give another target with output=, or force=True to replace this one once the new one is complete"),
        (say(output=there, force=True), "give another target with output=, or remove this one yourself"),
        (say(output=checkpoint / "out"), "give a target outside of it with output="),
        (say(ignore="lm_haed"), "did you mean `lm_head`? `mgpack.inspect` lists the names"),
        (say(scheme="W8A16", format="bnb"), "leave out format=: the scheme decides it"),
        (raised_by(mgpack.convert, "org/model", revision="v1"), None),
        (raised_by(mgpack.convert, "org/model"), None),
        (raised_by(mgpack.open, there), "give a folder that `mgpack.convert` made, or a tar that `mgpack.release` made"),
    ]:
        assert FLAG.search(str(error)) is None, str(error)
        if line is not None:
            assert error.help == line
    assert say(ignore="lm_haed").path == "ignore="
    assert say(output=there, force=True).why.startswith("it is neither empty nor a bundle")
    assert 'max_memory="' in say(max_memory=1).help and "threads=" in say(max_memory=1).help
    assert say(gpus="1x1MiB", scheme="fp16").help.endswith("let layers go to the host with allow_cpu=")


def test_a_remedy_is_an_argument_that_works(made, tmp_path):
    checkpoint = made.checkpoint()
    options = {"scheme": "fp16", "gpus": {0: "16MiB"}, "context": 40960, "reserve": 0}
    error = raised_by(mgpack.convert, checkpoint, tmp_path / "out", **options)
    (context,) = re.findall(r"context=(\d+)", error.help)
    assert mgpack.convert(checkpoint, tmp_path / "out", **{**options, "context": int(context)})
    assert raised_by(mgpack.convert, checkpoint, tmp_path / "more", **{**options, "context": int(context) + 1})


def test_a_download_is_named_as_python_makes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    error = raised_by(mgpack.convert, "org/model", revision="v1")
    assert error.help == '`mgpack.pull("org/model", revision="v1")`'
    assert "revision" in inspect.signature(mgpack.pull).parameters


def test_every_option_that_the_library_mentions_is_an_argument():
    """Read from the sources: every text, whichever error it is of."""
    functions = [getattr(mgpack, name) for name in (*mgpack.__all__, "map") if inspect.isfunction(getattr(mgpack, name))]
    known = {name for function in functions for name in inspect.signature(function).parameters}
    # Of the command `load`, which brings a bundle onto its devices without Python.
    of_commands = {"until"}
    mentioned = set()
    for file in (SOURCES / "error").rglob("*.rs"):
        text = file.read_text()
        mentioned |= set(re.findall(r"‹([a-z_]+)(?:=[^›]*)?›", text))
        mentioned |= set(re.findall(r'wording::option\(\s*"([a-z_]+)"', text))
    assert len(mentioned) > 15
    assert mentioned - known == of_commands


def test_the_packages_own_texts_have_no_flag():
    for file in Path(mgpack.__file__).parent.glob("*.py"):
        for line in file.read_text().splitlines():
            # `pip install -r` is pip's.
            assert FLAG.search(line.replace("pip install -r", "")) is None, f"{file.name}: {line}"
