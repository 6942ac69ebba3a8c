"""Greedy max-min diversity: each step keeps the token farthest from all kept ones. O(m k)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from otprune.search.ties import TOLERANCE, best
from otprune.tokens import as_array

# Tokens looked at at once, beside the distances.
_ROWS = 256
# Candidates whose distances are worked out together.
_CANDIDATES = 128
# Of fewer at once BLAS sums distances in another order.
_FEW = 8


def greedy(distance: Tensor, k: int, rank: Tensor, unit: float) -> Tensor:
    """Tokens in the order they were picked, `(B, k)` int64.

    The first is the token whose nearest neighbour is farthest.

    Args:
        distance: `(B, m, m)`, non-negative, m >= 2.
        k: number of tokens, at most m.
        rank: `(B, m)`, who wins ties (`ties.preference`).
        unit: size of an ordinary distance (`ties.best`).
    """
    m = distance.shape[1]
    place = torch.arange(m, device=distance.device)
    each = torch.arange(len(distance), device=distance.device).unsqueeze(-1)
    nearest = torch.cat(
        [
            part.masked_fill(own.unsqueeze(-1) == place, torch.inf).amin(dim=-1)
            for part, own in zip(distance.split(_ROWS, 1), place.split(_ROWS), strict=True)
        ],
        dim=-1,
    )
    return steps(nearest, lambda j: distance[each, j].squeeze(1), k, rank, unit)


def steps(
    nearest: Tensor, distances: Callable[[Tensor], Tensor], k: int, rank: Tensor, unit: float
) -> Tensor:
    """`greedy` with a fixed sequence of operations.

    Args:
        nearest: `(B, m)`, from every token to its nearest neighbour; written over.
        distances: from one token of each set, `(B, 1)`, to all, `(B, m)`.
    """
    order = [best(nearest, rank, unit)]
    nearest.fill_(torch.inf)
    while len(order) < k:
        j = order[-1]
        # Nothing is nearer than what is picked: it is no candidate any more.
        nearest = torch.minimum(nearest, distances(j)).scatter_(1, j, -torch.inf)
        order.append(best(nearest, rank, unit))
    return torch.cat(order, dim=-1)


def lazy(
    nearest: Tensor, distances: Callable[[Tensor], Tensor], k: int, rank: Tensor, unit: float
) -> Tensor:
    """`greedy` of one set on a CPU, with the distances of many candidates worked out together.

    To the nearest kept token no token comes farther by a pick. The best of some candidates is
    therefore the best of all for as long as it beats what any other token had at first.

    Args:
        nearest: `(m,)`, from every token to its nearest neighbour.
        distances: from some tokens, `(p,)`, to all, `(p, m)`.
        k: number of tokens, less than m.
        rank: `(m,)`.
        unit: as of `greedy`.
    """
    preference = as_array(rank)
    first = int(best(nearest[None], rank[None], unit))
    order = [first]
    left = as_array(distances(torch.full((_FEW,), first))[0])
    left[first] = -np.inf
    p = min(len(left) - 1, _CANDIDATES)
    while len(order) < k:
        # The one to be picked first is among them, however many tie with it.
        lowered = -left
        tied = np.flatnonzero(left >= _level(left.max(), unit))
        lowered[tied[preference[tied].argmin()]] = -np.inf
        split = lowered.argpartition(p)
        chosen, outside = split[:p], left[split[p]]
        chosen = chosen[preference[chosen].argsort()]
        near = as_array(distances(torch.from_numpy(chosen)))
        level = _level(left[chosen].max(), unit)
        while True:
            j = chosen[(left[chosen] >= level).argmax()]
            left = np.minimum(left, near[(chosen == j).argmax()])
            left[j] = -np.inf
            order.append(int(j))
            level = _level(left[chosen].max(), unit)
            if len(order) == k or not level > outside:
                break
    return torch.tensor(order)


def _level(top: float, unit: float) -> float:
    """What ties with the best, see `ties.best`."""
    return top - TOLERANCE * max(abs(top), unit)
