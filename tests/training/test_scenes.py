"""The world of the embedded model: what is drawn, asked and held out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from otprune.demo.words import COLORS, PLACES, UNSEEN, VOCABULARY, WORDS
from otprune_training.questions import KINDS, ask, ask_many
from otprune_training.scenes import GRID, PATCH, SIZE, Scene, Sticker, owners, render, sample_scene

PHOTOS = [Image.new("RGB", (200, 150), (90, 120, 90)), Image.new("RGB", (160, 300), (20, 40, 80))]
SIZES = [photo.size for photo in PHOTOS]


def scene_of(*stickers: tuple[str, str, float, float]) -> Scene:
    placed = [Sticker(kind, c, x, y, 8.0, False, 0.0, COLORS[c]) for kind, c, x, y in stickers]
    return Scene(0, (0, 0, 150), False, 1.0, tuple(placed))


def many_scenes(number: int, *, unseen: bool = False) -> list[Scene]:
    rng = np.random.default_rng(0)
    return [sample_scene(rng, SIZES, unseen=unseen) for _ in range(number)]


def test_a_seed_gives_the_same_scene() -> None:
    assert many_scenes(5) == many_scenes(5)


def test_training_scenes_hold_no_unseen_combination_and_held_out_scenes_always_do() -> None:
    assert not any(s.unseen for scene in many_scenes(100) for s in scene.stickers)
    assert all(any(s.unseen for s in scene.stickers) for scene in many_scenes(100, unseen=True))


def test_training_questions_never_speak_of_an_unseen_combination() -> None:
    rng = np.random.default_rng(1)
    for scene in many_scenes(60):
        for question in ask_many(scene, rng, [*KINDS, "existence", "existence", "existence"]):
            words = question.text.split()
            pairs = {(noun, color) for color, noun in itertools.pairwise(words)}
            assert not pairs & UNSEEN, question.text


def test_every_word_asked_or_answered_is_in_the_vocabulary() -> None:
    rng = np.random.default_rng(2)
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    for scene in many_scenes(60, unseen=True):
        for question in ask_many(scene, rng, KINDS, unseen=True):
            assert set(question.text.split()) <= set(WORDS)
            assert set(question.answer.split()) <= set(WORDS)


def test_owners_cover_the_patches_under_each_sticker() -> None:
    scene = scene_of(("circle", "red", 20, 20), ("square", "blue", 76, 76))
    own = owners(scene).reshape(GRID, GRID)
    assert own[20 // PATCH, 20 // PATCH] == 0
    assert own[76 // PATCH, 76 // PATCH] == 1
    assert own[0, GRID - 1] == -1


@pytest.mark.parametrize("scale", [1, 2, 6])
def test_a_sticker_has_its_colour_at_its_centre(scale: int) -> None:
    scene = scene_of(("circle", "red", 20, 30), ("star", "yellow", 70, 60))
    image = render(scene, PHOTOS, scale)
    assert image.size == (SIZE * scale, SIZE * scale)
    assert image.getpixel((20 * scale, 30 * scale)) == COLORS["red"]
    assert image.getpixel((70 * scale, 60 * scale)) == COLORS["yellow"]
    assert image.getpixel((2, 2)) == (90, 120, 90)


def test_answers_are_true() -> None:
    scene = scene_of(("circle", "red", 20, 20), ("star", "blue", 70, 80), ("7", "blue", 75, 25))
    rng = np.random.default_rng(3)
    truth = {
        "color": {"circle": "red", "star": "blue", "digit": "blue"},
        "position": dict(
            zip(("circle", "star", "digit"), (PLACES[0], PLACES[3], PLACES[1]), strict=True)
        ),
    }
    for _ in range(60):
        exist = ask(scene, rng, "existence", unseen=True)
        assert exist is not None
        found = exist.mentions[0][1]
        assert exist.answer == ("yes" if found else "no")
        for kind, answers in truth.items():
            question = ask(scene, rng, kind, unseen=True)
            assert question is not None
            where, (sticker,) = question.mentions[0]
            noun = question.text.split()[where]
            assert noun == scene.stickers[sticker].noun
            assert question.answer == answers[noun]
        naming = ask(scene, rng, "naming", unseen=True)
        if naming is not None:
            (where, (sticker,)) = naming.mentions[0]
            s = scene.stickers[sticker]
            assert naming.text.split()[where] == truth["position"][s.noun]
            assert naming.answer == (s.noun if "shape" in naming.text else s.color)
        digit = ask(scene, rng, "digit")
        assert digit is not None
        assert digit.answer == "7"
        relation = ask(scene, rng, "relation", unseen=True)
        if relation is not None and relation.kind == "relation":
            (_, (a,)), (_, (b,)) = relation.mentions
            left = scene.stickers[a].x < scene.stickers[b].x
            assert relation.answer == ("yes" if left == ("left" in relation.text) else "no")
        count = ask(scene, rng, "count", unseen=True)
        assert count is not None
        assert count.answer == str(len(count.mentions[0][1]))
    listed = ask(scene, rng, "list")
    assert listed is not None
    assert listed.answer == "red circle , blue star , blue 7"


def test_existence_is_balanced() -> None:
    rng = np.random.default_rng(4)
    asked = [ask(scene, rng, "existence", unseen=True) for scene in many_scenes(400, unseen=True)]
    answers = [question.answer for question in asked if question is not None]
    assert len(answers) == 400
    assert 0.45 < answers.count("yes") / len(answers) < 0.55


def test_a_place_names_a_thing_only_where_no_other_could_be_meant() -> None:
    rng = np.random.default_rng(4)
    crowded = scene_of(("circle", "red", 20, 20), ("star", "blue", 30, 35))
    doubtful = scene_of(("circle", "red", 20, 20), ("star", "blue", 51, 20))
    for scene in (crowded, doubtful):
        assert all(ask(scene, rng, "naming", unseen=True) is None for _ in range(20))
    clear = scene_of(("circle", "red", 20, 20), ("star", "blue", 70, 20))
    asked = [ask(clear, rng, "naming", unseen=True) for _ in range(40)]
    texts = {question.text for question in asked if question is not None}
    sides, whats = ("top-left", "top-right"), ("shape", "color")
    assert texts == {f"what {what} is {side} ?" for what in whats for side in sides}
