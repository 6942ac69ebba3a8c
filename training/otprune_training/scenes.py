"""What the embedded model sees: coloured stickers on photographs.

A scene is a square crop of a photograph with two to five stickers on it: shapes or one digit, each
with a colour, a size and a place. Everything is drawn from a `numpy.random.Generator`, so a seed
gives the same scene on every machine. Lengths are pixels of the model's own image, `SIZE` wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from otprune.demo.words import COLOR_NAMES, COLORS, DIGITS, NOUNS, SHAPES, UNSEEN

SIZE = 96
PATCH = 8
GRID = SIZE // PATCH

OUTLINE = (25, 25, 25)


@dataclass(frozen=True)
class Sticker:
    """One object of a scene; `x`, `y` its centre and `r` its radius in pixels."""

    kind: str  # a shape, or the digit itself
    color: str  # "" for one that has no name
    x: float
    y: float
    r: float
    big: bool
    tilt: float
    rgb: tuple[int, int, int]

    @property
    def noun(self) -> str:
        return "digit" if self.kind in DIGITS else self.kind

    @property
    def name(self) -> str:
        return f"{self.color} {self.noun}"

    @property
    def unseen(self) -> bool:
        return (self.noun, self.color) in UNSEEN


@dataclass(frozen=True)
class Scene:
    """Stickers on one crop of one photograph."""

    photo: int
    box: tuple[int, int, int]  # left, top, side of the crop, in pixels of the photograph
    flip: bool
    light: float  # factor on the photograph's brightness
    stickers: tuple[Sticker, ...]


def sample_scene(
    rng: np.random.Generator,
    sizes: Sequence[tuple[int, int]],
    *,
    unseen: bool = False,
    free: bool = False,
) -> Scene:
    """Draw a scene's plan.

    Args:
        rng: source of all randomness.
        sizes: (width, height) of each photograph that may lie below.
        unseen: False, as in training, without the `UNSEEN` combinations; True, as held out, where
            at least one sticker is such a combination.
        free: several digits in one scene, and half of the stickers in colours that have no name.
            Questions cannot be asked about it. It teaches the tower to tell form from colour.
    """
    photo = int(rng.integers(len(sizes)))
    width, height = sizes[photo]
    side = int(rng.integers(min(130, width, height), min(width, height) + 1))
    left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    flip, light = bool(rng.random() < 0.5), float(rng.uniform(0.7, 1.25))
    stickers: list[Sticker] = []
    number = int(rng.integers(2, 6))
    forced = int(rng.integers(number)) if unseen else -1
    for _ in range(200):
        if len(stickers) == number:
            break
        # The first sticker alone may be a digit: "what digit is shown" then has one answer.
        digits = 0.4 if free else 0.55 if not stickers else 0.0
        sticker = _sample_sticker(rng, digits, forced=len(stickers) == forced)
        if free and rng.random() < 0.5:
            sticker = replace(sticker, color="", rgb=_nameless(rng, sticker.noun))
        if sticker.unseen and not unseen:
            continue
        if any(_clash(sticker, other) for other in stickers):
            continue
        stickers.append(sticker)
    return Scene(photo, (left, top, side), flip, light, tuple(stickers))


def _sample_sticker(rng: np.random.Generator, digits: float, *, forced: bool) -> Sticker:
    """A sticker, a digit with chance `digits`; `forced` makes it an `UNSEEN` combination."""
    digit = bool(rng.random() < digits)
    kind = DIGITS[rng.integers(10)] if digit else SHAPES[rng.integers(len(SHAPES))]
    color = COLOR_NAMES[rng.integers(len(COLOR_NAMES))]
    if forced:
        color = dict(UNSEEN)["digit" if digit else kind]
    big = bool(rng.random() < 0.4)
    r = rng.uniform(10, 12.5) if big else rng.uniform(7.5, 8.5) if digit else rng.uniform(5.5, 7)
    x, y = rng.uniform(r + 1.5, SIZE - r - 1.5, 2)
    jitter = np.clip(np.array(COLORS[color]) + rng.integers(-18, 19, 3), 0, 255)
    rgb = (int(jitter[0]), int(jitter[1]), int(jitter[2]))
    tilt = float(rng.uniform(-0.35, 0.35))
    return Sticker(kind, color, float(x), float(y), float(r), big, tilt, rgb)


def _nameless(rng: np.random.Generator, noun: str) -> tuple[int, int, int]:
    """Any colour, but none that looks like the one in which `noun` must stay unseen."""
    while True:
        red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
        if not _looks(dict(UNSEEN)[noun], (red, green, blue)):
            return red, green, blue


def _looks(color: str, rgb: tuple[int, int, int]) -> bool:
    return math.dist(COLORS[color], rgb) <= 100


def excluded(sticker: Sticker) -> list[bool]:
    """For each of `NOUNS`, whether training excludes it in this sticker's colour."""
    if sticker.color:
        return [(noun, sticker.color) in UNSEEN for noun in NOUNS]
    return [_looks(dict(UNSEEN)[noun], sticker.rgb) for noun in NOUNS]


