"""`otprune ask`: both answers, what they took, how far the kept tokens are from all."""

import io
import json

import pytest
import torch
from PIL import Image

from otprune import (
    METHODS,
    OTPrune,
    OTPruneError,
    UnsupportedError,
    demo,
    prefill_flops,
    prune,
    recommended,
)

from .conftest import QUESTION, QUICK, scene, widest

pytestmark = pytest.mark.usefixtures("embedded")


def asked(run, *words):
    result = run("ask", *words, QUESTION, *QUICK, "--json")
    assert (result.status, result.err) == (0, "")
    return json.loads(result.out)


def test_report_has_both_answers_and_every_figure(run, photo):
    result = run("ask", photo, QUESTION, *QUICK, "--keep", "16")
    assert (result.status, result.err) == (0, "")
    rows = {line[:24].strip(): line[24:].split() for line in result.out.splitlines()}
    assert rows["visual tokens"] == ["144", "16", "11.1%"]
    assert rows["prompt tokens"] == ["151", "23"]
    for label in (
        "answer",
        "prefill FLOPs (formula)",
        "KV cache of the prompt",
        "time to first token",
        "of it the selector",
        "W2^2 Gaussian",
        "W2^2 exact, uniform mass",
        "W2^2 exact, free mass",
        "certificate",
    ):
        assert label in rows
    assert widest(result.out, photo) <= 80
    assert "\x1b" not in result.out


@pytest.mark.parametrize("command", [("ask", QUESTION, *QUICK), ("select",)])
def test_the_denser_model_is_asked_for_by_its_tokens(run, photo, tiny, monkeypatch, command):
    asked = []
    monkeypatch.setattr(demo, "load", lambda tokens=144: asked.append(tokens) or tiny)
    name, *words = command
    assert run(name, photo, *words, "--tokens", "324").status == 0
    assert asked == [324]


def test_json_says_what_the_library_says(run, photo, tiny):
    report = asked(run, photo, "--keep", "0.1")
    assert report["method"] == "otprune"
    assert report["keep"] == 0.1
    assert report["settings"]["gamma"] == "scaled"
    assert report["question"] == QUESTION
    (image,) = report["images"]
    full, cut = image["unpruned"], image["pruned"]
    assert (full["visual_tokens"], cut["visual_tokens"]) == (144, 14)
    assert full["prompt_tokens"] - cut["prompt_tokens"] == 144 - 14

    model, processor = tiny
    text = model.config.text_config
    assert cut["prefill_flops"] == prefill_flops(
        text.num_hidden_layers, text.hidden_size, text.intermediate_size, cut["prompt_tokens"]
    )
    per_token = 2 * text.num_hidden_layers * text.hidden_size * 4
    assert full["kv_cache_bytes"] == full["prompt_tokens"] * per_token
    assert cut["kv_cache_bytes"] == cut["prompt_tokens"] * per_token
    assert 0 < cut["selector_seconds"] < cut["first_token_seconds"]

    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    prompt = processor.apply_chat_template(message, add_generation_prompt=True)
    inputs = processor(images=[scene()], text=prompt, add_special_tokens=False, return_tensors="pt")
    assert inputs["input_ids"].shape[1] == full["prompt_tokens"]
    selector = OTPrune(0.1)
    with torch.no_grad(), prune(model, selector) as used:
        model(**inputs)
    selection = selector.explain(used.last[0].features)
    assert image["indices"] == used.last[0].indices.tolist()
    assert image["masses"] == pytest.approx(selection.masses.tolist())
    assert image["certificate"] == pytest.approx(selection.certificate)
    for name in ("gaussian_w2", "exact_w2", "free_mass_w2"):
        squared, relative = image["distances"][name].values()
        assert squared == pytest.approx(getattr(selection, name), rel=1e-5)
        assert relative == pytest.approx(getattr(selection, f"{name}_relative"), rel=1e-5)


def test_keeping_everything_changes_nothing(run, photo):
    (image,) = asked(run, photo, "--keep", "1.0")["images"]
    assert image["unpruned"]["answer"] == image["pruned"]["answer"]
    assert image["pruned"]["visual_tokens"] == 144
    assert image["distances"]["exact_w2"]["squared"] == pytest.approx(0, abs=1e-6)


def test_auto_settles_the_number_for_each_photo(run, photo, tmp_path):
    other = tmp_path / "plain.png"
    Image.new("RGB", (96, 96), (90, 120, 90)).save(other)
    rich, poor = asked(run, photo, other, "--keep", "auto", "--target", "0.2")["images"]
    for image in (rich, poor):
        assert image["pruned"]["visual_tokens"] == len(image["indices"])
    assert len(poor["indices"]) < len(rich["indices"]) <= 72


@pytest.mark.parametrize("method", METHODS)
def test_every_method(run, photo, method):
    report = asked(run, photo, "--method", method, "--keep", "12")
    (image,) = report["images"]
    assert report["method"] == method
    assert len(image["indices"]) == 12
    assert sum(image["masses"]) == pytest.approx(1)
    assert (image["certificate"] is not None) == METHODS[method].certifies


