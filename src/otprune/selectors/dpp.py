"""Greedy determinantal point process on the cosine kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from otprune.greedy import logdet, ties
from otprune.numerics.lowrank import LowRank
from otprune.numerics.normalize import unit_rows_norms
from otprune.selectors.base import Selector
from otprune.selectors.cues import Cues

# Keeps the kernel of duplicates and of more tokens than features regular in float32.
JITTER = 1e-4


@dataclass(frozen=True)
class DPPPrune(Selector):
    """Keeps the tokens of largest `logdet(X_C X_C^T + jitter * I)`, greedily, `X` at unit rows.

    The likeliest set of a determinantal point process on cosine similarity (Chen, Zhang and Zhou,
    NeurIPS 2018), with no text in it.
    """

    name: ClassVar[str] = "dpp"
    summary: ClassVar[str] = "greedy determinantal point process on cosine similarity"
    nested: ClassVar[bool] = True

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        x, norms = unit_rows_norms(tokens)
        return logdet.greedy(LowRank(x, x), k, ties.preference(norms), shift=JITTER)
