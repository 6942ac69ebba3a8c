"""What `otprune bench speed` measures: sweeps over sizes, targets, models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from otprune.encoders import vit_s
from otprune_bench.timing.race import EXACT, SKETCHED, TRANSCRIPTION
from otprune_bench.timing.shapes import LLAVA, LLAVA_13B, ONEVISION, TINY, Shape

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


KEEPS = (0.5, 0.25, 0.098)  # of the models' visual tokens
OTHERS = 4096  # above so many tokens the other methods are not timed: minutes each


class Point(NamedTuple):
    """One size: B sets of m tokens of d features, k kept; 0 threads: as many as the process has."""

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
class Model:
    """A model's sizes, and how many crops of an image its encoder sees."""

    shape: Shape
    crops: int = 1


@dataclass(frozen=True)
class Plan:
    """A whole run.

    Attributes:
        sweeps: by name.
        targets: shapes (m, d, k) that have targets.
        batch: the shape (B, m, d, k) of the batch that has a target.
        busy: shapes (B, m, d, k) measured alone and beside busy processes.
        many: shapes (m, d, k) for methods that look at all pairs of tokens.
        models: whose time to first token is measured.
        repeats: rounds of a race.
        real: sides of the images whose real tokens are chosen from.
        patience: seconds for the repeats of one contender at one point.
    """

    sweeps: dict[str, Sweep]
    targets: tuple[tuple[int, int, int], ...]
    batch: tuple[int, int, int, int]
    busy: tuple[tuple[int, int, int, int], ...]
    many: tuple[tuple[int, int, int], ...]
    models: tuple[Model, ...]
    repeats: int
    real: tuple[int, ...]
    patience: float = 2.0
    quick: bool = False
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """As a report shows them."""
        return {"seed": self.seed, "quick": self.quick, "repeats": self.repeats}


def _doubling(first: int, last: int) -> list[int]:
    return [first << i for i in range((last // first).bit_length())]


_MOST = {TRANSCRIPTION: 4096}
_TYPES = ("float32", "bfloat16", "float16")

FULL = Plan(
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
    models=(Model(ONEVISION, crops=2), Model(LLAVA), Model(LLAVA_13B)),
    repeats=7,
    real=vit_s.SIZES,
)
QUICK = Plan(
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
    models=(Model(TINY),),
    repeats=3,
    real=(),
    quick=True,
)


def key(part: str, *shape: int) -> str:
    """The name of a case of one shape: (m, d, k), or (B, m, d, k) for a batch."""
    *batch, m, d, k = shape
    return f"{part}/" + "".join(f"{b} x " for b in batch) + f"({m}, {d}, {k})"


def real_key(size: int) -> str:
    """The name of the case of real tokens of an image of `size` pixels a side."""
    return f"real/{(size // vit_s.PATCH) ** 2} tokens"
