"""How every search breaks ties: the larger norm wins, then the lower index.

Two machines (CPU and GPU, another BLAS, another batch size) sum in another order, and so disagree
in the last bits. Without a tolerance those bits would decide among equal tokens, above all among
duplicates. A candidate therefore counts as tied with the best when its gain is less by no more than
`TOLERANCE` of it. 1e-6 is eight units in float32's last place: above the rounding of the sums met
here, and too little to matter to an objective. Two *different* gains may still lie exactly that far
apart: "the same picks" of two searches holds up to such near-ties, and no rule can help there.

Norms are compared on a grid of 2^-19 to 2^-20, about the same tolerance, which turns
"larger norm, then lower index" into one fixed order of the tokens, computed once.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 1e-6
_DROPPED_BITS = 4


def preference(norms: Tensor) -> Tensor:
    """Tie order, `(B, m)` int64: 0 for the token that wins all ties, m - 1 for the last.

    Args:
        norms: `(B, m)` float32, non-negative.
    """
    grid = _grid(norms)
    order = grid.sort(dim=-1, descending=True, stable=True).indices
    place = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, place)


def top(values: Tensor, k: int, tie_order: Tensor) -> Tensor:
    """Indices of the k largest values, `(B, k)` int64, in order; ties broken by `tie_order`.

    Values on the same point of the grid of norms are tied.

    Args:
        values: `(B, m)` float32, non-negative.
        tie_order: `(B, m)` from `preference`.
    """
    m = values.shape[-1]
    # One whole number a token, none twice, so that the order is the same on every device. -0.0
    # becomes 0.0.
    rank = _grid(values.abs()).long() * m + (m - 1 - tie_order)
    return rank.topk(k, dim=-1).indices


def _grid(values: Tensor) -> Tensor:
    """Non-negative float32 values as int32 in the same order, rounded to about the tolerance."""
    # The bits of a non-negative float32, read as an integer, are in the order of the floats.
    half = 1 << (_DROPPED_BITS - 1)
    return (values.contiguous().view(torch.int32) + half) >> _DROPPED_BITS


def best(gains: Tensor, tie_order: Tensor, unit: float | Tensor = 0.0) -> Tensor:
    """Index of the best candidate, `(B, 1)` int64, ties broken by `tie_order`.

    Args:
        gains: `(B, m)`, `-inf` for tokens that are no candidates.
        tie_order: `(B, m)` from `preference`.
        unit: the gain below which differences are rounding (a scalar or `(B, 1)`); the tolerance is
            relative to the larger of it and the best gain.
    """
    top = gains.amax(dim=-1, keepdim=True)
    level = top.sub(top.abs().clamp_(min=unit), alpha=TOLERANCE)
    return tie_order.masked_fill(gains < level, tie_order.shape[-1]).argmin(dim=-1, keepdim=True)
