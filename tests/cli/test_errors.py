"""Whatever a user gets wrong: one line on stderr, status 2, and what to do about it."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from otprune import UnsupportedError, cli
from otprune.cli import methods

from .conftest import QUESTION


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--keep", "0"), "keep=0 would leave no token"),
        (("--keep", "-3"), "keep=-3 would leave no token"),
        (("--keep", "0.0"), "keep=0.0 would leave no token"),
        (("--keep", "2.0"), "for a number of tokens write keep=2"),
        (("--keep", "10%"), "expected a ratio with a point, like 0.1"),
        (("--keep", "1e-1"), "expected a ratio with a point, like 0.1"),
        (("--keep", "Auto"), "a whole number, like 16, or auto"),
        (("--max-keep", "16"), "--max-keep belongs to --keep auto"),
        (("--keep", "auto", "--max-keep", "half"), "--max-keep half: expected a ratio"),
        (("--keep", "auto", "--max-keep", "0"), "keep=0 would leave no token"),
        (("--method", "recommended", "--merge"), "leave merge out, or name a method"),
        (("--method", "recommended", "--mass", "none"), "leave mass out, or name a method"),
        (("--method", "recommended", "--alpha", "1"), "leave alpha out, or name a method"),
        (("--alpha", "1"), "add mass total or mass token"),
        (("--alpha", "1", "--mass", "none"), "add mass total or mass token"),
        (("--alpha", "nan", "--mass", "total"), "alpha"),
        (("--gamma", "nan"), "gamma=nan is outside"),
        (("--keep", "auto", "--target", "nan"), "give a number > 0"),
        (("--trust-remote-code",), "--trust-remote-code belongs to --model"),
        (("--tokens", "100"), "--tokens 100: expected 144 or 324"),
        (("--tokens", "324", "--model", "x"), "--tokens 324 belongs to the embedded model"),
        (("--overlay", "/proc/o.png"), "--overlay: cannot write in /proc"),
        (("--method", "recommended", "--gamma", "1"), "leave gamma out, or name a method"),
        (("--target", "0.1"), "--target belongs to --keep auto, and --keep is 0.1"),
        (("--keep", "16", "--measure", "distance"), "--measure belongs to --keep auto"),
        (("--keep", "auto", "--target", "0"), "give a number > 0"),
        (
            ("--keep", "auto", "--measure", "certificate", "--method", "dpp"),
            "DPPPrune has no certificate",
        ),
        (("--method", "otprun"), "did you mean otprune?"),
        (("--set", "keep=3"), "--set keep: this is no setting of a method"),
        (("--set", "own=1"), "--set own: this is no setting of a method"),
        (("--method", "no_such_module:First"), "there is no module no_such_module"),
        (("--method", "zzz"), "expected one of otprune, transport"),
        (("--method", "dpp", "--gamma", "1"), "it belongs to otprune"),
        (("--metric", "cosine"), "it belongs to transport"),
        (("--seed", "1"), "seed is not a setting of method otprune: it belongs to random"),
        (("--rank", "0"), "rank is 0: expected None"),
        (("--rank", "1.5"), "rank is 1.5: expected None"),
        (("--method", "dpp", "--rank", "auto"), "it belongs to otprune"),
        (("--gamma", "big"), "gamma is 'big': expected \"scaled\" or a positive number"),
        (("--gamma", "-1"), "gamma=-1.0 is outside"),
        (("--positions", "odd"), "'odd' is not one of 'auto', 'preserved', 'compact'"),
        (("--repeats", "0"), "--repeats"),
        (("--kep", "1"), "--keep"),
        (("--overlay", "no/folder/x.png"), "there is no folder no/folder"),
        (("--overlay", "x.xyz"), "written as .png, .jpg or .webp"),
        (("--overlay", "."), ". is a folder"),
        (("--device", "nowhere"), "--device nowhere"),
    ],
)
def test_options(refused, photo, options, said):
    assert said in refused("ask", photo, QUESTION, *options)


def test_overlay_never_overwrites_a_photo(refused, photo):
    before = photo.read_bytes()
    assert "would overwrite" in refused("ask", photo, QUESTION, "--overlay", photo)
    assert photo.read_bytes() == before


def test_words_in_the_wrong_place(refused, photo):
    assert "otprune ask --help" in refused("ask")
    assert "nothing to ask" in refused("ask")
    for missing in (photo, "none.jpg", "-", "https://example.org/a.png"):
        assert f"the question is missing after {missing}" in refused("ask", missing)
    assert "the question is missing after http" in refused("ask", photo, "http://x.org/cat?size=2")
    assert "the question is missing" in refused("ask", photo, photo)
    assert "no photograph to ask about" in refused("ask", "Is there a star?")
    assert "the question comes last" in refused("ask", "Is there a star?", photo)
    assert "the question is empty" in refused("ask", photo, " ")
    assert "did you mean 'ask'" in refused("asq", photo).lower()


def test_words_that_the_embedded_model_lacks(refused, photo):
    said = refused("ask", photo, "Is there a zebra near the starr?")
    assert "does not know 'zebra', 'near', 'starr' (did you mean 'star'?)" in said
    assert "otprune ask --demo-help" in said
    assert "--model HuggingFaceTB/SmolVLM-256M-Instruct" in said


def model_folder(folder, config, *files):
    folder.mkdir()
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name in files:
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("config", "files", "said"),
    [
        ({"model_type": "llava"}, ["pytorch_model.bin"], "pickled weights (pytorch_model.bin)"),
        ({"model_type": "llava"}, [], "has no weights"),
        ({"model_type": "llama"}, ["model.safetensors"], "is a model of type llama"),
        ({"model_type": "mllama"}, ["model.safetensors"], "takes no mm_encoder_outputs"),
        ({"model_type": "pi0"}, ["model.safetensors"], "acts and does not answer in text"),
        ("{", ["model.safetensors"], "not a valid JSON file"),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}},
            ["model.safetensors"],
            "add --trust-remote-code",
        ),
    ],
    ids=["pickled", "empty", "text", "unsupported", "policy", "broken", "remote"],
)
def test_models_that_are_refused(refused, photo, tmp_path, config, files, said):
    folder = model_folder(tmp_path / "model", config, *files)
    assert said in refused("ask", photo, QUESTION, "--model", folder)


def test_damaged_weights(refused, photo, checkpoint, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in checkpoint.iterdir():
        content = file.read_bytes()
        cut = len(content) // 2 if file.suffix == ".safetensors" else len(content)
        (folder / file.name).write_bytes(content[:cut])
    assert "cannot load" in refused("ask", photo, QUESTION, "--model", folder)


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (
            ImportError(
                "\nAutoVideoProcessor requires the Torchvision library but it was not found"
            ),
            "needs torchvision, which is not installed: pip install torch==",
        ),
        (
            ImportError("Package `num2words` is required to run SmolVLM processor."),
            "needs num2words, which is not installed: pip install num2words",
        ),
        (
            ModuleNotFoundError("No module named 'timm'", name="timm"),
            "needs timm, which is not installed: pip install timm",
        ),
        (
            RuntimeError("operator torchvision::nms does not exist"),
            "does not fit torch",
        ),
    ],
)
def test_packages_that_a_model_wants(refused, photo, checkpoint, monkeypatch, cause, said):
    from otprune.asking import models

    def wants(*_, **__):
        if isinstance(cause, ImportError):
            raise cause
        raise ModuleNotFoundError("Could not import module 'AutoProcessor'") from cause

    monkeypatch.setattr(models.AutoProcessor, "from_pretrained", wants)
    assert said in refused("ask", photo, QUESTION, "--model", checkpoint)


def test_models_that_are_not_there(refused, photo, tmp_path, monkeypatch):
    assert "no such folder" in refused("ask", photo, QUESTION, "--model", "./none")
    assert "no config.json" in refused("ask", photo, QUESTION, "--model", tmp_path)
    assert "is a file" in refused("ask", photo, QUESTION, "--model", photo)
    assert "nor a name on the hub" in refused("ask", photo, QUESTION, "--model", "a b")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refused("ask", photo, QUESTION, "--model", "nobody/nothing-at-all")
    assert "the hub cannot be reached" in said
    assert "hf download nobody/nothing-at-all --local-dir DIR" in said


def test_every_image_is_looked_at_before_a_model_is_loaded(refused, photo, tmp_path, monkeypatch):
    monkeypatch.setattr("otprune.demo.load", lambda: pytest.fail("loaded"))
    missing = tmp_path / "missing.png"
    assert str(missing) in refused("ask", photo, missing, QUESTION)
    assert str(missing) in refused("select", photo, missing)


def test_what_cannot_be_drawn_is_told_before_answering(
    refused, photo, embedded, tmp_path, monkeypatch
):
    from otprune.asking import answers as ask

    def no_grid(name, *_):
        raise UnsupportedError(f"{name} cuts this image into tiles")

    monkeypatch.setattr(ask, "grid_of", no_grid)
    monkeypatch.setattr(ask, "generate", lambda *_: pytest.fail("answered"))
    assert "into tiles" in refused("ask", photo, QUESTION, "--overlay", tmp_path / "o.png")


def test_ctrl_c_is_quiet(run, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(methods, "table", interrupted)
    result = run("methods")
    assert (result.status, result.out, result.err) == (130, "", "")


def test_without_the_demo_extra(refused, monkeypatch):
    monkeypatch.delitem(cli.sys.modules, "otprune.cli.app", raising=False)
    monkeypatch.setitem(cli.sys.modules, "typer", None)
    assert "pip install 'otprune[demo]'" in refused("methods")


def test_our_own_mistakes_keep_their_traceback(run, photo, embedded, monkeypatch):
    def wrong(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("otprune.asking.answers.prune", wrong)
    with pytest.raises(ZeroDivisionError):
        run("ask", photo, QUESTION)


def test_overlay_that_cannot_be_written(run, photo, embedded, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    target = tmp_path / "o.png"
    result = run("select", photo, "--overlay", target)
    assert result.status == 2
    assert "No space left" in result.err
    assert "144 -> 14" in result.out  # the answer is not lost with the drawing
    assert "overlay written" not in result.out
    report = json.loads(run("select", photo, "--overlay", target, "--json").out)
    assert report["overlay"] is None


def test_urls_of_other_schemes(refused):
    for url in ("file:///tmp/a.jpg", "s3://bucket/a"):
        assert f"{url}: expected a URL of http or https" in refused("ask", url, QUESTION)


@pytest.mark.parametrize("command", ["methods", "--version", "--help"])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_output_that_cannot_be_written(command):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "otprune", command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("otprune: error: cannot write: No space left")


def test_a_closed_output_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it after `otprune methods >&-`
    assert cli.main(["methods"]) == 0


def test_a_reader_who_has_seen_enough_sees_no_error():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "otprune", "methods"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
