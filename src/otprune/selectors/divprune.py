"""Max-min cosine distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from otprune.objectives.products import gram
from otprune.search import maxmin, ties
from otprune.selectors.base import Selector
from otprune.tokens import unit_rows_norms


@dataclass(frozen=True)
class DivPrune(Selector):
    """Keeps tokens that are far from each other: greedy max-min on `1 - cos`.

    The method of DivPrune (arXiv 2503.02175, CVPR 2025), implemented from its description. The
    first token is the one whose nearest neighbour is farthest. A zero token is at distance 1 from
    all others.
    """

    name: ClassVar[str] = "divprune"
    summary: ClassVar[str] = "greedy max-min cosine distance between kept tokens"
    nested: ClassVar[bool] = True

    def _pick(self, tokens: Tensor, k: int, weights: Tensor | None) -> Tensor:
        x, norms = unit_rows_norms(tokens)
        distance = gram(x).neg_().add_(1).clamp_(min=0)
        return maxmin.greedy(distance, k, rank=ties.preference(norms), unit=1.0)