def test_options_reach_the_method(run, photo):
    usual = asked(run, photo)
    paper = asked(run, photo, "--gamma", "0.01")
    assert paper["settings"]["gamma"] == 0.01
    assert paper["images"][0]["indices"] != usual["images"][0]["indices"]

    ranked = asked(run, photo, "--rank", "4")
    assert ranked["settings"]["rank"] == 4
    assert ranked["images"][0]["indices"] != usual["images"][0]["indices"]
    assert asked(run, photo, "--rank", "auto")["settings"]["rank"] == "auto"

    straight = asked(run, photo, "--method", "transport", "--metric", "euclidean")
    assert straight["settings"] == {"metric": "euclidean"}
    asking = asked(run, photo, "--method", "transport", "--set", "question=0.5")
    assert asking["settings"] == {"question": 0.5, "metric": "cosine"}

    first = asked(run, photo, "--method", "random", "--seed", "1")
    second = asked(run, photo, "--method", "random", "--seed", "2")
    assert first["images"][0]["indices"] != second["images"][0]["indices"]


def test_how_the_engine_is_to_prune_reaches_it(run, photo, monkeypatch):
    from otprune.asking import answers as ask

    seen = []

    def spy(model, selector, **settings):
        seen.append(settings)
        return prune(model, selector, **settings)

    monkeypatch.setattr(ask, "prune", spy)
    flags = ("--merge", "--positions", "compact", "--mass", "token", "--alpha", "0.5", "--distance")
    report = asked(run, photo, *flags)
    how = {"positions": "compact", "merge": True, "mass": "token", "alpha": 0.5, "distance": True}
    assert seen == [how | {"encoder": None, "layers": None}] * 2
    assert {key: report[key] for key in how} == how


def test_mass_weighs_in_the_answer(run, photo):
    result = run("ask", photo, QUESTION, *QUICK, "--keep", "16", "--mass", "total")
    assert (result.status, result.err) == (0, "")
    assert "mass total" in result.out.splitlines()[0]
    report = asked(run, photo, "--keep", "16")
    assert (report["mass"], report["alpha"]) == ("none", 1.0)


def test_a_strength_of_nothing_is_refused(run, photo):
    result = run("ask", photo, QUESTION, "--alpha", "0.5")
    assert result.status == 2
    assert "add mass total or mass token, or distance, or leave alpha out" in result.err


def test_several_photos_each_on_their_own(run, photo, tmp_path):
    other = tmp_path / "other.jpg"
    scene(90, 200, seed=1).save(other)
    report = asked(run, photo, other)
    assert [p["image"] for p in report["images"]] == [str(photo), str(other)]
    assert report["images"][0]["indices"] != report["images"][1]["indices"]
    alone = asked(run, other)["images"][0]
    assert report["images"][1]["indices"] == alone["indices"]
    assert report["images"][1]["unpruned"]["answer"] == alone["unpruned"]["answer"]


def test_overlay_has_a_row_for_each_photo(run, photo, tmp_path):
    target, both = tmp_path / "one.png", tmp_path / "two.webp"
    assert "overlay written to" in run(
        "ask", photo, QUESTION, *QUICK, "--overlay", target
    ).out.replace("\n", " ")
    assert asked(run, photo, photo, "--overlay", both)["overlay"] == str(both)
    with Image.open(target) as one, Image.open(both) as two:
        assert two.width == one.width
        assert two.height > 1.8 * one.height


def test_model_by_folder_gives_what_the_embedded_one_gives(run, photo, checkpoint):
    usual, named = asked(run, photo), asked(run, photo, "--model", checkpoint)
    assert named["model"] == str(checkpoint)
    assert named["images"][0]["indices"] == usual["images"][0]["indices"]
    assert named["images"][0]["pruned"]["answer"] == usual["images"][0]["pruned"]["answer"]


def test_another_model_may_be_asked_anything(run, photo, checkpoint):
    result = run("ask", photo, "Is there a zebra?", *QUICK, "--model", checkpoint)
    assert (result.status, result.err) == (0, "")


def test_processor_without_a_chat_template(run, photo, tiny, monkeypatch):
    _, processor = tiny
    monkeypatch.setattr(processor, "chat_template", None)
    (image,) = asked(run, photo)["images"]
    # <bos>, 144 tokens of the image, "is there a red circle ?"
    assert image["unpruned"]["prompt_tokens"] == 1 + 144 + 6


def test_recommended_is_method_merging_and_mass(run, photo):
    report = asked(run, photo, "--method", "recommended")
    preset = recommended()
    assert report["method"] == preset["selector"].name
    assert {name: report[name] for name in ("merge", "mass", "alpha", "distance")} == {
        name: preset[name] for name in ("merge", "mass", "alpha", "distance")
    }


def test_auto_keeps_no_more_than_max_keep(run, photo):
    options = ("--keep", "auto", "--target", "0.0001", "--max-keep", "9")
    (image,) = asked(run, photo, *options)["images"]
    assert len(image["indices"]) == 9


