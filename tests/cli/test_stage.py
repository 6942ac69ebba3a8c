"""`--encoder-keep` and `--encoder-after`: a selection inside the vision encoder."""

import json

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from otprune import EncoderStage, OTPrune, prune, visual_tokens
from otprune.asking.stages import InEncoder
from otprune.encoders import vit_s
from otprune.measures import distances

from .conftest import QUESTION, QUICK, scene, widest


@pytest.fixture
def in_json(run):
    def call(*words):
        result = run(*words, "--json")
        assert (result.status, result.err) == (0, "")
        return json.loads(result.out)

    return call


@pytest.fixture
def inputs(tiny):
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    prompt = tiny[1].apply_chat_template(message, add_generation_prompt=True)
    return tiny[1](images=[scene()], text=prompt, add_special_tokens=False, return_tensors="pt")


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    """Stands in for the fetched ViT-S."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=12, num_attention_heads=2, image_size=70, patch_size=14
    )
    Dinov2Model(config).save_pretrained(vit_s.folder())


@pytest.mark.usefixtures("embedded")
def test_ask_keeps_what_the_library_keeps(in_json, photo, tiny, inputs):
    stage = ("--encoder-keep", "0.35", "--encoder-after", "3")
    report = in_json("ask", photo, QUESTION, *QUICK, *stage)
    assert (report["encoder_keep"], report["encoder_after"]) == (0.35, 3)
    (image,) = report["images"]
    assert 0 < image["encoder"].pop("selector_seconds") < image["pruned"]["first_token_seconds"]
    assert image["encoder"] == {"tokens_before": 144, "tokens_after": 50, "layer": 3, "layers": 5}
    with torch.no_grad(), prune(tiny[0], OTPrune(0.1), encoder=EncoderStage(0.35, 3)) as used:
        tiny[0](**inputs)
    (item,) = used.last
    assert image["indices"] == item.indices.tolist()
    assert image["masses"] == pytest.approx(item.masses.tolist())


@pytest.mark.usefixtures("embedded")
def test_distances_are_from_all_tokens_of_the_whole_encoder(in_json, photo, tiny, inputs):
    (image,) = in_json("ask", photo, QUESTION, *QUICK, "--encoder-keep", "0.35")["images"]
    with torch.no_grad(), prune(tiny[0], OTPrune(0.1), encoder=EncoderStage(0.35)) as used:
        tiny[0](**inputs)
    (item,) = used.last
    kept = item.features[item.indices]
    (whole,) = visual_tokens(tiny[0], inputs)
    expected = distances.free_mass_w2(whole.features, kept)
    assert expected != pytest.approx(distances.free_mass_w2(item.features, kept), rel=1e-3)
    assert image["distances"]["free_mass_w2"]["squared"] == pytest.approx(expected, rel=1e-5)
    assert image["certificate"] is None


@pytest.mark.usefixtures("embedded")
def test_ask_reports_what_the_encoder_kept(run, photo):
    result = run("ask", photo, QUESTION, *QUICK, "--encoder-keep", "30", "--encoder-after", "0.5")
    assert (result.status, result.err) == (0, "")
    words = " ".join(result.out.split())
    assert "encoder 144 -> 30 tokens in layer 3 of 5" in words
    assert "and inside the encoder" in words
    assert "encoder keep=30, after=0.5" in words
    assert widest(result.out, photo) <= 80
    plain = run("ask", photo, QUESTION, *QUICK).out
    assert "encoder" not in plain.replace("(encoder, selector, prefill)", "")


@pytest.mark.usefixtures("embedded")
def test_timings_count_the_call_with_the_stage(run, photo, monkeypatch):
    """Every pruned call has the stage, from pixels on."""
    from otprune.asking import answers as ask

    seen = []

    def spy(model, selector, **settings):
        seen.append(settings["encoder"])
        return prune(model, selector, **settings)

    monkeypatch.setattr(ask, "prune", spy)
    run("ask", photo, QUESTION, "--repeats", "2", "--encoder-keep", "0.5", "--encoder-after", "1")
    assert seen == [EncoderStage(0.5, after=1)] * 3


@pytest.mark.usefixtures("embedded")
def test_keeping_everything_in_the_encoder_changes_nothing(in_json, photo):
    usual = in_json("ask", photo, QUESTION, *QUICK)
    whole = in_json("ask", photo, QUESTION, *QUICK, "--encoder-keep", "1.0")
    assert (usual["encoder_keep"], usual["encoder_after"]) == (None, None)
    usual, whole = usual["images"][0], whole["images"][0]
    assert usual["encoder"] is None
    assert whole["encoder"]["tokens_after"] == 144
    assert whole["indices"] == usual["indices"]
    assert whole["distances"] == usual["distances"]
    assert whole["pruned"]["answer"] == usual["pruned"]["answer"]


@pytest.mark.usefixtures("embedded")
def test_a_rule_decides_on_what_the_encoder_kept(run, photo, in_json):
    words = ("--encoder-keep", "0.35", "--keep", "auto", "--target", "0.0001")
    (image,) = in_json("ask", photo, QUESTION, *QUICK, *words)["images"]
    assert len(image["indices"]) <= 50
    assert image["reached"] is None
    shown = " ".join(run("ask", photo, QUESTION, *QUICK, *words).out.split())
    assert "target distance <= 0.0001, among the tokens that the encoder kept" in shown


@pytest.mark.usefixtures("embedded")
def test_select_keeps_what_ask_keeps(in_json, run, photo):
    stage = ("--encoder-keep", "0.35", "--encoder-after", "3")
    asked = in_json("ask", photo, QUESTION, *QUICK, *stage)["images"][0]
    (image,) = in_json("select", photo, "--repeats", "1", *stage)["images"]
    assert (image["tokens_before"], image["tokens_after"]) == (144, 14)
    for key in ("indices", "masses", "certificate", "distances"):
        assert image[key] == asked[key]
    del asked["encoder"]["selector_seconds"], image["encoder"]["selector_seconds"]
    assert image["encoder"] == asked["encoder"]
    shown = run("select", photo, "--repeats", "1", *stage).out
    assert "144 -> 50 tokens in layer 4 of 5" in " ".join(shown.split())
    assert widest(shown, photo) <= 80


@pytest.mark.usefixtures("encoder")
def test_select_with_the_pretrained_encoder(in_json, photo):
    words = ("select", photo, "--encoder", "vit-s", "--repeats", "1", "--keep", "9")
    plain = in_json(*words)["images"][0]
    (image,) = in_json(*words, "--encoder-keep", "0.25", "--encoder-after", "0.5")["images"]
    assert (image["tokens_before"], image["tokens_after"]) == (256, 9)
    del image["encoder"]["selector_seconds"]
    assert image["encoder"] == {"tokens_before": 256, "tokens_after": 64, "layer": 6, "layers": 12}
    assert image["distances"] != plain["distances"]


@pytest.mark.usefixtures("encoder")
def test_a_stage_behind_the_layer_that_gives_the_tokens_is_refused(refused, in_json, photo):
    words = ("select", photo, "--encoder", "vit-s", "--encoder-keep", "0.5", "--encoder-after")
    said = refused(*words, "10")
    assert "--encoder-after 10: vit-s gives its tokens after layer 10 of 12" in said
    assert "after layer 10 of 12" in refused(*words, "0.9")
    assert in_json(*words, "9")["images"][0]["encoder"]["layer"] == 9


@pytest.mark.parametrize("command", ["ask", "select"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--encoder-after", "0.5"), "--encoder-after belongs to --encoder-keep: give both"),
        (("--encoder-keep", "0"), "inside the encoder: keep=0 would leave no token"),
        (("--encoder-keep", "0.0"), "inside the encoder: keep=0.0 would leave no token"),
        (("--encoder-keep", "-1"), "inside the encoder: keep=-1 would leave no token"),
        (("--encoder-keep", "2.0"), "for a number of tokens write keep=2"),
        (("--encoder-keep", "auto"), "--encoder-keep auto: expected a ratio with a point"),
        (("--encoder-keep", "35%"), "--encoder-keep 35%: expected a ratio with a point"),
        (("--encoder-keep", "0.5", "--encoder-after", "half"), "--encoder-after half: expected"),
        (("--encoder-keep", "0.5", "--encoder-after", "1.0"), "inside the encoder: after=1.0"),
        (("--encoder-keep", "0.5", "--encoder-after", "-1"), "inside the encoder: after=-1"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(
    refused, photo, monkeypatch, command, options, said
):
    monkeypatch.setattr("otprune.demo.load", lambda: pytest.fail("loaded"))
    words = (command, photo, QUESTION) if command == "ask" else (command, photo)
    assert said in refused(*words, *options)


@pytest.mark.usefixtures("embedded")
@pytest.mark.parametrize("command", ["ask", "select"])
def test_more_layers_than_the_encoder_has(refused, photo, command):
    words = (command, photo, QUESTION) if command == "ask" else (command, photo)
    said = refused(*words, "--encoder-keep", "0.5", "--encoder-after", "5")
    assert "after=5 layers, and the encoder has 5" in said
    assert str(photo) not in said  # true of every photograph


@pytest.mark.usefixtures("embedded")
@pytest.mark.parametrize("command", ["ask", "select"])
def test_an_unknown_encoder_is_refused(refused, photo, monkeypatch, command):
    from otprune.engines.transformers import towers

    others = {name: row for name, row in towers.TOWERS.items() if name != "CLIPVisionModel"}
    monkeypatch.setattr(towers, "TOWERS", others)  # to put an item back would change their order
    words = (command, photo, QUESTION) if command == "ask" else (command, photo)
    said = refused(*words, "--encoder-keep", "0.5")
    assert said.startswith("otprune: error: --encoder-keep: LlavaForConditionalGeneration: ")
    assert "(CLIPVisionModel) is not known to be right" in said


def test_the_words_of_the_report():
    one = InEncoder(before=576, after=202, tiles=1, layer=10, layers=24, seconds=0.1)
    assert str(one) == "576 -> 202 tokens in layer 11 of 24"
    tiled = InEncoder(before=2880, after=1010, tiles=5, layer=0, layers=24, seconds=0.1)
    assert str(tiled) == "2880 -> 1010 tokens in 5 tiles in layer 1 of 24"
