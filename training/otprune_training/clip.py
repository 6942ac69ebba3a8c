"""The sample clip: stickers that appear, move and leave over a still photograph.

`python -m otprune_training.clip RUN_DIR` writes it. The photograph is in the public domain
(docs/assets.md) and was held out of training.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from PIL import Image

from otprune.demo import CLIP
from otprune.demo.words import COLORS
from otprune_training.scenes import Scene, Sticker, render

SECONDS, FPS, SIDE = 12, 10, 320
PHOTO, BOX = "coffee.png", (84, 0, 400)  # left, top, side


@dataclass(frozen=True)
class Stay:
    """A sticker from `first` to `last`, in seconds, on a line between two places."""

    kind: str
    color: str
    r: float
    first: float
    last: float
    start: tuple[float, float]
    end: tuple[float, float]


STAYS = (
    Stay("star", "blue", 7, 0, 12, (18, 20), (30, 24)),
    Stay("circle", "red", 7, 2, 6, (20, 78), (70, 74)),
    Stay("7", "white", 8, 5, 9, (78, 22), (76, 46)),
    Stay("ring", "green", 7.5, 8, 12, (76, 78), (26, 72)),
)


def stickers_at(time: float) -> tuple[Sticker, ...]:
    """What there is to see at a time, in seconds: the ground truth."""
    there = []
    for stay in STAYS:
        if stay.first - 1e-6 <= time < stay.last - 1e-6:
            share = (time - stay.first) / (stay.last - stay.first)
            x, y = (a + share * (b - a) for a, b in zip(stay.start, stay.end, strict=True))
            there.append(
                Sticker(stay.kind, stay.color, x, y, stay.r, False, 0.1, COLORS[stay.color])
            )
    return tuple(there)


def frame_at(time: float, photo: Image.Image) -> Image.Image:
    """One frame, `SIDE` pixels a side."""
    scene = Scene(0, BOX, flip=False, light=1.0, stickers=stickers_at(time))
    return render(scene, [photo], scale=8).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def write(photo: Image.Image, target: Path) -> None:
    """The clip as H.264 in yuv420p, which every build of PyAV reads."""
    with av.open(str(target), "w", options={"movflags": "faststart"}) as out:
        stream: Any = out.add_stream("libx264", rate=FPS)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        # One thread and no names of builds, so that the file depends on the encoder alone.
        stream.options = {"crf": "20", "preset": "veryslow", "threads": "1", "bf": "0"}
        for number in range(SECONDS * FPS):
            frame: Any = av.VideoFrame.from_image(frame_at(number / FPS, photo))  # type: ignore[no-untyped-call]
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


if __name__ == "__main__":
    write(Image.open(Path(sys.argv[1]) / "photos" / PHOTO).convert("RGB"), CLIP)
