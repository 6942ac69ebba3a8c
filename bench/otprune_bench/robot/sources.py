"""Frames as tokens, pixels of each token, and what is known of the things in them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from otprune.demo import load
from otprune.encoders import vit_s
from otprune_bench.embedded.tasks import noise_images
from otprune_bench.robot.plan import ARM, EVENT, OBJECT, Plan
from otprune_training.scenes import GRID, owners
from otprune_training.video import render_frame, sample_video

LEAST = 0.125  # of a patch that belongs to something


@dataclass(frozen=True)
class Event:
    """Something comes in, or moves for the first time.

    Attributes:
        frame: when.
        patches: `(n, m)` where it is in that frame and in those after it.
    """

    frame: int
    patches: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Source:
    """A clip.

    Attributes:
        tokens: `(T, m, d)` float32.
        patches: `(T, m, p)` uint8, the pixels of each token.
        owner: `(T, m)`: `ARM`, `OBJECT` or 0; None where that is not known.
        events: in it.
        encoder: seconds of each frame.
    """

    tokens: Tensor
    patches: Tensor
    owner: NDArray[np.int64] | None = None
    events: tuple[Event, ...] = ()
    encoder: list[float] = field(default_factory=list)


def made(plan: Plan) -> Source:
    """Stickers that drift over smooth noise and come in one by one, seen by the embedded model."""
    rng = np.random.default_rng((plan.seed, 0))
    below = noise_images(plan.shots, plan.seed)
    video = sample_video(rng, [image.size for image in below], plan.shots, plan.length)
    model, processor = load()

    def encode(image: Image.Image) -> Tensor:
        pixels = processor.image_processor(image, return_tensors="pt").pixel_values
        tokens: Tensor = model.model.get_image_features(pixels).pooler_output[0]
        return tokens

    images = [render_frame(frame, below, rng) for frame in video]
    own = np.stack([owners(frame.scene) for frame in video])
    events = []
    for t, frame in enumerate(video):
        number = len(frame.scene.stickers)
        end = next((s for s in range(t, len(video)) if video[s].shot != frame.shot), len(video))
        there = [own[t:end] == i for i in range(number - frame.new, number)]
        events += [Event(t, patches) for patches in there if patches[0].any()]
    return _encoded(
        np.stack([np.asarray(image) for image in images]),
        GRID,
        encode,
        np.where(own >= 0, OBJECT, 0),
        tuple(events),
    )


def recorded(file: Path, noise: float, seed: int) -> Source:
    """An episode or a clip, see `episodes` and `clips`, seen by the ViT-S/14.

    Args:
        noise: standard deviation of what is added to the pixels, in grey levels.
    """
    with np.load(file) as found:
        images = found["frames"]
        labels, moved = (found.get(name) for name in ("labels", "moved"))
    if noise:
        drawn = np.random.default_rng((seed, 1)).normal(0, noise, images.shape)
        images = np.clip(np.rint(images + drawn), 0, 255).astype(np.uint8)
    grid = images.shape[1] // vit_s.PATCH
    owner: NDArray[np.int64] | None = None
    events: tuple[Event, ...] = ()
    if labels is not None and moved is not None:
        owner = patch_owners(labels, grid)
        events = first_move(owner, moved)
    return _encoded(images, grid, _encoder().tokens, owner, events)


def patch_owners(labels: NDArray[np.uint8], grid: int) -> NDArray[np.int64]:
    """Whose each patch is, `(T, grid * grid)`: what covers most of it, and at least `LEAST`."""
    cells = in_patches(labels[..., None], grid)
    arm, thing = (cells == ARM).mean(-1), (cells == OBJECT).mean(-1)
    owner = np.where(thing >= arm, OBJECT, ARM)
    owner[np.maximum(arm, thing) < LEAST] = 0
    return owner


def first_move(owner: NDArray[np.int64], moved: NDArray[np.float64]) -> tuple[Event, ...]:
    """The first frame in which the object is away from where it was; none if it stays."""
    away = np.flatnonzero(moved > EVENT)
    return tuple(Event(int(t), owner[t:] == OBJECT) for t in away[:1])


def in_patches(images: NDArray[np.uint8], grid: int) -> NDArray[np.uint8]:
    """`(T, side, side, c)` as `(T, grid * grid, pixels of a patch * c)`."""
    t, side, _, c = images.shape
    size = side // grid
    cells = images.reshape(t, grid, size, grid, size, c).transpose(0, 1, 3, 2, 4, 5)
    made: NDArray[np.uint8] = cells.reshape(t, grid * grid, size * size * c)
    return made


@functools.cache
def _encoder() -> vit_s.ViTS:
    return vit_s.load()


def check_encoder() -> None:
    """Raise before anything runs.

    Raises:
        MissingDependencyError: the ViT-S/14 was not fetched.
    """
    _encoder()


@torch.no_grad()
def _encoded(
    images: NDArray[np.uint8],
    grid: int,
    encode: Callable[[Image.Image], Tensor],
    owner: NDArray[Any] | None,
    events: tuple[Event, ...],
) -> Source:
    tokens, seconds = [], []
    for image in images:
        start = time.perf_counter()
        tokens.append(encode(Image.fromarray(image)))
        seconds.append(time.perf_counter() - start)
    patches = torch.from_numpy(in_patches(images, grid).copy())
    return Source(torch.stack(tokens), patches, owner, events, seconds)
