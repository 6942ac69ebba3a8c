"""A long session, and answers beside those from a whole clip in one prompt."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from otprune.demo import load
from otprune.engines.transformers import Seen, prune, watch
from otprune.selectors import GridPrune, OTPrune, Selector
from otprune.streaming import FixedCameraSelector
from otprune_bench.embedded.tasks import backgrounds
from otprune_bench.runs.cases import Case
from otprune_bench.timing.memory import resident_bytes
from otprune_bench.timing.shapes import ONEVISION
from otprune_bench.watch.plan import EMBEDDED, GRID, OTPRUNE, QUESTION, SESSION, Plan
from otprune_training.video import render_frame, sample_video

PARTS = ("encode", "select", "prefill")


def cases(plan: Plan, photos: Path) -> Iterator[Case]:
    """The long session, then the answers, model by model."""
    yield "long session", functools.partial(_long, plan, photos)
    yield EMBEDDED, functools.partial(_embedded, plan, photos)
    if plan.large:
        yield ONEVISION.name, functools.partial(_large, plan)


# -- the long session ------------------------------------------------------------------------------


def frames(plan: Plan, photos: Path, number: int) -> Iterator[Image]:
    """Frames of moving stickers over photographs, a new video every few hundred."""
    length, shots = 50, 4
    for video in range(-(-number // (length * shots))):
        rng = np.random.default_rng((plan.seed, video))
        below = backgrounds(plan.photographs, photos, plan.seed + video, shots)
        for frame in sample_video(rng, [image.size for image in below], shots, length):
            yield render_frame(frame, below, rng, scale=2)


def _long(plan: Plan, photos: Path) -> dict[str, Any]:
    model, processor = load()
    points: list[dict[str, Any]] = []
    some: list[Seen] = []
    asked: list[float] = []
    kept = 0
    # The first frame is kept whole, and then the rate is spent: tokens leave all the time.
    selector = FixedCameraSelector(plan.rate)
    with watch(model, processor, selector, memory=plan.memory) as session:
        for t, image in zip(range(plan.frames), frames(plan, photos, plan.frames), strict=False):
            some.append(session.see(image, time=t / 10))
            kept += len(some[-1].indices)
            if (t + 1) % plan.every == 0:
                start = time.perf_counter()
                session.ask(QUESTION, max_new_tokens=1)
                asked.append(time.perf_counter() - start)
                points.append(_point(t + 1, some, asked[-1], session, kept))
                some = []
    return {"points": points, "kept": kept}


def _point(frame: int, some: list[Seen], asked: float, session: watch, kept: int) -> dict[str, Any]:
    there = [one for one in some if one.changed] or some
    return {
        "frames": frame,
        "changed": sum(one.changed for one in some),
        "median_seconds": statistics.median(one.seconds for one in there),
        "slowest_seconds": max(one.seconds for one in there),
        **{part: statistics.median(getattr(one, part) for one in there) for part in PARTS},
        **{f"mean_{part}": statistics.mean(getattr(one, part) for one in there) for part in PARTS},
        "ask_seconds": asked,
        "remembered": session.tokens,
        "state_bytes": sum(x.numel() * x.element_size() for x in session.state_dict().values()),
        "resident_bytes": resident_bytes(),
        "kept": kept,
    }


# -- answers ---------------------------------------------------------------------------------------


class Evenly:
    """A selector of streams that keeps as many tokens of every frame, evenly spread."""

    def __init__(self, number: int) -> None:
        self._grid = GridPrune(number)

    def push(self, frame: Tensor) -> Tensor:
        """As many of each."""
        return self._grid.select(frame)

    def state_dict(self) -> dict[str, Tensor]:
        """It has none."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """It has none."""


def _embedded(plan: Plan, photos: Path) -> dict[str, Any]:
    model, processor = load()
    clip = list(frames(plan, photos, plan.clip))[: plan.clip]
    text = f"<bos>{'<image>' * len(clip)}{QUESTION}"
    inputs = processor(text=text, images=clip, return_tensors="pt", add_special_tokens=False)
    session = watch(model, processor, Evenly(plan.kept), memory=plan.clip * plan.kept, unchanged=0)
    return _answers(plan, model, session, clip, dict(inputs), plan.kept)


class VideoWording:
    """Frames as one-frame videos of LLaVA-OneVision, without a tokenizer."""

    def __init__(self, token: int, tokens: int, text: int) -> None:
        self.tokenizer = self
        self._token, self._tokens, self._text = token, tokens, text

    def decode(self, ids: Tensor, skip_special_tokens: bool = True) -> str:
        """The numbers themselves."""
        return " ".join(map(str, ids.tolist()))

    def opening(self) -> list[int]:
        """One token."""
        return [3]

    def question(self, text: str) -> list[int]:
        """A prompt of the usual length."""
        return [5] * (self._text - 1)

    def reopening(self, text: str) -> list[int]:
        """One token."""
        return [4]

    def frame(self, images: Sequence[Image], times: Sequence[float]) -> dict[str, Tensor]:
        """One frame, and the newline behind it."""
        ids = torch.full((1, self._tokens + 1), self._token)
        return {"input_ids": ids, "pixel_values_videos": pixels(images).unsqueeze(0)}


def pixels(images: Sequence[Image]) -> Tensor:
    """`(n, 3, 384, 384)` in [-1, 1]."""
    arrays = [np.asarray(image.resize((384, 384)), np.float32) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1


def _large(plan: Plan) -> dict[str, Any]:
    plan = replace(plan, photographs=False, clip=plan.large_clip, repeats=1)
    shape = replace(ONEVISION, config=ONEVISION.config | {"video_token_id": 151647})
    model = shape.build(torch.float32)
    model.generation_config.suppress_tokens = [151646, 151647]
    clip = list(frames(plan, Path(), plan.clip))[: plan.clip]
    words = VideoWording(151647, 14 * 14, shape.text)
    ids = [3, *[151647] * (14 * 14 * len(clip) + 1), *words.question(QUESTION)]
    inputs = {"input_ids": torch.tensor([ids]), "pixel_values_videos": pixels(clip).unsqueeze(0)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    session = watch(model, words, Evenly(plan.kept), memory=plan.clip * plan.kept, unchanged=0)
    return _answers(plan, model, session, clip, inputs, plan.clip * plan.kept)


def _answers(
    plan: Plan,
    model: Any,
    session: watch,
    clip: list[Image],
    inputs: dict[str, Any],
    keep: int,
) -> dict[str, Any]:
    """Seconds from the question's end to the first token.

    inputs: the clip in one prompt; keep: tokens of each of its images, or of its video.
    """
    seen = [session.see(image, time=float(t)) for t, image in enumerate(clip)]

    def whole(selector: Selector) -> None:
        with prune(model, selector):
            model.generate(**inputs, max_new_tokens=1, do_sample=False)

    ways: dict[str, Callable[[], Any]] = {
        SESSION: lambda: session.ask(QUESTION, max_new_tokens=1, do_sample=False),
        GRID: lambda: whole(GridPrune(keep)),
        OTPRUNE: lambda: whole(OTPrune(keep)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    session.ask(QUESTION, max_new_tokens=1, do_sample=False)  # warm
    for _ in range(plan.repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    there = seen[1:] or seen
    return {
        "frames": len(clip),
        "tokens": session.tokens,
        "times": times,
        "see": {part: statistics.median(getattr(one, part) for one in there) for part in PARTS},
        "see_total": sum(one.seconds for one in seen),
    }
