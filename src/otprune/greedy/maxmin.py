"""Greedy max-min diversity: each step keeps the token farthest from all kept ones.

The distance is `1 - cos`; a zero token is at distance 1 from all others. The first token is the one
whose nearest neighbour is farthest. O(m k) after the distances, which are not held at once among
many tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from otprune.greedy.ties import TOLERANCE, best
from otprune.numerics.arrays import as_array, host_readable
from otprune.numerics.products import gram

# Size of an ordinary distance (`ties.best`).
UNIT = 1.0
# From so many tokens not all distances are held at once, and of the nearest ones in such blocks.
MANY, _BLOCK = 4096, 512
# Rows of the distance matrix that are read at once.
_ROWS = 256
# Candidates whose distances are computed together.
_CANDIDATES = 128
# BLAS sums the distances of fewer at once in another order.
_FEW = 8


def greedy(points: Tensor, k: int, tie_order: Tensor) -> Tensor:
    """Tokens in the order they were picked, `(B, k)` int64.

    Args:
        points: `(B, m, d)`, m >= 2, at unit length or zero.
        k: number of tokens, at most m.
        tie_order: `(B, m)`, who wins ties (`ties.preference`).
    """
    each = torch.arange(len(points), device=points.device).unsqueeze(-1)
    if points.shape[1] < MANY:
        distance = _distance(gram(points))
        nearest = _nearest_in(distance)
        return sequential(nearest, lambda j: distance[each, j].squeeze(1), k, tie_order)
    nearest = _nearest(points)
    if host_readable(points):
        sets = zip(nearest, points, tie_order, strict=True)
        return torch.stack([lazy(n, partial(_between, x), k, order) for n, x, order in sets])
    return sequential(
        nearest,
        lambda j: _distance(points[each, j] @ points.mT).squeeze(1),
        k,
        tie_order,
    )


def _distance(cosine: Tensor) -> Tensor:
    """`1 - cos`, in the place of `cos`."""
    return cosine.neg_().add_(1).clamp_(min=0)


def _between(x: Tensor, rows: Tensor) -> Tensor:
    """From some of m tokens, `(n,)`, to all, `(n, m)`."""
    return _distance(x[rows] @ x.mT)


def _nearest_in(distance: Tensor) -> Tensor:
    """From every token to its nearest neighbour, `(B, m)`, in the matrix of all distances."""
    place = torch.arange(distance.shape[1], device=distance.device)
    parts = [
        part.masked_fill(own.unsqueeze(-1) == place, torch.inf).amin(dim=-1)
        for part, own in zip(distance.split(_ROWS, 1), place.split(_ROWS), strict=True)
    ]
    return torch.cat(parts, dim=-1)


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


def sequential(
    nearest: Tensor, distances: Callable[[Tensor], Tensor], k: int, tie_order: Tensor
) -> Tensor:
    """`greedy` with a fixed sequence of operations.

    Args:
        nearest: `(B, m)`, from every token to its nearest neighbour; written over.
        distances: from one token of each set, `(B, 1)`, to all, `(B, m)`.
    """
    order = [best(nearest, tie_order, UNIT)]
    nearest.fill_(torch.inf)
    while len(order) < k:
        j = order[-1]
        # What is picked is no candidate any more.
        nearest = torch.minimum(nearest, distances(j)).scatter_(1, j, -torch.inf)
        order.append(best(nearest, tie_order, UNIT))
    return torch.cat(order, dim=-1)


def lazy(
    nearest: Tensor, distances: Callable[[Tensor], Tensor], k: int, tie_order: Tensor
) -> Tensor:
    """`greedy` of one set on a CPU, computing the distances of many candidates together.

    A pick never increases a token's distance to its nearest kept one (`greedy.candidates`).

    Args:
        nearest: `(m,)`, from every token to its nearest neighbour.
        distances: from some tokens, `(p,)`, to all, `(p, m)`.
        k: number of tokens, less than m.
        tie_order: `(m,)`.
    """
    preference = as_array(tie_order)
    first = int(best(nearest[None], tie_order[None], UNIT))
    order = [first]
    left = as_array(distances(torch.full((_FEW,), first))[0])
    left[first] = -np.inf
    p = min(len(left) - 1, _CANDIDATES)
    while len(order) < k:
        # The next pick is among the candidates, however many tie with it.
        lowered = -left
        tied = np.flatnonzero(left >= _level(left.max()))
        lowered[tied[preference[tied].argmin()]] = -np.inf
        split = lowered.argpartition(p)
        chosen, outside = split[:p], left[split[p]]
        chosen = chosen[preference[chosen].argsort()]
        near = as_array(distances(torch.from_numpy(chosen)))
        level = _level(left[chosen].max())
        while True:
            j = chosen[(left[chosen] >= level).argmax()]
            left = np.minimum(left, near[(chosen == j).argmax()])
            left[j] = -np.inf
            order.append(int(j))
            level = _level(left[chosen].max())
            if len(order) == k or not level > outside:
                break
    return torch.tensor(order)


def _level(top: float) -> float:
    """The least value that ties with the best; see `ties.best`."""
    return top - TOLERANCE * max(abs(top), UNIT)
