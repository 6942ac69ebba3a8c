"""Training batches: a function of seed and step, packed so that no question sees another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from otprune.demo.words import COLOR_NAMES, COLORS, SHAPES, UNSEEN, VOCABULARY
from otprune_training.architecture import EOS
from otprune_training.batches import TOKENS, Batch, Batches, Images, draw, make_batch, normalise
from otprune_training.processor import build_processor

PHOTOS = [Image.new("RGB", (200, 150), (90, 120, 90))]


@pytest.mark.parametrize("stage", ["vision", "language"])
def test_a_batch_depends_on_seed_and_step_alone(stage: str) -> None:
    ahead = list(Batches(stage, PHOTOS, 5, 0, 3, 2))[2]
    resumed = next(iter(Batches(stage, PHOTOS, 5, 2, 3, 2)))
    if isinstance(ahead, Batch) and isinstance(resumed, Batch):
        assert torch.equal(ahead.ids, resumed.ids)
        ahead, resumed = ahead.images, resumed.images
    assert isinstance(ahead, Images)
    assert isinstance(resumed, Images)
    assert torch.equal(ahead.pixels, resumed.pixels)


def test_labels_are_the_answer_then_the_end() -> None:
    batch = make_batch(PHOTOS, (0, 1), 3)
    for kind, (row, last, first_mention, last_mention) in zip(
        batch.kinds, batch.ends.tolist(), strict=True
    ):
        block = batch.block[row] == batch.block[row, last]
        labels = batch.labels[row][block & (batch.labels[row] != -100)].tolist()
        assert labels[-1] == EOS
        if kind == "existence":
            assert VOCABULARY[labels[0]] in ("yes", "no")
        if kind == "count":
            assert VOCABULARY[labels[0]].isdigit()
        assert VOCABULARY[int(batch.ids[row, last])] in ("?", ".")
        assert block[first_mention]
        assert first_mention <= last_mention < last
        # Positions run on within a question, behind the image.
        positions = batch.positions[row][block]
        assert (positions.diff() == 1).all()
        assert positions[0] > TOKENS


def test_a_conversation_runs_on_and_shows_each_answer_with_its_end() -> None:
    batch = make_batch(PHOTOS, (0, 4), 12)
    assert 0 < int(batch.talk.sum()) < len(batch.talk)
    for row, talk in enumerate(batch.talk.tolist()):
        words = batch.block[row] > 0
        ids = batch.ids[row][words]
        ends = [VOCABULARY[i] for i in ids[batch.labels[row][words] == EOS].tolist()]
        if not talk:
            assert EOS not in ids
            continue
        # Every answer but its end is shown, and the end stands right behind it.
        assert int((ids == EOS).sum()) == len(ends)
        assert torch.equal(batch.positions[row][words], TOKENS + 1 + torch.arange(len(ids)))


def test_mentions_point_at_the_patches_they_name() -> None:
    batch = make_batch(PHOTOS, (0, 2), 8)
    images, checked = batch.images, 0
    rows = zip(batch.mentions.tolist(), batch.targets, batch.places, strict=True)
    for (row, column), target, place in rows:
        word, patches = VOCABULARY[int(batch.ids[row, column])], target[1:]
        assert bool(target[0]) == (not patches.any())
        if word in SHAPES and patches.any():
            assert (images.kind[row][patches] == 1 + SHAPES.index(word)).all()
            checked += 1
        if not place.isnan().any():
            assert (images.centre[row][patches] == place).all()
    assert checked


def test_nameless_colours_carry_no_colour_label_and_avoid_the_unseen_ones() -> None:
    scenes, images = draw(PHOTOS, np.random.default_rng(0), 40, free=True)
    assert (images.color == -100).any()
    assert (images.color > 0).any()
    for scene in scenes:
        for sticker in scene.stickers:
            avoid = np.array(COLORS[dict(UNSEEN)[sticker.noun]])
            if not sticker.color:
                assert np.linalg.norm(np.array(sticker.rgb) - avoid) > 100
            else:
                assert sticker.color in COLOR_NAMES
                assert not sticker.unseen


def test_pixels_are_what_the_processor_makes() -> None:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8))
    processed = build_processor().image_processor(photo, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(processed, torch.from_numpy(normalise(photo)), atol=1e-5, rtol=0)


def test_what_training_never_shows_is_marked_and_nothing_that_it_shows() -> None:
    _, images = draw(PHOTOS, np.random.default_rng(1), 40, free=True)
    here = images.kind > 0
    shown = images.excluded.gather(2, images.kind[..., None])[..., 0]
    assert not shown.any()
    # A red patch is never a circle's, whatever it is.
    red = images.color == 1 + COLOR_NAMES.index("red")
    assert red.any()
    assert images.excluded[red][:, 1 + SHAPES.index("circle")].all()
    assert not images.excluded[~here].any()


def test_answers_that_training_never_gives_are_marked() -> None:
    batch = make_batch(PHOTOS, (0, 3), 8)
    for kind, (row, last, named, _) in zip(batch.kinds, batch.ends.tolist(), strict=True):
        excluded = int(batch.excluded[row, last])
        if kind == "color":
            noun = VOCABULARY[int(batch.ids[row, named])]
            assert VOCABULARY[excluded] == dict(UNSEEN)[noun]
        elif kind not in ("shape", "naming"):
            assert excluded == -1
        assert excluded != int(batch.labels[row, last])
