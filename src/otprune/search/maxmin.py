"""Greedy max-min diversity: each step keeps the token farthest from all kept ones. O(m k)."""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.search.ties import best

# Tokens looked at at once, beside the distances.
_ROWS = 256


def greedy(distance: Tensor, k: int, rank: Tensor, unit: float) -> Tensor:
    """Tokens in the order they were picked, `(B, k)` int64.

    The first is the token whose nearest neighbour is farthest.

    Args:
        distance: `(B, m, m)`, non-negative, m >= 2.
        k: number of tokens, at most m.
        rank: `(B, m)`, who wins ties (`ties.preference`).
        unit: size of an ordinary distance (`ties.best`).
    """
    batch, m, _ = distance.shape
    place = torch.arange(m, device=distance.device)
    each = torch.arange(batch, device=distance.device).unsqueeze(-1)
    nearest = torch.cat(
        [
            part.masked_fill(own.unsqueeze(-1) == place, torch.inf).amin(dim=-1)
            for part, own in zip(distance.split(_ROWS, 1), place.split(_ROWS), strict=True)
        ],
        dim=-1,
    )
    order = [best(nearest, rank, unit)]
    nearest.fill_(torch.inf)
    while len(order) < k:
        j = order[-1]
        # Nothing is nearer than what is picked: it is no candidate any more.
        nearest = torch.minimum(nearest, distance[each, j].squeeze(1)).scatter_(1, j, -torch.inf)
        order.append(best(nearest, rank, unit))
    return torch.cat(order, dim=-1)
