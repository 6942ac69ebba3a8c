"""Timing of contenders that take turns: the paths of OTPrune, and the published algorithm."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
from torch import Tensor

from otprune.selectors import OTPrune
from otprune_bench.timing import transcription

GAMMA = 0.01  # the paper's, since that is what the transcription has
TRANSCRIPTION, EXACT, SKETCHED = "transcription", "exact", "sketched"

Runs = dict[str, Callable[[], object]]


def make_tokens(
    batch: int, m: int, d: int, seed: int, device: torch.device | str = "cpu"
) -> Tensor:
    """`(B, m, d)` float32 with a falling spectrum, a common mean, and noise.

    Made on the device; each kind of device draws other numbers.
    """
    g = torch.Generator(device).manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, device=device)

    r = min(m, d, 200)
    falling = torch.arange(1, r + 1, device=device) ** -0.7
    left = drawn(batch, m, r) * falling
    common = drawn(d) + left @ drawn(r, d)
    return common.add_(drawn(batch, m, d), alpha=0.1)


def contenders(tokens: Tensor, k: int) -> Runs:
    """Transcription (image by image, in float32), exact and sketched path on tokens `(B, m, d)`."""

    def published() -> None:
        for one in tokens:
            transcription.select(one.float(), k, GAMMA)

    runs: Runs = {TRANSCRIPTION: published}
    for name, selector in paths(k).items():
        runs[name] = functools.partial(selector.select, tokens)
    return runs


def paths(k: int, gamma: float = GAMMA) -> dict[str, OTPrune]:
    """Both paths to the published objective, the sketched one at its default rank."""
    return {
        EXACT: OTPrune(k, gamma=gamma),
        SKETCHED: OTPrune(k, gamma=gamma, rank="auto"),
    }


def on_host(function: Callable[[], object]) -> float:
    """Seconds of a call by the host's clock."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def race(
    runs: Runs,
    repeats: int,
    patience: float,
    timed: Callable[[Callable[[], object]], float] = on_host,
) -> dict[str, list[float]]:
    """Seconds of each contender; they take turns, and a round starts with another one each time.

    A contender that is slower than `patience` allows is run fewer times, three at least.
    """
    names = list(runs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:  # warm, and how long it takes
        seconds[name].append(timed(runs[name]))
    left = {name: max(3, min(repeats, int(patience / seconds[name].pop()))) for name in names}
    for turn in range(max(left.values(), default=0)):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            if len(seconds[name]) < left[name]:
                seconds[name].append(timed(runs[name]))
    return seconds


def paired(values: list[float], others: list[float]) -> list[float]:
    """Quotients round by round, as far as both were run."""
    return [a / b for a, b in zip(values, others, strict=False)]