def test_a_bad_photo_is_told_before_any_work_and_by_its_name(run, photo, tmp_path, monkeypatch):
    from otprune.asking import answers as ask

    checked = ask.prompt

    def picky(loaded, image, question):
        if image.width == 1:
            raise OTPruneError("the processor failed: aspect ratio")
        return checked(loaded, image, question)

    thin = tmp_path / "thin.png"
    scene(1, 200).save(thin)
    monkeypatch.setattr(ask, "prompt", picky)
    monkeypatch.setattr(ask, "generate", lambda *_: pytest.fail("answered"))
    result = run("ask", photo, thin, QUESTION, *QUICK)
    assert (result.status, result.out) == (2, "")
    assert result.err == f"otprune: error: {thin}: the processor failed: aspect ratio\n"
    monkeypatch.undo()


def test_a_photo_that_fails_later_does_not_lose_the_answers_before_it(
    run, photo, tmp_path, monkeypatch
):
    from otprune.asking import answers as ask

    bad, other = tmp_path / "bad.png", tmp_path / "other.png"
    scene(50, 40, seed=1).save(bad)
    scene(60, 40, seed=2).save(other)
    whole = ask.ask

    def fails(loaded, shown, *rest, **how):
        if shown.name == str(bad):
            raise UnsupportedError("cannot be pruned")
        return whole(loaded, shown, *rest, **how)

    monkeypatch.setattr(ask, "ask", fails)
    words = ("ask", photo, bad, other, QUESTION, *QUICK)
    result = run(*words)
    assert result.status == 2
    assert result.err == f"otprune: error: {bad}: cannot be pruned\n"
    assert str(photo) in result.out
    assert str(other) not in result.out
    report = json.loads(run(*words, "--json", "--continue-on-error").out)
    good, failed, last = report["images"]
    assert failed == {"image": str(bad), "error": f"{bad}: cannot be pruned"}
    assert (good["image"], last["image"]) == (str(photo), str(other))


def test_continue_on_error_goes_on_without_the_bad_ones(run, photo, tmp_path):
    missing, text = tmp_path / "missing.png", tmp_path / "text.png"
    text.write_text("no image")
    result = run("ask", missing, photo, text, QUESTION, *QUICK, "--continue-on-error")
    assert result.status == 2
    assert f"no such image: {missing}" in result.err
    assert f"{text} is not an image" in result.err
    assert result.err.count("\n") == 2
    assert "144" in result.out
    result = run("ask", missing, text, QUESTION, "--continue-on-error")
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert str(missing) in result.err
    assert str(text) in result.err


def test_the_standard_input_is_a_photo(run, photo, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(photo.read_bytes())))
    result = run("ask", "-", QUESTION, *QUICK)
    assert (result.status, result.err) == (0, "")
    assert "standard input" in result.out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(photo.read_bytes())))
    piped = asked(run, "-")["images"][0]
    assert piped["image"] == "-"
    assert piped["indices"] == asked(run, photo)["images"][0]["indices"]


def test_of_several_pages_the_report_says_which(run, tmp_path):
    pages = tmp_path / "pages.tif"
    scene().save(pages, save_all=True, append_images=[scene(seed=1), scene(seed=2)])
    assert "pages.tif (page 1 of 3)" in " ".join(run("ask", pages, QUESTION, *QUICK).out.split())
    assert asked(run, pages)["images"][0]["note"] == "page 1 of 3"


def test_what_no_font_has_is_told(run, tmp_path, monkeypatch):
    from otprune.asking import lettering

    monkeypatch.setattr(lettering, "_font_for", lambda char: "" if char.isascii() else None)
    strange, target = tmp_path / "caf\u00e9.png", tmp_path / "o.png"
    scene().save(strange)
    result = run("ask", strange, QUESTION, *QUICK, "--overlay", target)
    assert result.status == 0
    assert result.err.startswith("otprune: note: no font here has \u00e9: written in ASCII")


@pytest.mark.parametrize(
    ("flags", "said", "numbers"),
    [
        ((), "otprune keeps 14 of 144 (9.7%)", ""),
        (("--merge",), "(9.7%), merged", "tokens merged into this one"),
        (("--mass", "total"), "(9.7%), mass total", ""),
        (("--mass", "token"), "(9.7%), mass token", "its weight in attention, in tokens"),
        (
            ("--mass", "token", "--alpha", "0.5"),
            "(9.7%), mass token x 0.5",
            "tokens that it stands for",
        ),
        (
            ("--method", "recommended"),
            "simplex keeps 14 of 144 (9.7%), merged, mass token, distance auto",
            "tokens merged into this one, and its weight",
        ),
    ],
)
def test_the_overlay_says_how_the_kept_tokens_are_used(
    run, photo, tmp_path, monkeypatch, flags, said, numbers
):
    from otprune.asking import drawing

    seen = []
    monkeypatch.setattr(drawing, "save", lambda *words: seen.append(words) or set())
    report = asked(run, photo, *flags, "--overlay", tmp_path / "o.png")
    ((row,), _, meaning) = seen[0]
    assert row.captions[1][0].endswith(said)
    assert meaning == numbers
    if numbers:
        masses = report["images"][0]["masses"]
        assert row.stands == pytest.approx([144 * mass for mass in masses])
    else:
        assert not row.stands
