"""Greedy facility location: each step keeps the token that lowers the cost most.

The cost of a kept set is the mean squared distance of the tokens to their nearest kept one. Before
anything is kept every token pays its distance to the farthest token. No set can do worse, so that
the first pick is simply the one of least cost, with no arbitrary constant.

The searches make the same picks, up to gains that are equal within rounding:

- `sequential`: on a device, with a fixed sequence of operations.
- `lazy`: on a CPU, where gains that cannot be the best are not worked out again.
- `blockwise`: on a CPU among many tokens, without all distances at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.greedy.cover import blockwise, lazy, sequential
from otprune.numerics.arrays import host_readable
from otprune.numerics.distances import Points, pairwise

# From so many tokens on a CPU not all distances are held at once.
MANY = 4096


def greedy(points: Tensor, mass: Tensor, k: int, tie_order: Tensor) -> Tensor:
    """Tokens in the order they were picked, `(B, k)` int64.

    Args:
        points: `(B, m, d)`, whose squared Euclidean distances are the costs.
        mass: `(B, m)`, sums to 1.
        k: number of tokens, at most m.
        tie_order: `(B, m)`, who wins ties (`ties.preference`).
    """
    if not host_readable(points):
        return sequential.greedy(pairwise(points), mass, k, tie_order)
    sets = zip(points, mass, tie_order, strict=True)
    if points.shape[1] < MANY:
        return torch.stack([lazy.greedy(pairwise(x[None])[0], p, k, order) for x, p, order in sets])
    return torch.stack([blockwise.greedy(Points(x), p, k, order) for x, p, order in sets])
