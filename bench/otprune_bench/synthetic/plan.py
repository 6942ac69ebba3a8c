"""What `otprune bench synthetic` measures: sizes, kinds of tokens, measures, methods."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from math import comb
from typing import Any

from otprune.selectors import OTPrune, Selector, TransportPrune
from otprune_bench.methods import TOKENS_ALONE

MEASURES = ("objective, gamma 0.01", "objective, gamma scaled", "gaussian", "exact", "free mass")
GAMMAS = ("objective, gamma 0.01", "objective, gamma scaled")
KINDS = ("normal", "low rank")
PUBLISHED = {
    (20, 10, 5): (94.56, 87.81),
    (30, 20, 10): (99.49, 93.98),
    (100, 50, 30): (99.99, 100.0),
    (1000, 256, 100): (100.0, 100.0),
}


@dataclass(frozen=True)
class Size:
    """m tokens of d features, k of them kept; how many token sets, and random subsets of each."""

    m: int
    d: int
    k: int
    sets: int
    subsets: int

    @property
    def name(self) -> str:
        return f"({self.m}, {self.d}, {self.k})"

    @property
    def brute(self) -> bool:
        """Whether every subset can be looked at."""
        return comb(self.m, self.k) <= 20_000


@dataclass(frozen=True)
class Plan:
    """A whole run."""

    sizes: tuple[Size, ...] = (
        Size(20, 10, 5, sets=20, subsets=1000),
        Size(30, 20, 10, sets=20, subsets=1000),
        Size(100, 50, 30, sets=10, subsets=500),
        Size(1000, 256, 100, sets=3, subsets=60),
    )
    quick: bool = False
    seed: int = 0

    def parts(self) -> Iterator[tuple[Size, str]]:
        """Every size with every kind of tokens."""
        return itertools.product(self.sizes, KINDS)

    def settings(self) -> dict[str, Any]:
        """As a report shows them."""
        return {
            "seed": self.seed,
            "quick": self.quick,
            "token sets, random subsets": {s.name: [s.sets, s.subsets] for s in self.sizes},
        }


FULL = Plan()
QUICK = Plan((Size(12, 6, 3, sets=3, subsets=100), Size(30, 20, 10, sets=3, subsets=50)), True)


def methods(k: int) -> dict[str, Selector]:
    """Every method keeping k tokens; OTPrune with both gammas, transport in both metrics."""
    made: dict[str, Selector] = {
        "otprune, gamma 0.01": OTPrune(k, gamma=0.01),
        "otprune, gamma scaled": OTPrune(k),
        "transport, euclidean": TransportPrune(k, metric="euclidean"),
        "transport, cosine": TransportPrune(k),
    }
    others = (name for name in TOKENS_ALONE if name not in ("otprune", "transport"))
    return made | {name: TOKENS_ALONE[name](k) for name in others}
