"""Greedy facility location with a fixed sequence of operations: how it is done on a device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from otprune.greedy.ties import best
from otprune.numerics import threads

# Tokens whose gains are worked out at once, beside the distances.
ROWS = 256


def greedy(distance: Tensor, mass: Tensor, k: int, tie_order: Tensor) -> Tensor:
    """Tokens in the order they were picked, `(B, k)` int64. O(k m^2).

    Args:
        distance: `(B, m, m)`, non-negative, symmetric.
        mass: as of `cover.greedy`, and so the others.
    """
    parts, weight = distance.split(ROWS, dim=1), mass.unsqueeze(-1)
    each = torch.arange(len(mass), device=mass.device).unsqueeze(-1)
    paid = distance.amax(dim=-1).unsqueeze(1)
    taken = torch.zeros_like(mass, dtype=torch.bool)
    order = []
    for _ in range(k):
        j = best(gains_of(parts, weight, paid).masked_fill_(taken, -torch.inf), tie_order)
        order.append(j)
        taken.scatter_(1, j, True)
        paid = torch.minimum(paid, distance[each, j])
    return torch.cat(order, dim=-1)


def gains_of(parts: Sequence[Tensor], mass: Tensor, paid: Tensor) -> Tensor:
    """What each token would take off the cost, `(B, m)`.

    Args:
        parts: all distances, `(B, n, m)` each.
        mass: `(B, m, 1)`.
        paid: `(B, 1, m)`.
    """
    gains = threads.spread(lambda part: torch.bmm((paid - part).clamp_(min=0), mass), parts)
    return torch.cat(gains, dim=1).squeeze(-1)
