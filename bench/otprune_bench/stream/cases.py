"""Streams and videos: quality of the selection, and time and memory over many frames."""

from __future__ import annotations

import functools
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprune.demo import load
from otprune.measures import distances
from otprune.numerics.normalize import unit_rows
from otprune.selectors import DPPPrune, OTPrune, RandomPrune, Selector
from otprune.streaming import StreamSelector, novelty, select_video
from otprune_bench.embedded.tasks import backgrounds
from otprune_bench.runs.cases import Case
from otprune_bench.stream.plan import CUT, PAN, RANK, STREAM, VIDEO, Plan
from otprune_bench.timing.memory import resident_bytes
from otprune_training.video import Frame, render_frame, sample_video

Kept = list[Tensor]


def cases(plan: Plan, photos: Path) -> Iterator[Case]:
    """The long stream, then the videos one by one."""
    yield "long stream", functools.partial(_long, plan)
    videos = _Videos(plan, photos)
    for number in range(plan.videos):
        yield f"video {number + 1}", functools.partial(_compare, plan, videos, number)


# -- the long stream -------------------------------------------------------------------------------


class Camera:
    """Tokens of a synthetic camera, without end: low rank, a slow drift and noise.

    The view moves on by `PAN` tokens a frame and is cut every `CUT` frames.
    """

    def __init__(self, tokens: int, features: int, seed: int) -> None:
        self._shape = (tokens, features)
        self._g = torch.Generator().manual_seed(seed)
        self._t = 0
        self._common = self._normal(features)
        self._scene = self._common.expand(tokens, -1)

    def frame(self) -> Tensor:
        """The next one, `(tokens, features)` float32."""
        m, d = self._shape
        if self._t % CUT == 0:
            self._basis = self._normal(RANK, d) / sqrt(RANK)
            self._scene = self._view(m)
        self._t += 1
        self._scene = torch.cat([self._scene[PAN:], self._view(PAN)])
        self._scene.addcmul_(self._normal(m, 1), self._normal(d), value=0.01)
        return self._scene.add(self._normal(m, d), alpha=0.05)

    def _view(self, tokens: int) -> Tensor:
        _, d = self._shape
        own = self._normal(tokens, RANK) @ self._basis
        return self._common + own + 0.3 * self._normal(tokens, d)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._g)


