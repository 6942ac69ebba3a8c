"""`otprune bench speed`: what selection costs, from a thumbnail to an hour of video.

Everything is measured in one run beside `otprune_bench.timing.transcription`, the published
algorithm written down plainly: contenders take turns within a case, so that what the machine does
meanwhile falls on all alike.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from otprune.demo import SAMPLES_DIR
from otprune.encoders import vit_s
from otprune.keep import count
from otprune.measures.logdet import kernel, scaled_gamma
from otprune.numerics.normalize import unit_columns
from otprune.selectors import METHODS
from otprune_bench.efficiency.cases import spread
from otprune_bench.runs.cases import Case, run_cases
from otprune_bench.runs.report import check_plots, write_report
from otprune_bench.speed import models as speed_models
from otprune_bench.timing.memory import peak_bytes
from otprune_bench.timing.neighbours import neighbours
from otprune_bench.timing.race import (
    EXACT,
    GAMMA,
    SKETCHED,
    TRANSCRIPTION,
    Runs,
    contenders,
    make_tokens,
    paired,
    paths,
    race,
)

TRANSPORT, GRAM = "transport", "Gram matrix alone"
# (m, d, k), and at most how much of the transcription's time exact and sketched may take.
TARGETS = {
    (576, 4096, 56): {EXACT: 0.7, SKETCHED: 0.3},
    (2340, 4096, 229): {EXACT: 0.5, SKETCHED: 0.15},
    (6272, 3584, 627): {EXACT: 0.5, SKETCHED: 0.06},
}
REAL_KEEP = 0.098
BATCH, BATCH_TARGET = (16, 576, 1024, 56), 0.5
# Beside two busy processes: (B, m, d, k), and the exact path's share of the transcription's time.
BUSY_TARGETS = {(1, 576, 1024, 56): 0.7, (1, 576, 4096, 56): 0.7, (16, 576, 1024, 56): 0.6}
QUIET, BUSY = "quiet", "busy"
TRANSPORT_TARGET = 1.5  # of the exact path's time, at the second of `TARGETS`


class Point(NamedTuple):
    """Where is measured: B sets of m tokens of d features, k kept; 0 threads: the process's own."""

    B: int
    m: int
    d: int
    k: int
    dtype: str = "float32"
    threads: int = 0

    @property
    def name(self) -> str:
        said = f"{self.B} x ({self.m}, {self.d}, {self.k}) {self.dtype}"
        return said + f" {self.threads} threads" * bool(self.threads)


@dataclass(frozen=True)
class Sweep:
    """Points that differ in one number.

    Attributes:
        axis: its name, a field of `Point`.
        most: above so many tokens a contender is left out.
        fit: from which value of the axis on an exponent is fitted.
    """

    axis: str
    points: tuple[Point, ...]
    most: dict[str, int] = field(default_factory=dict)
    fit: int = 0


@dataclass(frozen=True)
class Scope:
    """A whole run."""

    sweeps: dict[str, Sweep]
    targets: tuple[tuple[int, int, int], ...]
    batch: tuple[int, int, int, int]
    busy: tuple[tuple[int, int, int, int], ...]  # measured alone and beside busy processes
    many: tuple[tuple[int, int, int], ...]  # for methods that look at all pairs of tokens
    models: tuple[speed_models.Model, ...]
    repeats: int
    real: tuple[int, ...]  # sides of the images whose real tokens are chosen from
    patience: float = 2.0  # seconds for the repeats of one contender at one point


