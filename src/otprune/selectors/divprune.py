"""Max-min cosine distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from otprune.greedy import maxmin, ties
from otprune.numerics.normalize import unit_rows_norms
from otprune.selectors.base import Selector
from otprune.selectors.cues import Cues


@dataclass(frozen=True)
class DivPrune(Selector):
    """Greedily maximises the minimum distance `1 - cos` between kept tokens.

    The method of DivPrune (arXiv 2503.02175, CVPR 2025), implemented from its description. The
    first token is the one with the farthest nearest neighbour. A zero token is at distance 1 from
    all others. O(m d) memory.
    """

    name: ClassVar[str] = "divprune"
    summary: ClassVar[str] = "greedy max-min cosine distance between kept tokens"
    nested: ClassVar[bool] = True

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        points, norms = unit_rows_norms(tokens)
        return maxmin.greedy(points, k, ties.preference(norms))
