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
    nearest = torch.cat(
        [
            part.masked_fill(own.unsqueeze(-1) == place, torch.inf).amin(dim=-1)
            for part, own in zip(distance.split(_ROWS, 1), place.split(_ROWS), strict=True)
        ],
        dim=-1,
    )
    taken = torch.zeros_like(nearest, dtype=torch.bool)
    order = rank.new_empty(batch, k)
    for t in range(k):
        j = best(nearest.masked_fill(taken, -torch.inf), rank, unit)
        order[:, t : t + 1] = j
        taken = taken.scatter(1, j, True)
        row = distance.gather(1, j.unsqueeze(-1).expand(-1, 1, m)).squeeze(1)
        nearest = row if t == 0 else torch.minimum(nearest, row)
    return order