def _doubling(first: int, last: int) -> list[int]:
    return [first << i for i in range((last // first).bit_length())]


_MOST = {TRANSCRIPTION: 4096}
_OTHERS = 4096  # above so many tokens the other methods are not timed: minutes each
_TYPES = ("float32", "bfloat16", "float16")

FULL = Scope(
    sweeps={
        "tokens, 32 kept": Sweep(
            "m", tuple(Point(1, m, 1024, 32) for m in _doubling(64, 65_536)), _MOST, 1024
        ),
        "tokens, 9.8% kept": Sweep(
            "m",
            tuple(Point(1, m, 1024, round(0.098 * m)) for m in _doubling(64, 16_384)),
            _MOST,
            1024,
        ),
        "features": Sweep(
            "d", tuple(Point(1, 1024, d, 100) for d in _doubling(128, 4096)), fit=512
        ),
        "kept": Sweep("k", tuple(Point(1, 1024, 1024, k) for k in _doubling(8, 512)), fit=64),
        "batch": Sweep("B", tuple(Point(b, *BATCH[1:]) for b in _doubling(1, 16)), fit=1),
        "dtype": Sweep("dtype", tuple(Point(1, 576, 4096, 56, t) for t in _TYPES)),
        "threads": Sweep("threads", tuple(Point(1, 576, 4096, 56, threads=n) for n in (1, 2))),
    },
    targets=tuple(TARGETS),
    batch=BATCH,
    busy=tuple(BUSY_TARGETS),
    many=((12_000, 1024, 1200),),
    models=speed_models.FULL,
    repeats=7,
    real=vit_s.SIZES,
)
QUICK = Scope(
    sweeps={
        "tokens, 32 kept": Sweep(
            "m", tuple(Point(1, m, 128, 32) for m in _doubling(64, 1024)), {EXACT: 512}, 64
        ),
        "batch": Sweep("B", tuple(Point(b, 144, 128, 14) for b in (1, 4))),
        "dtype": Sweep("dtype", tuple(Point(1, 144, 128, 14, t) for t in _TYPES)),
        "threads": Sweep("threads", tuple(Point(1, 144, 128, 14, threads=n) for n in (1, 2))),
    },
    targets=((144, 128, 14),),
    batch=(4, 144, 128, 14),
    busy=((1, 144, 128, 14),),
    many=((576, 128, 57),),
    models=speed_models.QUICK,
    repeats=3,
    real=(),
)


def run(folder: Path, seed: int, quick: bool) -> None:
    """Run the bench and write its folder; see `efficiency.run`.

    Raises:
        OTPruneError: the folder has cases of other settings, or matplotlib is missing.
    """
    from otprune_bench.speed import report as speed_report

    check_plots()
    scope = QUICK if quick else FULL
    settings = {"seed": seed, "quick": quick, "repeats": scope.repeats}
    found = run_cases(folder, cases(scope, seed), "speed", settings)
    figures = {key: summarise(result) for key, result in found.items()}
    speed_report.draw(folder, scope, figures)
    write_report(folder, figures, speed_report.write(scope, figures, found), settings)


def cases(scope: Scope, seed: int) -> Iterator[Case]:
    """Targets first, then the sweeps point by point, then the models.

    The batch comes before large shapes: a process that has given back so much memory gets fresh
    pages afterwards where it had its own before, and pays for each.
    """
    yield batch_key(scope.batch), functools.partial(_batch, scope, seed)
    for m, d, k in scope.targets:
        yield target_key(m, d, k), functools.partial(_target, scope, m, d, k, seed)
    for one in scope.busy:
        yield busy_key(one), functools.partial(_busy, scope, one, seed)
    for m, d, k in scope.many:
        yield many_key(m, d, k), functools.partial(_many, m, d, k, seed)
    for size in scope.real:
        yield real_key(size), functools.partial(_real, size)
    for name, sweep in scope.sweeps.items():
        for point in sweep.points:
            yield f"{name}/{point.name}", functools.partial(_point, scope, sweep, point, seed)
    for model in scope.models:
        yield (
            f"model/{model.shape.name}",
            functools.partial(speed_models.measure, model, scope.repeats, seed),
        )


def target_key(m: int, d: int, k: int) -> str:
    return f"target/({m}, {d}, {k})"


def batch_key(batch: tuple[int, int, int, int]) -> str:
    return "target/{} x ({}, {}, {})".format(*batch)


def busy_key(shape: tuple[int, int, int, int]) -> str:
    return "busy/{} x ({}, {}, {})".format(*shape)


def many_key(m: int, d: int, k: int) -> str:
    return f"many/({m}, {d}, {k})"


def real_key(size: int) -> str:
    return f"real/{(size // vit_s.PATCH) ** 2} tokens"


# -- cases -----------------------------------------------------------------------------------------


def _measured(scope: Scope, runs: Runs) -> dict[str, Any]:
    return {
        "seconds": race(runs, scope.repeats, scope.patience),
        "peak_bytes": {name: peak_bytes(function) for name, function in runs.items()},
        "load": os.getloadavg()[0],
    }


def _target(scope: Scope, m: int, d: int, k: int, seed: int) -> dict[str, Any]:
    tokens = make_tokens(1, m, d, seed)
    runs = contenders(tokens, k)
    columns = unit_columns(tokens)[0]
    if m <= _OTHERS:
        others = {name: cls(k) for name, cls in METHODS.items() if name != "otprune"}
        runs |= {name: functools.partial(one.select, tokens) for name, one in others.items()}
    runs[GRAM] = lambda: columns @ columns.mT
    found = _measured(scope, runs)
    found["objectives"] = _objectives(tokens, k)
    return found


def _batch(scope: Scope, seed: int) -> dict[str, Any]:
    batch, m, d, k = scope.batch
    tokens = make_tokens(batch, m, d, seed)
    columns = unit_columns(tokens)
    runs = contenders(tokens, k)
    runs[GRAM] = lambda: [one @ one.mT for one in columns]
    return _measured(scope, runs)


def _busy(scope: Scope, shape: tuple[int, int, int, int], seed: int) -> dict[str, Any]:
    """The paths to the published objective, alone and beside two processes that spin."""
    batch, m, d, k = shape
    runs = contenders(make_tokens(batch, m, d, seed), k)
    found: dict[str, Any] = {}
    for name, others in ((QUIET, 0), (BUSY, 2)):
        with neighbours(others):
            seconds = race(runs, scope.repeats, scope.patience)
        found[name] = {"seconds": seconds, "load": os.getloadavg()[0]}
    return found


def _many(m: int, d: int, k: int, seed: int) -> dict[str, Any]:
    tokens = make_tokens(1, m, d, seed)
    names = ("otprune", TRANSPORT, "divprune")
    runs: Runs = {name: functools.partial(METHODS[name](k).select, tokens) for name in names}
    return {"seconds": race(runs, repeats=3, patience=0.0)}


def _real(size: int) -> dict[str, Any]:
    """What the sketched path's choice is worth, on a pretrained encoder's tokens of the samples."""
    encoder = vit_s.load()
    images = [encoder.tokens(Image.open(path), size) for path in sorted(SAMPLES_DIR.glob("*.jpg"))]
    m, d = images[0].shape
    k = count(REAL_KEEP, m)
    gammas = {"0.01": GAMMA, "scaled": scaled_gamma(m, d)}
    shares = {
        name: [_objectives(x[None], k, gamma)[SKETCHED] for x in images]
        for name, gamma in gammas.items()
    }
    return {"m": m, "d": d, "k": k, "shares": shares}


def _point(scope: Scope, sweep: Sweep, point: Point, seed: int) -> dict[str, Any]:
    tokens = make_tokens(*point[:3], seed).to(getattr(torch, point.dtype))
    runs = contenders(tokens, point.k)
    runs = {name: f for name, f in runs.items() if point.m <= sweep.most.get(name, point.m)}
    with _threads(point.threads):
        return _measured(scope, runs)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _objectives(tokens: Tensor, k: int, gamma: float = GAMMA) -> dict[str, float]:
    """Each path's value of the published objective, relative to the exact path's."""
    K = kernel(tokens.double(), gamma)
    values = {}
    for name, selector in paths(k, gamma).items():
        chosen = selector.select(tokens)[0]
        block = K.left[0, chosen] @ K.right[0, chosen].mT
        block.diagonal().add_(1)
        values[name] = float(torch.logdet(block))
    return {name: value / values[EXACT] for name, value in values.items()}


# -- from runs to figures --------------------------------------------------------------------------


def summarise(result: dict[str, Any]) -> dict[str, Any]:
    """Seconds of every contender as medians with spread; ratios to the transcription's of the same
    round where it ran."""
    if BUSY in result:
        return {name: summarise(part) for name, part in result.items()}
    if "failed" in result or "seconds" not in result:
        return result
    seconds: dict[str, list[float]] = result["seconds"]
    figures = {**result, "seconds": {name: spread(values) for name, values in seconds.items()}}
    if TRANSCRIPTION in seconds:
        figures["ratio"] = {
            name: spread(paired(values, seconds[TRANSCRIPTION]))
            for name, values in seconds.items()
            if name != TRANSCRIPTION
        }
    if TRANSPORT in seconds and EXACT in seconds:
        figures["transport to exact"] = spread(paired(seconds[TRANSPORT], seconds[EXACT]))
    return figures