def _long(plan: Plan) -> dict[str, Any]:
    camera = Camera(plan.tokens, plan.features, plan.seed)
    stream = StreamSelector(plan.rate)
    points: list[dict[str, Any]] = []
    times: list[float] = []
    work: list[float] = []
    kept = 0
    for t in range(1, plan.frames + 1):
        frame = camera.frame()
        start, busy = time.perf_counter(), time.process_time()
        indices = stream.push(frame)
        times.append(time.perf_counter() - start)
        work.append(time.process_time() - busy)
        kept += len(indices)
        if t % plan.every == 0:
            some = sorted(times[-plan.every :])
            state = sum(x.numel() * x.element_size() for x in stream.state_dict().values())
            points.append(
                {
                    "frames": t,
                    "median_seconds": statistics.median(some),
                    "processor_seconds": statistics.median(work[-plan.every :]),
                    "p99_seconds": some[int(0.99 * len(some))],
                    "slowest_seconds": some[-1],
                    "state_bytes": state,
                    "resident_bytes": resident_bytes(),
                    "kept": kept,
                }
            )
    return {
        "points": points,
        "kept": kept,
        "frames_per_second": len(times) / sum(times),
        "seconds": sum(times),
        "slowest_seconds": max(times),
        "processor_seconds": sum(work),
        "load": os.getloadavg()[0],
        "largest_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


# -- moving images -------------------------------------------------------------------------------


class _Videos:
    """Videos of moving stickers, and their tokens from the embedded model's tower."""

    def __init__(self, plan: Plan, photos: Path) -> None:
        self._plan, self._photos = plan, photos

    @functools.cached_property
    def _model(self) -> tuple[Any, Any]:
        return load()

    def video(self, number: int) -> tuple[list[Frame], Tensor]:
        """Frames, and their tokens, `(T, 144, d)`."""
        plan = self._plan
        rng = np.random.default_rng((plan.seed, number))
        below = backgrounds(plan.photographs, self._photos, plan.seed + number, plan.shots)
        frames = sample_video(rng, [image.size for image in below], plan.shots, plan.length)
        model, processor = self._model
        tokens = []
        with torch.no_grad():
            for frame in frames:
                pixels = processor.image_processor(
                    render_frame(frame, below, rng), return_tensors="pt"
                ).pixel_values
                tokens += model.model.get_image_features(pixels).pooler_output
        return frames, torch.stack(tokens)


def choices(plan: Plan, tokens: Tensor, number: int) -> dict[str, Callable[[], Kept]]:
    """What is compared; those without a share in their name keep as many tokens as the stream."""
    t, m, _ = tokens.shape
    streams = {
        name: [stream.push(frame) for frame in tokens]
        for name, stream in (
            (STREAM, StreamSelector(plan.keep * m)),
            (f"{STREAM}, novelty 0.02", StreamSelector(plan.keep * m, novelty=0.02)),
        )
    }
    k, most = sum(len(i) for i in streams[STREAM]), round(plan.keep * t * m)

    def alone(make: Callable[[int], Selector], total: int = k) -> Kept:
        """Every frame by itself; the total is divided evenly among them."""
        shares = [total * (i + 1) // t - total * i // t for i in range(t)]
        return [
            make(share).select(frame) if share else torch.empty(0, dtype=torch.int64)
            for share, frame in zip(shares, tokens, strict=True)
        ]

    def joint() -> Kept:
        chosen = OTPrune(k).select(tokens.flatten(0, 1))
        return [chosen[chosen // m == i] % m for i in range(t)]

    def drawn(number_of_tokens: int) -> Selector:
        return RandomPrune(number_of_tokens, seed=plan.seed + number)

    return {
        **{name: functools.partial(list, kept) for name, kept in streams.items()},
        VIDEO: lambda: select_video(tokens, k),
        "otprune, all frames at hand": joint,
        "dpp, frame by frame": lambda: alone(DPPPrune),
        "otprune, frame by frame": lambda: alone(OTPrune),
        "random, frame by frame": lambda: alone(drawn),
        f"dpp, frame by frame, {plan.keep:.0%}": lambda: alone(DPPPrune, most),
        f"random, frame by frame, {plan.keep:.0%}": lambda: alone(drawn, most),
    }


def _compare(plan: Plan, videos: _Videos, number: int) -> dict[str, Any]:
    frames, tokens = videos.video(number)
    full = tokens.flatten(0, 1)
    points = unit_rows(tokens)
    result = {}
    for name, choose in choices(plan, tokens, number).items():
        kept = choose()
        chosen = torch.cat([x[i] for x, i in zip(tokens, kept, strict=True)])
        unit = torch.cat([x[i] for x, i in zip(points, kept, strict=True)])
        size = float(full.double().square().sum(dim=-1).mean())
        arrived = [
            bool(there[indices.numpy()].any())
            for frame, indices in zip(frames, kept, strict=True)
            for there in frame.arrivals()
        ]
        result[name] = {
            "kept": len(chosen),
            "share": len(chosen) / len(full),
            "value": novelty.value(unit),
            "gaussian_w2": distances.gaussian_w2(full, chosen) / size,
            "free_mass_w2": distances.free_mass_w2(full, chosen) / size,
            "free_mass_w2_rows": distances.free_mass_w2(points.flatten(0, 1), unit),
            "arrivals": sum(arrived) / len(arrived),
            "per_frame": [len(i) for i in kept],
        }
    result["frames"] = {
        "new": [frame.new for frame in frames],
        "shot": [frame.shot for frame in frames],
    }
    return result
