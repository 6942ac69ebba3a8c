"""Max-min cosine distance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from otprune.objectives.products import gram
from otprune.search import maxmin, ties
from otprune.selectors.base import Selector
from otprune.tokens import at_hand, unit_rows_norms

# From so many tokens not all distances are held at once, and of the nearest ones in such blocks.
_MANY, _BLOCK = 4096, 512


@dataclass(frozen=True)
class DivPrune(Selector):
    """Keeps tokens that are far from each other: greedy max-min on `1 - cos`.

    The method of DivPrune (arXiv 2503.02175, CVPR 2025), implemented from its description. The
    first token is the one whose nearest neighbour is farthest. A zero token is at distance 1 from
    all others. Memory O(m d).
    """

    name: ClassVar[str] = "divprune"
    summary: ClassVar[str] = "greedy max-min cosine distance between kept tokens"
    nested: ClassVar[bool] = True

    def _pick(self, tokens: Tensor, k: int, weights: Tensor | None) -> Tensor:
        x, norms = unit_rows_norms(tokens)
        rank = ties.preference(norms)
        if x.shape[1] < _MANY:
            return maxmin.greedy(_distance(gram(x)), k, rank, unit=1.0)
        nearest = _nearest(x)
        if at_hand(x):
            rows = [
                maxmin.lazy(n, partial(_between, one), k, r, unit=1.0)
                for n, one, r in zip(nearest, x, rank, strict=True)
            ]
            return torch.stack(rows)
        each = torch.arange(len(x), device=x.device).unsqueeze(-1)
        return maxmin.steps(
            nearest, lambda j: _distance(x[each, j] @ x.mT).squeeze(1), k, rank, unit=1.0
        )


def _distance(cosine: Tensor) -> Tensor:
    """`1 - cos`, in the place of `cos`."""
    return cosine.neg_().add_(1).clamp_(min=0)


def _between(x: Tensor, rows: Tensor) -> Tensor:
    """From some of m tokens, `(n,)`, to all, `(n, m)`."""
    return _distance(x[rows] @ x.mT)


def _nearest(x: Tensor) -> Tensor:
    """From every token to its nearest neighbour, `(B, m)`, in blocks: O(m) at once."""
    nearest = x.new_full(x.shape[:-1], torch.inf)
    for start in range(0, x.shape[1], _BLOCK):
        rows, rest = x[:, start : start + _BLOCK], x[:, start:]
        distance = _distance(torch.bmm(rows, rest.mT))
        distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        for there, dim in ((nearest[:, start : start + _BLOCK], 2), (nearest[:, start:], 1)):
            torch.minimum(there, distance.amin(dim=dim), out=there)
    return nearest
