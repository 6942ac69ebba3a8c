"""`otprune eval` as a user calls it."""

import json
import re

import pytest
import torch
from PIL import Image

from otprune import OTPrune, UnsupportedError, demo, prune, recommended
from otprune.asking import models
from otprune.evaluation import answers, plot
from tests.untrained import scene

pytestmark = pytest.mark.usefixtures("embedded")
QUESTION = "Is there a red circle?"


@pytest.fixture
def data(tmp_path):
    """Three images, five questions, one of them about two images; all but one answered."""
    for i in range(3):
        scene(seed=i).save(tmp_path / f"{i}.png")
    lines = [
        {"image": "0.png", "question": QUESTION, "answer": "yes"},
        {"image": "1.png", "question": QUESTION, "answer": "no"},
        {"image": "1.png", "question": "What color is the star?", "answers": ["red", "blue"]},
        {"images": ["0.png", "2.png"], "question": "How many stars?", "answer": 3},
        {"image": "2.png", "question": "What shape is the blue thing?"},
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_labels_of_a_plot_do_not_touch():
    assert plot._apart({50.0, 25.0, 9.7, 9.0}) == [9.0, 25.0, 50.0]
    assert plot._apart({50.0, 25.0, 10.0}) == [10.0, 25.0, 50.0]
    assert plot._apart({50.0}) == [50.0]
    assert plot._apart(set()) == []


def evaluated(run, data, *words):
    result = run("eval", data, "--max-new-tokens", "2", "--json", *words)
    assert (result.status, result.err) == (0, "")
    return json.loads(result.out)


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_and_counts_are_those_of_the_library(run, data, tmp_path, tiny):
    out = tmp_path / "a.jsonl"
    evaluated(run, data, "--keep", "0.25,16", "--methods", "otprune, recommended", "--out", out)
    head, *found = records(out)
    assert head["model"] == "the embedded model"
    assert head["max_new_tokens"] == 2
    assert len(found) == 5 * 5
    loaded = models.Loaded("it", *tiny, embedded=True)
    for line in found:
        images = [Image.open(tmp_path / name) for name in line["example"]["images"]]
        inputs = models.prompt(loaded, images, line["example"]["question"])
        method, _, keep = line["way"].partition(", keep ")
        n = len(images)
        with torch.no_grad():
            if method == "unpruned":
                out = tiny[0].generate(**inputs, max_new_tokens=2, do_sample=False)
                kept = 144 * n
            else:
                keep = float(keep) if "." in keep else int(keep)
                how = {"selector": OTPrune(keep)} if method == "otprune" else recommended(keep)
                with prune(tiny[0], **how):
                    out = tiny[0].generate(**inputs, max_new_tokens=2, do_sample=False)
                kept = {0.25: 36, 16: 16}[keep] * n
        length = inputs["input_ids"].shape[1]
        said = tiny[1].decode(out[0, length:], skip_special_tokens=True).strip()
        assert (line["answer"], line["tokens"]) == (said, kept)
        assert line["prompt_tokens"] == length - 144 * n + kept
        config = tiny[0].config.text_config
        a_token = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        assert line["cache_bytes"] == a_token * line["prompt_tokens"]
        assert 0 <= line["selector_seconds"] < line["seconds"]
        assert (line["selector_seconds"] == 0) == (method == "unpruned")


def test_the_report(run, data):
    report = evaluated(run, data, "--keep", "0.5", "--methods", "otprune")
    full, half = report["lines"]
    assert (full["setting"], half["setting"]) == (None, {"name": "otprune", "keep": "0.5"})
    assert (full["examples"], full["answered"], full["agreement"]) == (5, 4, 1.0)
    assert (half["tokens_ratio"], full["tokens"]) == (0.5, 144 * 6 / 5)
    assert report["failures"] == []
    assert report["suggested"] in (None, half)


def test_the_table(run, data):
    words = ("eval", data, "--max-new-tokens", "2", "--keep", "0.5,0.1", "--methods", "otprune")
    result = run(*words)
    assert (result.status, result.err) == (0, "")
    assert "5 examples, 4 with known answers" in result.out
    assert re.search(r"unpruned +173 ", result.out)
    assert re.search(r"otprune +0\.5 +86 ", result.out)
    assert max(map(len, result.out.splitlines())) <= 80


def test_a_stopped_run_goes_on(run, data, tmp_path, monkeypatch):
    out = tmp_path / "a.jsonl"
    words = ("--keep", "0.5,0.1", "--methods", "otprune", "--out", out)
    whole = evaluated(run, data, *words[:-2])
    asked, real = [], answers._answer

    def counted(loaded, inputs, how, longest):
        if len(asked) == 9:
            raise KeyboardInterrupt
        asked.append(longest)
        return real(loaded, inputs, how, longest)

    monkeypatch.setattr(answers, "_answer", counted)
    assert run("eval", data, "--max-new-tokens", "2", *words).status == 130
    before = records(out)
    assert len(before) == 1 + 6  # three of the nine were to warm up
    with out.open("a") as file:
        file.write('{"example": {"ima')  # as if it was killed inside a line
    asked.clear()
    monkeypatch.setattr(answers, "_answer", lambda *given: asked.append(given) or real(*given))
    again = evaluated(run, data, *words)
    assert records(out)[: len(before)] == before
    assert len(asked) == 15 - 6 + 3
    for one, other in zip(whole["lines"], again["lines"], strict=True):
        assert (one["agreement"], one["accuracy"]) == (other["agreement"], other["accuracy"])
    asked.clear()
    evaluated(run, data, *words)
    assert asked == []
    evaluated(run, data, "--keep", "0.5,0.25", *words[2:])  # one more keep, in the same file
    assert len(asked) == 5 + 1


def test_an_image_that_changed_is_asked_about_again(run, data, tmp_path):
    out = tmp_path / "a.jsonl"
    words = ("--keep", "0.5", "--methods", "otprune", "--out", out)
    evaluated(run, data, *words)
    assert len(records(out)) == 11
    scene(seed=9).save(tmp_path / "0.png")  # in two of the questions
    evaluated(run, data, *words)
    assert len(records(out)) == 15


def test_answers_of_other_runs_are_not_mixed(run, data, tmp_path, refused, tiny, monkeypatch):
    out = tmp_path / "a.jsonl"
    words = ("--keep", "0.5", "--methods", "otprune", "--out", out)
    evaluated(run, data, *words)
    said = refused("eval", data, *words)
    assert "has answers with max_new_tokens 2, and this run has 32: give another --out" in said
    with torch.no_grad():
        weight = next(tiny[0].parameters())
        kept = weight.clone()
        weight.view(-1)[0] += 1
    said = refused("eval", data, "--max-new-tokens", "2", *words)
    with torch.no_grad():
        weight.copy_(kept)
    assert "has answers with weights" in said
    for content in ("", "{}\n", "no\n", '{"otprune": 1}\n[]\n'):
        out.write_text(content or '{"image": "a.png", "question": "b"}\n')
        before = out.read_text()
        assert "is no file of answers" in refused("eval", data, *words)
        assert out.read_text() == before


def test_what_fails_is_told_and_the_rest_is_answered(run, data, tmp_path):
    lines = [
        {"image": "none.png", "question": QUESTION},
        {"image": "text.png", "question": QUESTION},
        {"image": "1.png", "question": "Is there an elephant?"},
    ]
    (tmp_path / "text.png").write_text("hello")
    data.write_text(data.read_text() + "\n" + "\n".join(map(json.dumps, lines)))
    out = tmp_path / "a.jsonl"
    words = ("--keep", "0.5", "--methods", "otprune", "--max-new-tokens", "2")
    result = run("eval", data, *words, "--out", out)
    assert result.status == 2
    assert "5 examples, 4 with known answers" in result.out
    errors = result.err.splitlines()
    assert len(errors) == 4
    assert "no such image" in errors[0]
    assert "is not an image" in errors[1]
    assert "does not know 'elephant'" in errors[2]
    assert errors[3] == "otprune: error: 3 of 8 examples were skipped"
    assert sum("error" in line for line in records(out)) == 3
    scene().save(tmp_path / "none.png")
    report = json.loads(run("eval", data, *words, "--out", out, "--json").out)
    assert report["lines"][1]["examples"] == 6
    assert [x["example"]["images"] for x in report["failures"]] == [["text.png"], ["1.png"]]


@pytest.mark.parametrize("first", [True, False])
def test_a_way_that_fails_ends_the_run_unless_it_has_worked_before(run, data, monkeypatch, first):
    real, asked = answers._answer, []

    def failing(loaded, inputs, how, longest):
        asked.append(longest)
        if how is not None and (first or len(asked) > 4):
            raise UnsupportedError("it does not fit")
        return real(loaded, inputs, how, longest)

    monkeypatch.setattr(answers, "_answer", failing)
    result = run("eval", data, "--keep", "0.5", "--methods", "otprune", "--max-new-tokens", "2")
    assert result.status == 2
    if first:
        assert (result.out, len(asked)) == ("", 3)
        assert result.err == "otprune: error: otprune, keep 0.5: it does not fit\n"
    else:
        assert "otprune: 1.png (otprune, keep 0.5): it does not fit" in result.err
        assert result.err.endswith("error: 4 answers of others failed\n")
        assert re.search(r"otprune +0\.5 +72 ", result.out)
        assert "otprune, keep 0.5: of 1 of these examples alone." in " ".join(result.out.split())


def test_what_failed_before_and_fails_again_ends_no_run(run, data, tmp_path, monkeypatch):
    real = answers._answer

    def failing(loaded, inputs, how, longest):
        if how is not None and inputs["pixel_values"].shape[0] == 2:
            raise UnsupportedError("it does not fit")
        return real(loaded, inputs, how, longest)

    monkeypatch.setattr(answers, "_answer", failing)
    words = ("--keep", "0.5", "--methods", "otprune", "--max-new-tokens", "2")
    out = ("--out", tmp_path / "a.jsonl")
    first, second = (run("eval", data, *words, *out) for _ in range(2))
    assert "5 examples, 4 with known answers" in first.out
    assert (second.status, second.err) == (first.status, first.err)
    assert second.out == first.out


def test_a_method_of_ones_own_that_changed_is_asked_again(run, data, tmp_path, monkeypatch):
    code = "from otprune import GridPrune\nclass Mine(GridPrune):\n    pass\n"
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "a.jsonl"
    words = ("--keep", "0.5", "--methods", "own_eval:Mine", "--limit", "1", "--out", out)
    for text, lines in ((code, 3), (code, 3), (code + "# changed\n", 4)):
        (tmp_path / "own_eval.py").write_text(text)
        evaluated(run, data, *words)
        assert len(records(out)) == lines


def test_another_processor_makes_other_answers(run, data, tmp_path, refused, tiny, monkeypatch):
    words = ("--keep", "0.5", "--methods", "otprune", "--limit", "1", "--max-new-tokens", "2")
    out = ("--out", tmp_path / "a.jsonl")
    assert run("eval", data, *words, *out).status == 0
    monkeypatch.setattr(tiny[1].image_processor, "resample", 0)
    assert "has answers with processor" in refused("eval", data, *words, *out)


def test_a_prefill_in_chunks_is_refused(data, refused, tiny, monkeypatch):
    monkeypatch.setattr(tiny[0].generation_config, "prefill_chunk_size", 8)
    assert "has prefill_chunk_size in its generation config" in refused("eval", data)


def test_half_of_a_character_ends_no_run(run, data, tmp_path):
    line = {"image": "1.png", "question": "\ud800"}  # as in a name of bytes that are no UTF-8
    data.write_text(json.dumps(line) + "\n" + data.read_text())
    out = tmp_path / "a.jsonl"
    words = ("--keep", "0.5", "--methods", "otprune", "--limit", "2", "--max-new-tokens", "2")
    result = run("eval", data, *words, "--out", out)
    assert "1 of 2 examples were skipped" in result.err
    assert records(out)[1]["example"]["question"] == "\ud800"
    assert len(records(out)) == 4


def test_all_failed(run, tmp_path):
    (tmp_path / "a.png").write_text("hello")
    result = run("eval", tmp_path, "--question", QUESTION)
    assert (result.status, result.out) == (2, "")
    assert "1 of 1 examples were skipped" in result.err


def test_settings_behind_a_method(run, data):
    one, again = "question=0.9 mass=token merge=True", "merge=True question=0.9 mass=token"
    methods = f"transport {one}, otprune, transport {again}"
    report = evaluated(run, data, "--limit", "1", "--methods", methods, "--keep", "0.1")
    names = [line["setting"]["name"] for line in report["lines"][1:]]
    assert names == ["transport mass=token merge=True question=0.9", "otprune"]


def test_a_folder_with_one_question(run, tmp_path):
    scene().save(tmp_path / "a.png")
    report = evaluated(run, tmp_path, "--question", QUESTION, "--keep", "auto")
    assert report["examples"] == 1


def test_the_plot(run, data, tmp_path, refused):
    picture = tmp_path / "plot.png"
    result = run("eval", data, "--max-new-tokens", "2", "--plot", picture, "--keep", "0.5,0.1")
    assert result.status == 0
    assert "plot.png" in result.out
    with Image.open(picture) as drawn:
        assert drawn.size == (1080, 660)
    words = ("eval", data, "--plot")
    assert "there is no folder" in refused(*words, tmp_path / "none" / "p.png")
    assert "expected a file ending in" in refused(*words, tmp_path / "p.docx")
    assert "would overwrite an image" in refused(*words, tmp_path / "0.png")
    assert "would overwrite an image" in refused(*words, tmp_path / "2.png", "--limit", "1")
    assert "would overwrite the answers" in refused(*words, picture, "--out", picture)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--methods", "none"), "none"),
        (("--methods", "otprune,"), "--methods otprune,: an entry is empty"),
        (("--methods", "otprune merge"), "expected a method and settings such as"),
        (("--methods", "otprune gamma=1 gamma=2"), "each once"),
        (("--methods", "otprune metric=cosine"), "metric is not a setting of method otprune"),
        (("--methods", "otprune merge=perhaps"), "merge='perhaps': expected True or False"),
        (("--keep", "0.5,much"), "--keep much: expected a ratio"),
        (("--keep", "0.5,"), "--keep"),
        (("--keep", "1.5"), "keep"),
        (("--tokens", "7"), "--tokens 7: expected 144 or 324"),
        (("--out", "no/folder/a.jsonl"), "there is no folder no/folder"),
        (("--tolerance", "2"), "tolerance"),
        (("--tolerance", "nan"), "--tolerance"),
    ],
)
def test_wrong_options(refused, data, monkeypatch, words, said):
    monkeypatch.setattr(demo, "load", lambda **_: pytest.fail("loaded"))
    assert said in refused("eval", data, *words)
