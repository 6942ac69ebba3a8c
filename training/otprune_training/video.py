"""Videos of stickers that drift over photographs, for the embedded model.

A shot is one crop of a photograph. Its stickers come in one after the other, drift, and turn round
at the edges. A cut brings another crop and other stickers. The generator determines everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from otprune_training.scenes import SIZE, Scene, Sticker, owners, render, sample_scene

SPEED = 1.5  # the fastest, in pixels of the model's image a frame: a fifth of a patch
NOISE = 2.0  # of the sensor, in grey levels of 255


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        shot: number of its shot, from 0.
        scene: its stickers in the order in which they came in.
        new: how many of them came in with this frame; at a cut, all.
    """

    shot: int
    scene: Scene
    new: int

    def arrivals(self) -> list[NDArray[np.bool_]]:
        """`(144,)` patches of each sticker that came in with this frame, if any patch shows it."""
        own = owners(self.scene)
        number = len(self.scene.stickers)
        patches = [own == i for i in range(number - self.new, number)]
        return [p for p in patches if p.any()]


def sample_video(
    rng: np.random.Generator, sizes: Sequence[tuple[int, int]], shots: int = 3, length: int = 16
) -> list[Frame]:
    """`shots * length` frames.

    Args:
        rng: source of all randomness.
        sizes: (width, height) of each photograph that may lie below.
        shots: number of shots, each with two to five stickers; half of them are there from its
            start, the others come at equal distances.
        length: frames a shot.
    """
    frames = []
    for shot in range(shots):
        plan = sample_scene(rng, sizes)
        number = len(plan.stickers)
        first = (number + 1) // 2
        enters = [0] * first + [
            length * (i + 1) // (number - first + 1) for i in range(number - first)
        ]
        speeds = rng.uniform(-SPEED, SPEED, (number, 2))
        for t in range(length):
            there = tuple(
                _drifted(sticker, speed, t - enter)
                for sticker, speed, enter in zip(plan.stickers, speeds, enters, strict=True)
                if enter <= t
            )
            frames.append(Frame(shot, replace(plan, stickers=there), enters.count(t)))
    return frames


def render_frame(
    frame: Frame, photos: Sequence[Image.Image], rng: np.random.Generator, scale: int = 4
) -> Image.Image:
    """The frame as an RGB image of `scale * SIZE` pixels a side, with the noise of a sensor."""
    image = np.asarray(render(frame.scene, photos, scale), np.float32)
    noisy = image + rng.normal(0, NOISE, image.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _drifted(sticker: Sticker, speed: NDArray[np.float64], age: int) -> Sticker:
    least, most = sticker.r + 1.5, SIZE - sticker.r - 1.5
    x, y = (
        _reflected(start + age * v, least, most)
        for start, v in zip((sticker.x, sticker.y), speed.tolist(), strict=True)
    )
    return replace(sticker, x=x, y=y)


def _reflected(place: float, least: float, most: float) -> float:
    """Position of something that turns round at both ends."""
    width = most - least
    return least + width - abs((place - least) % (2 * width) - width)
