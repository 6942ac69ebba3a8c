"""Greedy determinantal point process on the cosine kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from otprune.greedy import logdet, ties
from otprune.numerics.lowrank import LowRank
from otprune.numerics.normalize import unit_rows_norms
from otprune.selectors.attending import Attending
from otprune.selectors.cues import Cues

# Keeps the kernel positive definite in float32 with duplicates, or more tokens than features.
JITTER = 1e-4


@dataclass(frozen=True)
class DPPPrune(Attending):
    """Greedily maximises `logdet(X_C X_C^T + jitter * I)`, where X are the tokens at unit length.

    Greedy MAP inference for a determinantal point process on cosine similarity (Chen, Zhang and
    Zhou, NeurIPS 2018). With `question` or `saliency` a token's quality is the square root of its
    mass (`Attending.mass`), so that the determinant is multiplied by the masses of the kept tokens.
    """

    name: ClassVar[str] = "dpp"
    summary: ClassVar[str] = "greedy determinantal point process on cosine similarity"
    nested: ClassVar[bool] = True

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        x, norms = unit_rows_norms(tokens)
        mass = self.mass(tokens, cues)
        if mass is not None:
            x *= mass.sqrt().unsqueeze(-1)
        return logdet.greedy(LowRank(x, x), k, ties.preference(norms), shift=JITTER)
