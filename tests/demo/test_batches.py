"""Training batches: a function of seed and step, packed so that no question sees another."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from otprune.demo.architecture import EOS
from otprune.demo.batches import TOKENS, Batches, make_batch
from otprune.demo.vocabulary import VOCABULARY

PHOTOS = [Image.new("RGB", (200, 150), (90, 120, 90))]


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    ahead = list(Batches(PHOTOS, 5, 0, 3, 2))[2]
    resumed = next(iter(Batches(PHOTOS, 5, 2, 3, 2)))
    assert torch.equal(ahead.pixels, resumed.pixels)
    assert torch.equal(ahead.ids, resumed.ids)


def test_labels_are_the_answer_then_the_end() -> None:
    batch = make_batch(PHOTOS, (0, 1), 3)
    for row, column, kind in batch.answer_kind:
        block = batch.block[row] == batch.block[row, column]
        labels = batch.labels[row][block & (batch.labels[row] != -100)].tolist()
        assert labels[-1] == EOS
        if kind == "existence":
            assert VOCABULARY[labels[0]] in ("yes", "no")
        if kind == "count":
            assert VOCABULARY[labels[0]].isdigit()
        # Positions run on within a question, behind the picture.
        positions = batch.positions[row][block]
        assert (positions.diff() == 1).all()
        assert positions[0] > TOKENS


def test_mentions_point_at_patches_of_the_named_colour() -> None:
    batch = make_batch(PHOTOS, (0, 2), 8)
    checked = 0
    for (row, column), target in zip(batch.mentions.tolist(), batch.targets, strict=True):
        word = VOCABULARY[int(batch.ids[row, column])]
        patches = target[1:]
        assert bool(target[0]) == (not patches.any())
        if word == "digit" and patches.any():
            kinds = batch.kind[row][patches]
            assert (kinds > 6).all()
            checked += 1
    assert checked


def test_pixels_are_what_the_processor_makes() -> None:
    from otprune.demo.batches import normalise
    from otprune.demo.processor import build_processor

    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8))
    processed = build_processor().image_processor(photo, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(processed, torch.from_numpy(normalise(photo)), atol=1e-5, rtol=0)
