"""The sample clip shows what its plan says, and every PyAV reads it."""

import av
import numpy as np
import pytest
from PIL import Image

import otprune
from otprune.demo import CLIP
from otprune_training.clip import FPS, SECONDS, SIDE, STAYS, frame_at, stickers_at, write


def test_the_clip_is_small_and_of_a_common_codec():
    assert CLIP.stat().st_size <= 250_000
    with av.open(str(CLIP)) as opened:
        stream = opened.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.frames) == (SIDE, SIDE, SECONDS * FPS)


def test_stickers_come_move_and_leave():
    assert [len(stickers_at(t)) for t in (0, 1.9, 2, 5, 5.9, 6, 8.5, 9, 11.9, 12)] == (
        [1, 1, 2, 3, 3, 2, 3, 2, 2, 0]
    )
    before, after = stickers_at(2.0)[1], stickers_at(5.9)[1]
    assert before.name == after.name == "red circle"
    assert after.x - before.x > 40


def test_the_clip_shows_its_stickers_and_nothing_in_their_place_when_they_are_gone():
    frames = list(otprune.frames(CLIP, 0.5))
    scale = SIDE / 96
    for stay in STAYS:
        if stay.kind in ("ring", "7"):  # their middle is photograph
            continue
        for time, image in frames:
            middle = next((s for s in stickers_at(time) if s.kind == stay.kind), None)
            x, y = (middle.x, middle.y) if middle else stay.start
            seen = np.asarray(image)[round(y * scale), round(x * scale)].astype(int)
            wanted = np.array(otprune.demo.words.COLORS[stay.color])
            assert (np.abs(seen - wanted).max() < 45) == (middle is not None), (time, stay.kind)


def test_it_is_written_from_its_photograph(tmp_path, monkeypatch):
    monkeypatch.setattr("otprune_training.clip.SECONDS", 1)
    photo = Image.new("RGB", (600, 400), "gray")
    write(photo, tmp_path / "clip.mp4")
    times, images = zip(*otprune.frames(tmp_path / "clip.mp4"), strict=True)
    assert times == pytest.approx([number / FPS for number in range(FPS)])
    for time, image in zip(times, images, strict=True):
        difference = np.asarray(image).astype(int) - np.asarray(frame_at(time, photo))
        assert np.abs(difference).mean() < 3
