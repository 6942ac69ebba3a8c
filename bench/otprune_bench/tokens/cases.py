"""The token-level part on a second encoder, a pretrained ViT-S/14.

No answers here: distances, certificates, and how many of the things in an image are kept at all.
Photographs come without masks, so the things are stickers drawn on them, as everywhere in these
benches, whose masks are known to the pixel; the encoder was not trained on stickers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from otprune.encoders import vit_s
from otprune_bench.embedded import photographs
from otprune_bench.embedded.tasks import noise_images
from otprune_bench.methods import NAMES, Choose, methods
from otprune_bench.runs.cases import Case
from otprune_bench.tokens.plan import MEASURES, Plan, key
from otprune_training.scenes import owners, render, sample_scene

SCALE = 5  # 480 pixels: no less than the encoder's largest input


class Images:
    """The images of a run, where their stickers are, and their tokens."""

    def __init__(self, plan: Plan, photos: Path) -> None:
        self.plan = plan
        self.scenes, self.images = [], []
        for i, photo in enumerate(_below(plan, photos)):
            scene = sample_scene(np.random.default_rng((plan.seed, i)), [photo.size])
            # As much of the photograph as a square holds, from its middle.
            scene = replace(scene, box=_middle(*photo.size))
            self.scenes.append(scene)
            self.images.append(render(scene, [photo], SCALE))
        self._tokens: dict[int, list[Tensor]] = {}

    @cached_property
    def encoder(self) -> vit_s.ViTS:
        return vit_s.load()

    def tokens(self, size: int) -> list[Tensor]:
        """`(m, 384)` of every image."""
        if size not in self._tokens:
            self._tokens[size] = [self.encoder.tokens(p, size) for p in self.images]
        return self._tokens[size]

    def measured(self, choose: Choose, keep: float, size: int) -> dict[str, list[float | None]]:
        """One case: every measure of every image."""
        rows = []
        for i, (scene, tokens) in enumerate(zip(self.scenes, self.tokens(size), strict=True)):
            said = choose(keep, i).explain(tokens)
            own = owners(scene, size // vit_s.PATCH)
            rows.append(
                {
                    "gaussian_w2": said.gaussian_w2_relative,
                    "exact_w2": said.exact_w2_relative,
                    "free_mass_w2": said.free_mass_w2_relative,
                    "certificate": said.certificate,
                    **_coverage(own, len(scene.stickers), said.indices),
                }
            )
        return {name: [row[name] for row in rows] for name in MEASURES}


def _middle(width: int, height: int) -> tuple[int, int, int]:
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side


def _coverage(own: NDArray[np.int8], stickers: int, kept: Tensor) -> dict[str, float]:
    here = own[kept.numpy()]
    return {
        "evidence": float((here >= 0).sum() / (own >= 0).sum()),
        "objects": float(np.mean([(here == i).any() for i in range(stickers)])),
    }


def _below(plan: Plan, photos: Path) -> list[Image.Image]:
    if not plan.photographs:
        return noise_images(plan.images, plan.seed)
    return photographs.load(photos)[: plan.images]


def cases(images: Images) -> Iterable[Case]:
    """ "method@keep, m tokens"; random pruning once, since every image has a draw of its own."""
    of = methods(images.plan.seed, random_seeds=1)
    for size in images.plan.sizes:
        for keep in images.plan.keeps:
            for name, choose in zip(NAMES, of.values(), strict=True):
                yield key(name, keep, size), partial(images.measured, choose, keep, size)
