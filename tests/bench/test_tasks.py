"""The task set: fixed by its seed, balanced, with evidence that is where the stickers are."""

import numpy as np
import pytest

from otprune.demo.words import UNSEEN
from otprune_bench.embedded.tasks import KINDS, make, noise_images
from otprune_training.scenes import SIZE


@pytest.fixture(scope="module")
def tasks():
    return make(noise_images(3, 1), 60, seed=11)


def test_the_seed_is_everything_and_more_tasks_change_none(tasks):
    again = make(noise_images(3, 1), 5, seed=11)
    other = make(noise_images(3, 1), 5, seed=12)
    for a, b, c in zip(tasks[:5], again, other, strict=True):
        assert a.questions == b.questions
        assert a.image.tobytes() == b.image.tobytes()
        assert a.image.tobytes() != c.image.tobytes()


def test_every_kind_is_asked_and_no_question_twice(tasks):
    asked = [q.kind for task in tasks for q in task.questions]
    assert set(asked) == set(KINDS)
    assert min(asked.count(kind) for kind in KINDS) >= 20
    for task in tasks:
        texts = [q.text for q in task.questions]
        assert len(set(texts)) == len(texts) >= 6


def test_answers_are_one_word(tasks):
    assert all(len(q.answer.split()) == 1 for task in tasks for q in task.questions)


def test_existence_is_balanced_and_absentees_are_adversarial(tasks):
    asked = [(t, q) for t in tasks for q in t.questions if q.kind == "existence"]
    yes = np.mean([q.answer == "yes" for _, q in asked])
    assert 0.35 < yes < 0.65
    absent = [(t, q) for t, q in asked if q.answer == "no"]
    near = [
        any(s.color in q.text.split() or s.noun in q.text.split() for s in t.scene.stickers)
        for t, q in absent
    ]
    assert np.mean(near) > 0.5


def test_every_scene_has_an_unseen_combination(tasks):
    for task in tasks:
        assert any((s.noun, s.color) in UNSEEN for s in task.scene.stickers)


def test_evidence_is_where_the_stickers_are(tasks):
    for task in tasks:
        for question in task.questions:
            evidence = task.evidence(question)
            meant = {i for _, stickers in question.mentions for i in stickers}
            assert evidence.any() == bool(meant)
            for patch in np.flatnonzero(evidence):
                x, y = 8 * (patch % 12) + 4, 8 * (patch // 12) + 4
                stickers = [task.scene.stickers[i] for i in meant]
                assert min(np.hypot(s.x - x, s.y - y) - 1.5 * s.r for s in stickers) < 8
        objects = task.objects()
        assert objects.shape == (len(task.scene.stickers), 144)
        assert (objects.sum(0) <= 1).all()


def test_backgrounds_differ_and_have_structure():
    one, two = noise_images(2, 3)
    assert one.size == two.size == (240, 240)
    assert one.tobytes() != two.tobytes()
    assert np.asarray(one).std() > 10
    assert SIZE < 130 < one.size[0]  # what a scene's crop needs