def _clash(a: Sticker, b: Sticker) -> bool:
    same = bool(a.color) and a.name == b.name
    return same or _touch(a, b)


def _touch(a: Sticker, b: Sticker) -> bool:
    return math.hypot(a.x - b.x, a.y - b.y) < (a.r + b.r) * 1.15 + 2


def render(scene: Scene, photos: Sequence[Image.Image], scale: int = 2) -> Image.Image:
    """The scene as an RGB image of `scale * SIZE` pixels a side."""
    left, top, side = scene.box
    width = SIZE * scale
    crop = (left, top, left + side, top + side)
    image = photos[scene.photo].resize((width, width), Image.Resampling.BILINEAR, box=crop)
    if scene.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.point([min(255, int(v * scene.light)) for v in range(256)] * 3)
    draw = ImageDraw.Draw(image)
    for sticker in scene.stickers:
        _draw(draw, sticker, scale, OUTLINE, grow=1.0)
        _draw(draw, sticker, scale, sticker.rgb, grow=0.0)
    return image


def owners(scene: Scene, grid: int = GRID) -> NDArray[np.int8]:
    """(grid * grid,) index of the sticker that holds each patch, -1 where it is photograph.

    A patch belongs to the sticker that covers most of it, and at least an eighth of it.
    """
    mask = Image.new("L", (grid * PATCH, grid * PATCH), 0)
    draw = ImageDraw.Draw(mask)
    for i, sticker in enumerate(scene.stickers):
        _draw(draw, sticker, grid / GRID, i + 1, grow=0.5)
    cells = np.asarray(mask).reshape(grid, PATCH, grid, PATCH).transpose(0, 2, 1, 3)
    cells = cells.reshape(grid * grid, PATCH * PATCH)
    cover = np.stack([(cells == i + 1).mean(1) for i in range(len(scene.stickers))], 1)
    return np.where(cover.max(1) >= 0.125, cover.argmax(1), -1).astype(np.int8)


def _draw(
    draw: ImageDraw.ImageDraw, s: Sticker, scale: float, fill: object, *, grow: float
) -> None:
    """Draw one sticker; `grow` widens it by so many pixels, which makes its dark edge."""
    x, y, r, edge = s.x * scale, s.y * scale, s.r * scale, grow * scale
    color = fill if isinstance(fill, (int, tuple)) else OUTLINE
    if s.kind in DIGITS:
        stroke = max(1, round(0.07 * r)) + round(edge)
        draw.text(
            (x, y), s.kind, fill=color, font=_font(int(2.5 * r)), anchor="mm", stroke_width=stroke
        )
    elif s.kind == "circle":
        draw.ellipse([x - r - edge, y - r - edge, x + r + edge, y + r + edge], fill=color)
    elif s.kind == "ring":
        band = max(2, round(r * 0.42) + 2 * round(edge))
        box = [x - r - edge, y - r - edge, x + r + edge, y + r + edge]
        draw.ellipse(box, outline=color, width=band)
    elif s.kind == "cross":
        arm, half = r * 1.05 + edge, r * 0.36 + edge
        for turn in (s.tilt, s.tilt + math.pi / 2):
            c, n = math.cos(turn), math.sin(turn)
            corners = ((-arm, -half), (arm, -half), (arm, half), (-arm, half))
            draw.polygon([(x + u * c - v * n, y + u * n + v * c) for u, v in corners], fill=color)
    else:
        draw.polygon(_corners(s.kind, x, y, r, edge, s.tilt), fill=color)


def _corners(
    kind: str, x: float, y: float, r: float, edge: float, tilt: float
) -> list[tuple[float, float]]:
    points = {"square": 4, "triangle": 3, "star": 10}[kind]
    start = math.pi / 4 if kind == "square" else -math.pi / 2
    # A corner moves out by more than the edge does: the factor is 1 / sin(half the corner's angle).
    outer = r * 1.2 + edge * {"square": 1.4, "triangle": 2.0, "star": 2.0}[kind]
    radii = [outer, r * 0.5 + edge] * 5 if kind == "star" else [outer] * points
    turns = [start + tilt + 2 * math.pi * i / points for i in range(points)]
    return [(x + q * math.cos(t), y + q * math.sin(t)) for q, t in zip(radii, turns, strict=True)]


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
