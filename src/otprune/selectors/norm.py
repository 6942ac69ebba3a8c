"""Largest norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from otprune.greedy import ties
from otprune.numerics.normalize import norms
from otprune.selectors.base import Selector
from otprune.selectors.cues import Cues


@dataclass(frozen=True)
class NormPrune(Selector):
    """Keeps the tokens of largest Euclidean norm. A baseline: simple, and often bad."""

    name: ClassVar[str] = "norm"
    summary: ClassVar[str] = "baseline: the largest Euclidean norms"
    nested: ClassVar[bool] = True

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        return ties.preference(norms(tokens)).argsort(dim=-1)[:, :k]
