"""How ties are broken, for every search: the larger norm, then the lower index.

Two engines (CPU and GPU, another BLAS, another batch size) sum in another order and so disagree in
the last bits. Without a tolerance the winner among equal tokens, duplicates above all, would be
left to those bits. A candidate therefore counts as tied with the best when its gain is less by no
more than `TOLERANCE` of it. 1e-6 is eight units in float32's last place: above the noise of the
sums met here, and too little to matter to an objective. What remains is that two *different* gains
may lie exactly that far apart; no rule can help there.

Norms are compared on a grid of 2^-19 to 2^-20, about the same tolerance, which turns
"larger norm, then lower index" into one fixed order of the tokens that is worked out once.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 1e-6
_DROPPED_BITS = 4


def preference(norms: Tensor) -> Tensor:
    """Place of every token among its peers, `(B, m)` int64: 0 for the one that wins all ties.

    Args:
        norms: `(B, m)` float32, non-negative.
    """
    # The bits of a non-negative float32, read as an integer, are in the order of the floats.
    half = 1 << (_DROPPED_BITS - 1)
    grid = (norms.contiguous().view(torch.int32) + half) >> _DROPPED_BITS
    order = grid.sort(dim=-1, descending=True, stable=True).indices
    place = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, place)


def best(gains: Tensor, tie_order: Tensor, unit: float | Tensor = 0.0) -> Tensor:
    """Index of the best candidate, `(B, 1)` int64, ties broken by `tie_order`.

    Args:
        gains: `(B, m)`, `-inf` for tokens that are no candidates.
        tie_order: `(B, m)` from `preference`.
        unit: the gain below which differences are noise (a scalar or `(B, 1)`); the tolerance is
            taken of the larger of it and the best gain.
    """
    top = gains.amax(dim=-1, keepdim=True)
    level = top.sub(top.abs().clamp_(min=unit), alpha=TOLERANCE)
    return tie_order.masked_fill(gains < level, tie_order.shape[-1]).argmin(dim=-1, keepdim=True)
