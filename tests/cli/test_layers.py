"""`--layer-rank`, `--layer-after` and `--layer-keep`: a stage inside the language model."""

import json

import pytest
import torch

from otprune import LayerStage, OTPrune, prefill_flops, prune

from .conftest import QUESTION, QUICK, scene, widest


@pytest.fixture
def in_json(run):
    def call(*words):
        result = run(*words, "--json")
        assert (result.status, result.err) == (0, "")
        return json.loads(result.out)

    return call


@pytest.mark.usefixtures("embedded")
def test_ask_keeps_what_the_library_keeps(in_json, photo, tiny):
    words = ("--layer-rank", "fastv", "--layer-after", "1,3", "--layer-keep", "0.5,4")
    report = in_json("ask", photo, QUESTION, *QUICK, *words)
    assert (report["layer_rank"], report["layer_after"]) == ("fastv", [1, 3])
    assert report["layer_keep"] == [0.5, 4]
    (image,) = report["images"]
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    prompt = tiny[1].apply_chat_template(message, add_generation_prompt=True)
    inputs = tiny[1](images=[scene()], text=prompt, add_special_tokens=False, return_tensors="pt")
    stage = LayerStage((1, 3), (0.5, 4))
    with torch.no_grad(), prune(tiny[0], OTPrune(0.1), layers=stage) as used:
        tiny[0](**inputs)
    n = used.columns.shape[1]
    cuts = [(cut.layer, int(cut.kept[0]), cut.columns.shape[1]) for cut in used.layers]
    assert cuts == [(1, 7, n - 7), (3, 4, n - 10)]
    found = [tuple(cut.values()) for cut in image["layers"]]
    assert found == cuts
    config = tiny[0].config.get_text_config()
    sizes = config.hidden_size, config.intermediate_size
    layers = config.num_hidden_layers
    parts = [(1, n), (2, n - 7), (layers - 3, n - 10)]
    assert image["pruned"]["prefill_flops"] == sum(prefill_flops(a, *sizes, b) for a, b in parts)
    assert image["pruned"]["kv_cache_bytes"] < image["unpruned"]["kv_cache_bytes"]


@pytest.mark.usefixtures("embedded")
def test_the_report_says_what_stayed_where(run, photo, in_json):
    result = run("ask", photo, QUESTION, *QUICK, "--layer-rank", "vtw", "--layer-after", "0.5")
    assert (result.status, result.err) == (0, "")
    words = " ".join(result.out.split())
    assert "layers vtw, after=0.5" in words
    assert "from layer 2 on 0" in words
    assert widest(result.out, photo) <= 80
    usual = in_json("ask", photo, QUESTION, *QUICK)
    assert (usual["layer_rank"], usual["layer_after"], usual["layer_keep"]) == (None, None, None)
    assert usual["images"][0]["layers"] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--layer-after", "2"), "--layer-after belongs to --layer-rank: give both"),
        (("--layer-keep", "0.5"), "--layer-keep belongs to --layer-rank: give both"),
        (("--layer-rank", "slowv"), "slowv"),
        (("--layer-rank", "fastv", "--layer-after", "two"), "--layer-after two: expected"),
        (("--layer-rank", "fastv", "--layer-keep", "0.5,"), "--layer-keep : expected"),
        (("--layer-rank", "fastv", "--layer-after", "0"), "--layer-rank: after=0"),
        (("--layer-rank", "fastv", "--layer-after", "1,2"), "--layer-rank: a layer stage with 2"),
        (("--layer-rank", "vtw", "--layer-keep", "0.5"), "--layer-rank: keep=(0.5,) with"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(
    refused, photo, monkeypatch, options, said
):
    monkeypatch.setattr("otprune.demo.load", lambda: pytest.fail("loaded"))
    assert said in refused("ask", photo, QUESTION, *options)


@pytest.mark.usefixtures("embedded")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--layer-after", "9"), "the language model has"),
        (("--mass", "token"), "layers= with mass or distance"),
    ],
)
def test_what_does_not_go_with_a_model_is_refused(refused, photo, options, said):
    told = refused("ask", photo, QUESTION, "--layer-rank", "fastv", *options)
    assert "--layer-rank: " in told
    assert said in told
