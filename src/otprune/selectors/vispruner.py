"""VisPruner: the most attended tokens, and diverse ones among the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from otprune.greedy import ties
from otprune.numerics.normalize import norms, unit_rows
from otprune.numerics.products import gram
from otprune.selectors.base import Selector
from otprune.selectors.cues import Cue, Cues
from otprune.selectors.settings import number

# At most so many tokens are removed in one round.
_ROUND = 8


@dataclass(frozen=True)
class VisPruner(Selector):
    """Keeps the most salient tokens, and of the others those that are least like each other.

    The method of VisPruner (arXiv 2412.01818, ICCV 2025), implemented from its description. Of k
    tokens `int(k * important_ratio)` are the most salient ones. The others are what is left of a
    list, at first all other tokens from the most to the least salient, after rounds of this: the
    places 0, 2, 4, ... are compared with the places 1, 3, 5, ... by the cosine of the encoder's
    features before the projector; of the former the 8 whose largest cosine is largest are removed,
    or fewer if that is enough; the list is then the rest of the former, from large to small, and
    the latter. O(m^2) memory, O(m^3) time.

    Attributes:
        important_ratio: share of the kept tokens that are chosen by saliency, 0 to 1.

    Differences from the published code: a list of odd length has one more place in its first half,
    there it is an error; exactly k tokens of a whole image are kept, there k of each tile. Of
    equally similar tokens one of small norm is removed first, there that is not defined; since the
    first half of a list is removed, the first of several duplicates is not always the one kept.
    """

    important_ratio: float = 0.5

    name: ClassVar[str] = "vispruner"
    summary: ClassVar[str] = "VisPruner: the largest attention, and diverse others"
    needs: ClassVar[frozenset[Cue]] = frozenset({"saliency", "encoded"})

    def __post_init__(self) -> None:
        super().__post_init__()
        number(self, "important_ratio", least=0.0, most=1.0)

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        tie_order = ties.preference(norms(tokens))
        ranked = ties.top(cues.saliency, tokens.shape[1], tie_order)
        important = int(k * self.important_ratio)
        if important == k:
            return ranked[:, :k]
        similarity = gram(unit_rows(cues.encoded)).add_(1).clamp_(min=0)  # 0 to 2, for `top`
        rest = _distinct(ranked[:, important:], k - important, similarity, tie_order)
        return torch.cat([ranked[:, :important], rest], dim=-1)


def _distinct(order: Tensor, k: int, similarity: Tensor, tie_order: Tensor) -> Tensor:
    """The k tokens left of a list, `(B, n)` to `(B, k)`, after rounds of removal."""
    last = similarity.shape[-1] - 1
    while order.shape[1] > k:
        first, second = order[:, ::2], order[:, 1::2]
        n = first.shape[1]
        nearest = _between(similarity, first, second).amax(dim=-1)
        # From large to small; of equal ones the last in tie order first.
        places = ties.top(nearest, n, last - tie_order.gather(1, first))
        gone = min(_ROUND, order.shape[1] - k, n)
        order = torch.cat([first.gather(1, places[:, gone:]), second], dim=-1)
    return order


def _between(similarity: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The entries of some rows, `(B, n)`, and columns, `(B, p)`, as `(B, n, p)`."""
    if len(rows) == 1:  # as always on a CPU, where this is much faster than to gather
        return similarity[0, rows[0]][:, columns[0]].unsqueeze(0)
    wide = similarity.gather(1, rows.unsqueeze(-1).expand(-1, -1, similarity.shape[-1]))
    return wide.gather(2, columns.unsqueeze(1).expand(-1, rows.shape[1], -1))
