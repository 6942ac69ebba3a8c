"""`otprune select`: the token part alone."""

import json

import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from otprune.encoders import vit_s

from .conftest import QUESTION, QUICK, scene, widest


@pytest.mark.usefixtures("embedded")
def test_keeps_what_ask_keeps_and_runs_no_language_model(run, photo, tiny, monkeypatch):
    asked = json.loads(run("ask", photo, QUESTION, *QUICK, "--json").out)["images"][0]
    monkeypatch.setitem(tiny[0].model._modules, "language_model", None)
    result = run("select", photo, "--repeats", "1", "--json")
    assert (result.status, result.err) == (0, "")
    report = json.loads(result.out)
    (image,) = report["images"]
    assert (image["tokens_before"], image["tokens_after"]) == (144, 14)
    for key in ("indices", "masses", "certificate", "distances"):
        assert image[key] == asked[key]
    assert image["selector_seconds"] > 0


@pytest.mark.usefixtures("embedded")
def test_report(run, photo, tmp_path):
    other = tmp_path / "other.png"
    scene(seed=3).save(other)
    target = tmp_path / "overlay.png"
    result = run("select", photo, other, "--method", "grid", "--keep", "0.5", "--overlay", target)
    assert (result.status, result.err) == (0, "")
    lines = [line.split() for line in result.out.splitlines()]
    assert lines.count(["visual", "tokens", "144", "->", "72", "50.0%"]) == 2
    assert "none for this method" in result.out
    assert widest(result.out, photo, other, target) <= 80
    with Image.open(target) as drawn:
        assert drawn.height > drawn.width / 2


def test_other_encoder(run, photo, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=12, num_attention_heads=2, image_size=70, patch_size=14
    )
    Dinov2Model(config).save_pretrained(vit_s.folder())
    target = tmp_path / "overlay.png"
    for size, tokens in ((None, 256), (336, 576)):
        options = () if size is None else ("--size", size)
        words = ("select", photo, "--encoder", "vit-s", *options, "--keep", "9", "--json")
        report = json.loads(run(*words, "--overlay", target).out)
        assert report["model"] == "vit-s"
        assert report["images"][0]["tokens_before"] == tokens
        assert report["images"][0]["tokens_after"] == 9
    assert target.exists()


def test_encoder_that_was_not_fetched(refused, photo, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    assert "run `otprune fetch vit-s` once" in refused("select", photo, "--encoder", "vit-s")


def test_choices_that_exclude_each_other(refused, photo):
    assert "give one of them" in refused("select", photo, "--encoder", "vit-s", "--model", "x")
    assert "--size belongs to --encoder" in refused("select", photo, "--size", "224")
    assert "--size 100: expected one of 224" in refused(
        "select", photo, "--encoder", "vit-s", "--size", "100"
    )
    assert "belongs to --model" in refused("select", photo, "--trust-remote-code")
    assert "--tokens 324 belongs to the embedded model" in refused(
        "select", photo, "--encoder", "vit-s", "--tokens", "324"
    )
    for words in (("--device", "cuda"), ("--dtype", "bfloat16"), ("--trust-remote-code",)):
        said = refused("select", photo, "--encoder", "vit-s", *words)
        assert f"{' '.join(words)} belongs to a model" in said


@pytest.mark.usefixtures("embedded")
def test_the_preset_says_what_of_it_is_seen_here(run, photo):
    out = " ".join(run("select", photo, "--method", "recommended").out.split())
    assert "recommended also merges and weighs the kept tokens in a language model" in out
    assert "recommended" not in run("select", photo).out


@pytest.mark.usefixtures("embedded")
def test_auto_keeps_as_few_as_reach_the_target(run, photo, tmp_path):
    plain = tmp_path / "plain.png"
    Image.new("RGB", (96, 96), (90, 120, 90)).save(plain)

    def asked(*options):
        words = ("select", photo, plain, "--repeats", "1", "--keep", "auto", *options)
        result = run(*words, "--json")
        assert (result.status, result.err) == (0, "")
        return json.loads(result.out)

    report = asked("--method", "transport", "--target", "0.2")
    assert report["keep"] == {"target": 0.2, "measure": "distance", "max_keep": 0.5}
    rich, poor = report["images"]
    assert poor["tokens_after"] < rich["tokens_after"] < 72
    assert 0 < rich["reached"] <= 0.2
    closer = asked("--method", "transport", "--target", "0.1")["images"][0]
    assert closer["tokens_after"] > rich["tokens_after"]
    certified = asked("--measure", "certificate", "--target", "0.5")
    assert certified["keep"]["measure"] == "certificate"
    assert certified["images"][0]["reached"] >= 0.5

    shown = run("select", photo, "--repeats", "1", "--keep", "auto").out
    assert "keep=auto, distance <= 0.1" in shown
    assert widest(shown, photo) <= 80
