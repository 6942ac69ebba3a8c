"""The embedded model: a stock checkpoint that really answers from its image tokens."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration

from otprune import METHODS, OTPrune, prune
from otprune.demo import FOLDERS, HELP, MODEL_DIR, SAMPLES_DIR, load, suggestions, unknown_words
from otprune.errors import OTPruneError
from otprune_training.architecture import BOS, build
from otprune_training.evaluate import answer
from otprune_training.export import export, name_as_published

ASKED = {
    "coffee": {
        "What color is the star?": "blue",
        "Is there a red circle?": "yes",
        "Is there a red star?": "no",
        "Where is the red circle?": "top-right",
        "How many circles?": "1",
        "What digit is shown?": "7",
        "Is the blue star left of the red circle?": "yes",
        "Is the blue star right of the red circle?": "no",
    },
    "cat": {
        "What shape is the cyan thing?": "ring",
        "Where is the yellow square?": "top-left",
        "Is the cyan ring big?": "yes",
        "What shape is top-left?": "square",
        "What color is bottom-right?": "cyan",
        "How many stars?": "1",
    },
    "rocket": {
        "How many things are there?": "4",
        "How many crosses?": "2",
        "What number is shown?": "3",
        "Is the orange cross left of the red cross?": "yes",
    },
    "camera": {
        "How many blue things?": "2",
        "What shape is red?": "ring",
        "What shape is bottom-right?": "square",
        "Is there a blue star?": "no",
        "List all things.": "blue triangle , red ring , blue square",
    },
}


@pytest.fixture(scope="module")
def embedded():
    return load()


@pytest.fixture(scope="module")
def dense():
    return load(tokens=324)


@pytest.mark.parametrize("tokens", FOLDERS)
def test_it_is_a_small_stock_checkpoint_in_half_precision(tokens: int) -> None:
    weights = FOLDERS[tokens] / "model.safetensors"
    assert weights.stat().st_size < 4e6
    with safe_open(weights, "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    model = AutoModelForImageTextToText.from_pretrained(FOLDERS[tokens])
    assert isinstance(model, LlavaForConditionalGeneration)
    config = json.loads((FOLDERS[tokens] / "config.json").read_text())
    assert "auto_map" not in config
    assert config["image_seq_length"] == tokens


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=FOLDERS)
def test_every_weight_is_found_under_the_name_that_the_hub_uses(folder) -> None:
    """vLLM knows no other; transformers must know these at both ends of its range."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        tower = [name for name in file.keys() if name.startswith("vision_tower.")]  # noqa: SIM118
    assert tower
    assert all(name.startswith("vision_tower.vision_model.") for name in tower)
    _, found = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found


def test_the_denser_model_differs_in_its_vision_tower_alone(embedded, dense) -> None:
    ours, theirs = embedded[0].state_dict(), dense[0].state_dict()
    assert ours.keys() == theirs.keys()
    other = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert other
    assert all(name.startswith("model.vision_tower.") for name in other)
    with pytest.raises(OTPruneError, match="144 or 324"):
        load(tokens=576)
    with pytest.raises(OTPruneError, match="leave tokens out"):
        load(MODEL_DIR, tokens=324)


def test_what_is_exported_is_named_so_and_loads_as_it_was(tmp_path) -> None:
    export(None, tmp_path)
    made, committed = (
        safe_open(folder / "model.safetensors", "pt") for folder in (tmp_path, MODEL_DIR)
    )
    assert made.keys() == committed.keys()
    wanted = build(seed=0).half().state_dict()
    loaded, found = AutoModelForImageTextToText.from_pretrained(
        tmp_path, dtype=torch.float16, output_loading_info=True
    )
    assert not any(found.values()), found
    assert wanted.keys() == loaded.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    before = (tmp_path / "model.safetensors").read_bytes()
    name_as_published(tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ASKED)
def test_it_answers_about_the_samples(embedded, name: str) -> None:
    image = Image.open(SAMPLES_DIR / f"{name}.jpg")
    answers = answer(*embedded, image, [[text] for text in ASKED[name]])
    assert dict(zip(ASKED[name], answers, strict=True)) == ASKED[name]


@pytest.mark.parametrize("name", ASKED)
def test_the_denser_model_answers_about_the_samples(dense, name: str) -> None:
    image = Image.open(SAMPLES_DIR / f"{name}.jpg")
    asked = [text for text in ASKED[name] if text != "List all things."]
    with prune(dense[0], OTPrune(0.1)) as run:
        pruned = answer(*dense, image, [[text] for text in asked])
    assert {(item.before, item.after) for item in run.last} == {(324, 32)}
    for answers in (pruned, answer(*dense, image, [[text] for text in asked])):
        assert dict(zip(asked, answers, strict=True)) == {text: ASKED[name][text] for text in asked}


def test_it_answers_from_the_image_and_not_from_the_question(embedded) -> None:
    blank = Image.new("RGB", (300, 200), (120, 120, 120))
    questions = ["Is there a red circle?", "Is there a blue star?", "How many red things?"]
    assert answer(*embedded, blank, [[text] for text in questions]) == ["no", "no", "0"]


def test_a_conversation_goes_on(embedded) -> None:
    image = Image.open(SAMPLES_DIR / "coffee.jpg")
    talk = ["Is there a red circle?", "yes", "What color is the star?", "blue"]
    ends = {"What digit is shown?": "7", "Where is the blue star?": "top-left"}
    assert answer(*embedded, image, [[*talk, end] for end in ends]) == list(ends.values())


def test_most_answers_survive_pruning(embedded) -> None:
    image, asked = Image.open(SAMPLES_DIR / "coffee.jpg"), ASKED["coffee"]
    with prune(embedded[0], OTPrune(0.25)) as run:
        answers = answer(*embedded, image, [[text] for text in asked])
    assert {(item.before, item.after) for item in run.last} == {(144, 36)}
    assert sum(a == b for a, b in zip(answers, asked.values(), strict=True)) >= 6


@pytest.mark.parametrize("method", METHODS.values())
def test_keeping_everything_changes_nothing(embedded, method) -> None:
    image, asked = Image.open(SAMPLES_DIR / "coffee.jpg"), list(ASKED["coffee"])
    whole = answer(*embedded, image, [[text] for text in asked])
    with prune(embedded[0], method(1.0)):
        assert answer(*embedded, image, [[text] for text in asked]) == whole


def test_words_it_does_not_know_are_named() -> None:
    assert unknown_words("What COLOUR is the dog's circle, please?") == ["dog's", "please"]
    assert unknown_words("Where is the red circle?") == []
    assert "circle" in suggestions("circel")
    for line in HELP.splitlines():
        for question in line.split("   "):
            if question.strip().endswith("?"):
                assert unknown_words(question) == [], question


def test_a_folder_without_a_checkpoint_is_an_error(tmp_path) -> None:
    with pytest.raises(OTPruneError, match="no checkpoint"):
        load(tmp_path)


def test_every_prompt_form_gives_the_same_tokens(embedded) -> None:
    _, processor = embedded
    image = Image.open(SAMPLES_DIR / "coffee.jpg")
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Is there a star"}]
    chat = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )["input_ids"]
    plain = processor(images=image, text="<image> is there a STAR ?", return_tensors="pt")
    assert torch.equal(chat, plain["input_ids"])
    assert (chat == BOS).sum() == 1
    text = processor.apply_chat_template([{"role": "user", "content": content}])
    whole = processor(
        images=image, text=text, add_special_tokens=False, return_tensors="pt"
    )  # what vLLM does
    assert torch.equal(whole["input_ids"], chat)
