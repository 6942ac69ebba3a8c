"""The requests of a soak: each follows from the seed, the model and its number alone."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from otprune_bench.soak.media import BROKEN, Broken, Image, Video
from otprune_bench.soak.plan import (
    ABORTED,
    KEEPS,
    KINDS,
    METHODS,
    ONLY_QWEN,
    QWEN,
    REFUSED,
    WRONG,
    Plan,
)

Part = str | Image | Video | Broken
Turn = tuple[str, tuple[Part, ...]]  # who speaks, and what

QUESTIONS = (
    "Is there a star?",
    "Is the blue star left of the red circle?",
    "What color is the star?",
    "How many stars are there?",
    "Is there a red circle?",
)
BACK = 200  # a repeated request is at most so old, since caches are small
NEW = (1, 4, 8, 16, 32)


@dataclass(frozen=True)
class Ask:
    """One request.

    Attributes:
        kind: one of `KINDS`.
        turns: of the chat.
        otprune: what it asks of pruning; None for nothing.
        new: tokens to answer with.
        stream: the answer comes token by token.
        sampled: the answer is compared with the reference.
        said: part of the message of the error that is expected; None where an answer is.
    """

    kind: str
    turns: tuple[Turn, ...]
    otprune: Any = None
    new: int = 8
    stream: bool = False
    sampled: bool = False
    said: str | None = None

    def media(self) -> list[Image | Video]:
        """Images and videos, in order."""
        parts = [part for _, parts in self.turns for part in parts]
        return [part for part in parts if isinstance(part, (Image, Video))]


class Requests:
    """`Requests(plan, model)[i]` is the request with number i."""

    def __init__(self, plan: Plan, model: str) -> None:
        self._plan, self._model = plan, model
        self._kinds = {k: w for k, w in KINDS.items() if model == QWEN or k not in ONLY_QWEN}
        self._made = lru_cache(maxsize=4 * BACK)(self._make)

    def __getitem__(self, number: int) -> Ask:
        return self._made(number)

    def _make(self, number: int) -> Ask:
        rng = random.Random(f"{self._plan.seed} {self._model} {number}")
        kind = rng.choices(list(self._kinds), list(self._kinds.values()))[0]
        ask = self._of_kind(kind, number, rng)
        stream, sampled = rng.random() < 0.5, rng.random() < self._plan.sampled
        if kind in ABORTED:
            return replace(ask, stream=True, new=32)
        answered = ask.said is None
        return replace(ask, stream=stream, sampled=sampled and answered, new=rng.choice(NEW))

    def _of_kind(self, kind: str, number: int, rng: random.Random) -> Ask:
        if kind == "text":
            return Ask(kind, (("user", (self._words(rng),)),))
        if kind in REFUSED:
            return self._refused(kind, number, rng)
        if kind in ("several images", "video", "image", *ABORTED):
            return self._fresh(kind, number, rng)
        earlier = self._earlier(number, rng)
        if earlier is None:
            return self._fresh("image", number, rng)
        if kind == "the same, other settings":
            return replace(earlier, kind=kind, otprune=_settings(rng))
        if kind == "the same, other question":
            *before, (_, parts) = earlier.turns
            parts = (*(part for part in parts if not isinstance(part, str)), self._words(rng))
            return replace(earlier, kind=kind, turns=(*before, ("user", parts)))
        if kind == "second turn":
            more: tuple[Turn, ...] = (("assistant", ("yes",)), ("user", (self._words(rng),)))
            return replace(earlier, kind=kind, turns=(*earlier.turns[:1], *more))
        return replace(earlier, kind=kind)

    def _fresh(self, kind: str, number: int, rng: random.Random) -> Ask:
        count = rng.randint(2, 4) if kind == "several images" else 1
        media: list[Part] = [self._image(number * 8 + i, rng) for i in range(count)]
        if kind == "video":
            media = [_video(number * 8, rng)]
        parts: list[Part] = []
        for one in media:  # on some, text stands before and between images
            parts += [self._words(rng)] if rng.random() < 0.3 else []
            parts.append(one)
        parts.append(self._words(rng))
        return Ask(kind, (("user", tuple(parts)),), _settings(rng))

    def _refused(self, kind: str, number: int, rng: random.Random) -> Ask:
        image = self._image(number * 8, rng)
        words = self._words(rng)
        if kind == "wrong settings":
            asked, said = rng.choice(WRONG)
            return Ask(kind, (("user", (image, words)),), asked, said=said)
        if kind == "broken image":
            broken = Broken(rng.choice(list(BROKEN)))
            parts = (image, broken) if rng.random() < 0.3 and self._model == QWEN else (broken,)
            return Ask(kind, (("user", (*parts, words)),), _settings(rng), said="")
        if rng.random() < 0.5:
            return Ask(kind, (("user", (image,) * 5),), said="At most")
        return Ask(kind, (("user", (image, "? " * 4000)),), said="maximum context length")

    def _earlier(self, number: int, rng: random.Random) -> Ask | None:
        """One with an image that was not refused, also one that was aborted; None at first."""
        for _ in range(8):
            if number == 0:
                return None
            found = self[rng.randint(max(0, number - BACK), number - 1)]
            if found.said is None and found.media() and len(found.turns) == 1:
                return found
        return None

    def _image(self, seed: int, rng: random.Random) -> Image:
        form = rng.choice(("png", "jpeg", "webp"))
        mode = rng.choice(("RGB", "RGB", "L" if form != "webp" else "RGBA"))
        width, height = _size(rng)
        return Image(seed, width, height, form, mode)

    def _words(self, rng: random.Random) -> str:
        if self._model != QWEN:
            return rng.choice(QUESTIONS)
        letters = "abcdefghijklmnopqrstuvwxyz"
        words = (
            "".join(rng.choices(letters, k=rng.randint(1, 8))) for _ in range(rng.randint(1, 12))
        )
        return " ".join(words) + "?"


def _size(rng: random.Random) -> tuple[int, int]:
    """Width and height: mostly any, now and then of one pixel, or large; at most 150 to 1."""
    if rng.random() < 0.04:
        sides = [1, rng.randint(1, 150)]
        rng.shuffle(sides)
        return sides[0], sides[1]
    most = 2400 if rng.random() < 0.04 else 700
    sides = [round(math.exp(rng.uniform(math.log(16), math.log(most)))) for _ in range(2)]
    return sides[0], sides[1]


def _video(seed: int, rng: random.Random) -> Video:
    form = rng.choice(("jpeg", "jpeg", "mp4"))
    frames = 2 * rng.randint(2 if form == "mp4" else 1, 5)
    fps = 2.0 if form == "mp4" else rng.choice((2.0, 4.0, 8.0, 16.0))
    # MP4 codecs want even sides.
    return Video(seed, frames, 2 * rng.randint(8, 120), 2 * rng.randint(8, 120), fps, form)


def _settings(rng: random.Random) -> dict[str, Any] | None:
    if rng.random() < 0.1:
        return None
    asked = dict(rng.choice(METHODS))
    if rng.random() < 0.9:
        asked |= rng.choice(KEEPS)
    return asked
