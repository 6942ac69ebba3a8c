"""Greedy facility location: each step keeps the token that lowers the cost most.

The cost of a kept set is the mean distance of the tokens to their nearest kept one. O(k m^2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.search.ties import best


def greedy(distance: Tensor, mass: Tensor, k: int, rank: Tensor) -> Tensor:
    """Tokens in the order they were picked, `(B, k)` int64.

    Before anything is kept every token pays its distance to the farthest token. No set can do
    worse, so that the first pick is simply the one of least cost, with no arbitrary constant.

    Args:
        distance: `(B, m, m)`, non-negative, symmetric.
        mass: `(B, m)`, sums to 1.
        k: number of tokens, at most m.
        rank: `(B, m)`, who wins ties (`ties.preference`).
    """
    batch, m = mass.shape
    paid = distance.amax(dim=-1)
    taken = torch.zeros_like(mass, dtype=torch.bool)
    order = rank.new_empty(batch, k)
    saved = torch.empty_like(distance)
    for t in range(k):
        torch.sub(paid.unsqueeze(-1), distance, out=saved)
        gains = (mass.unsqueeze(1) @ saved.clamp_(min=0)).squeeze(1)
        j = best(gains.masked_fill(taken, -torch.inf), rank)
        order[:, t : t + 1] = j
        taken.scatter_(1, j, True)
        paid = torch.minimum(paid, distance.gather(1, j.unsqueeze(-1).expand(-1, 1, m)).squeeze(1))
    return order
