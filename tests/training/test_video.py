"""Moving images, and what is kept of them: what is new, when it is new."""

import itertools

import numpy as np
import pytest
import torch

from otprune import StreamSelector, select_video
from otprune.demo import load
from otprune_bench.embedded.tasks import noise_images
from otprune_training.scenes import SIZE, owners
from otprune_training.video import SPEED, render_frame, sample_video

PHOTOS = noise_images(3, seed=0)
SIZES = [photo.size for photo in PHOTOS]


def test_stickers_come_drift_and_stay_inside():
    frames = sample_video(np.random.default_rng(0), SIZES, shots=4, length=40)
    assert frames == sample_video(np.random.default_rng(0), SIZES, shots=4, length=40)
    assert [f.shot for f in frames] == sorted([*range(4)] * 40)
    for before, frame in itertools.pairwise([None, *frames]):
        cut = before is None or before.shot != frame.shot
        old = 0 if cut else len(before.scene.stickers)
        assert frame.new == len(frame.scene.stickers) - old
        for s in frame.scene.stickers:
            assert s.r < min(s.x, s.y)
            assert max(s.x, s.y) < SIZE - s.r
        if not cut:
            for a, b in zip(before.scene.stickers, frame.scene.stickers, strict=False):
                assert (a.kind, a.color) == (b.kind, b.color)
                assert abs(a.x - b.x) <= SPEED + 1e-9
    assert sum(f.new for f in frames) == sum(
        len(frames[i].scene.stickers) for i in (39, 79, 119, 159)
    )
    assert sum(f.new > 0 for f in frames) > 4


@pytest.fixture(scope="module")
def video():
    """Frames, and their tokens as the embedded model's language part would get them."""
    rng = np.random.default_rng(1)
    frames = sample_video(rng, SIZES, shots=3, length=10)
    model, processor = load()
    images = [render_frame(frame, PHOTOS, rng) for frame in frames]
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        tokens = torch.stack(list(model.model.get_image_features(pixels).pooler_output))
    return frames, tokens


def share_of_arrivals_kept(frames, kept):
    hits = [
        bool(there[indices.numpy()].any())
        for frame, indices in zip(frames, kept, strict=True)
        for there in frame.arrivals()
    ]
    assert len(hits) > 6
    return sum(hits) / len(hits)


def test_a_stream_keeps_what_is_new_when_it_is_new(video):
    frames, tokens = video
    stream = StreamSelector(rate=7)  # of 144
    kept = [stream.push(frame) for frame in tokens]
    assert share_of_arrivals_kept(frames, kept) == 1
    # Shots without a newcomer cost far less than the rate.
    quiet = [len(k) for frame, k in zip(frames, kept, strict=True) if not frame.new]
    assert sum(quiet) / len(quiet) < 3.5
    assert sum(map(len, kept)) < 0.8 * 7 * len(frames)


def test_one_budget_over_all_frames_shows_every_sticker(video):
    frames, tokens = video
    kept = select_video(tokens, 0.03)
    assert share_of_arrivals_kept(frames, kept) > 0.8
    seen = {
        (frame.shot, int(i))
        for frame, indices in zip(frames, kept, strict=True)
        for i in owners(frame.scene)[indices.numpy()]
        if i >= 0
    }
    there = {(f.shot, i) for f in frames for i in range(len(f.scene.stickers))}
    assert len(seen) >= 0.9 * len(there), there - seen
