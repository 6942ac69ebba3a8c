"""Every method, set so that it keeps a given number of tokens a frame on average.

The number is met with hindsight: thresholds and rates are found on the very clip, which the methods
would not know as it comes in. That favours those whose threshold does not follow the scene.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from otprune.numerics.normalize import unit_rows
from otprune.streaming import (
    DTD,
    EVS,
    FixedCameraSelector,
    FrameSelector,
    StaticPatches,
    StreamSelector,
    UniformStream,
    VidCom2,
    select_video,
)
from otprune.streaming.frames import cosine
from otprune_bench.robot import plan as names
from otprune_bench.robot.sources import Source


@dataclass(frozen=True)
class Choice:
    """What is kept of each frame, `(k,)` indices, the seconds that took, and the setting."""

    kept: list[Tensor]
    seconds: list[float]
    setting: float

    @property
    def mean(self) -> float:
        """Tokens a frame."""
        return sum(map(len, self.kept)) / len(self.kept)


def pushed(selector: FrameSelector, source: Source, setting: float) -> Choice:
    """A stream selector on a clip, frame by frame."""
    kept, seconds = [], []
    for tokens, patches in zip(source.tokens, source.patches, strict=True):
        given = {"patches": patches} if "patches" in selector.needs else {}
        start = time.perf_counter()
        kept.append(selector.push(tokens, **given))
        seconds.append(time.perf_counter() - start)
    return Choice(kept, seconds, setting)


def at_once(select: Callable[[Tensor], list[Tensor]], source: Source, setting: float) -> Choice:
    """A method that has the whole clip."""
    start = time.perf_counter()
    kept = select(source.tokens)
    frames = len(kept)
    return Choice(kept, [(time.perf_counter() - start) / frames] * frames, setting)


def equal(name: str, source: Source, tokens: float) -> Choice:
    """A method that keeps `tokens` a frame on average, as nearly as it can.

    Frames that are kept whole count, so that it cannot be less than their share.
    """
    t, m, _ = source.tokens.shape
    if name == names.UNIFORM:
        return pushed(UniformStream(tokens), source, tokens)
    if name == names.EVS:
        return at_once(EVS(round(tokens * t)).select, source, tokens)
    if name == names.VIDEO:
        return at_once(lambda x: select_video(x, round(tokens * t)), source, tokens)
    if name in (names.DTD, names.STATIC):
        return _by_threshold(name, source, round(tokens * t) - m)
    if name == names.VIDCOM2:
        share = tokens / m
        return _search(
            lambda keep: at_once(VidCom2(keep).select, source, keep),
            tokens,
            (share / 4, min(1.0, 2 * share)),
            steps=7,
        )
    if name == names.FIXED:
        return _search(lambda r: pushed(FixedCameraSelector(r), source, r), tokens, (0.13, m), 12)
    return _search(
        lambda r: pushed(StreamSelector(r, novelty=0.01), source, r),
        tokens,
        (tokens / 3, 9 * tokens),
        steps=5,
    )


def _by_threshold(name: str, source: Source, later: int) -> Choice:
    """The threshold that keeps so many tokens behind the first frame."""
    values = source.tokens if name == names.DTD else source.patches
    points = torch.stack([unit_rows(x.float().unsqueeze(0))[0] for x in values])
    alike = cosine(points[1:], points[:-1]).flatten().sort().values
    # A DTD keeps what is at most its threshold, static patches what is below it.
    at = max(later, 0) - (name == names.DTD)
    threshold = float(alike[min(at, len(alike) - 1)]) if at >= 0 else float(alike[0]) - 1e-3
    threshold = min(1.0, max(-0.999, threshold))
    if name == names.DTD:
        return pushed(DTD(threshold), source, threshold)
    return pushed(StaticPatches(threshold, share=1.0), source, threshold)


def _search(
    choose: Callable[[float], Choice], tokens: float, limits: tuple[float, float], steps: int
) -> Choice:
    """The setting whose number of tokens is nearest, by bisection: more keeps more."""
    best, (low, high) = None, limits
    for _ in range(steps):
        middle = (low * high) ** 0.5
        found = choose(middle)
        if best is None or abs(found.mean - tokens) < abs(best.mean - tokens):
            best = found
        if abs(found.mean - tokens) < 0.01 * tokens:
            break
        low, high = (middle, high) if found.mean < tokens else (low, middle)
    assert best is not None
    return best
