"""Greedy facility location: each step keeps the token that lowers the cost most.

The cost of a kept set is the mean distance of the tokens to their nearest kept one. Before anything
is kept every token pays its distance to the farthest token. No set can do worse, so that the first
pick is simply the one of least cost, with no arbitrary constant.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from otprune.search.rounds import best_place, candidates
from otprune.search.ties import TOLERANCE, best
from otprune.tokens import aligned, as_array, at_hand

# Tokens whose gains are worked out at once, beside the distances.
_ROWS = 256
# Candidates of a round on a CPU.
_CANDIDATES = 64


def greedy(distance: Tensor, mass: Tensor, k: int, rank: Tensor) -> Tensor:
    """Tokens in the order they were picked, `(B, k)` int64.

    On a CPU in rounds (`lazy`), elsewhere pick by pick (`steps`): the same picks.

    Args:
        distance: `(B, m, m)`, non-negative, symmetric.
        mass: `(B, m)`, sums to 1.
        k: number of tokens, at most m.
        rank: `(B, m)`, who wins ties (`ties.preference`).
    """
    if at_hand(rank):
        return lazy(distance, mass, k, rank)
    return steps(distance, mass, k, rank)


def steps(distance: Tensor, mass: Tensor, k: int, rank: Tensor) -> Tensor:
    """`greedy` with a fixed sequence of operations. O(k m^2)."""
    parts, weight = distance.split(_ROWS, dim=1), mass.unsqueeze(-1)
    each = torch.arange(len(mass), device=mass.device).unsqueeze(-1)
    paid = distance.amax(dim=-1).unsqueeze(1)
    taken = torch.zeros_like(mass, dtype=torch.bool)
    order = []
    for _ in range(k):
        j = best(_gains(parts, weight, paid).masked_fill_(taken, -torch.inf), rank)
        order.append(j)
        taken.scatter_(1, j, True)
        paid = torch.minimum(paid, distance[each, j])
    return torch.cat(order, dim=-1)


def lazy(distance: Tensor, mass: Tensor, k: int, rank: Tensor) -> Tensor:
    """`greedy` in rounds, as in `search.rounds`: gains never grow.

    All gains once a round, O(m^2); then those of few candidates a pick, O(m), for as long as the
    best of them beats what any other token had to offer. One set waits for the others.
    """
    parts, column = distance.split(_ROWS, dim=1), mass.unsqueeze(-1)
    paid, preference = as_array(distance.amax(dim=-1)), as_array(rank)
    batch, m = paid.shape
    p = min(m, _CANDIDATES)
    order, done = np.zeros((batch, k), np.int64), np.zeros(batch, np.int64)
    penalty = np.zeros_like(paid)
    each = np.arange(batch)
    while True:
        state = as_array(_gains(parts, column, torch.from_numpy(paid).unsqueeze(1))) + penalty
        chosen, outside = candidates(state, preference, p)
        near = as_array(_rows(distance, torch.from_numpy(chosen)))
        saved = aligned(near.shape, near.dtype)
        gains = state[each[:, None], chosen]
        out = np.where(np.isinf(gains), gains, 0)
        active, first = done < k, True
        while True:
            j, top = best_place(gains)
            if not first:
                active &= (done < k) & (top * (1 - TOLERANCE) > outside)
            if not active.any():
                break
            first = False
            here, place = each[active], j[active]
            order[here, done[active]] = chosen[here, place]
            done += active
            out[here, place] = penalty[here, chosen[here, place]] = -np.inf
            paid[active] = np.minimum(paid[active], near[here, place])
            if done.min() == k:
                return torch.from_numpy(order)
            np.subtract(paid[:, None], near, out=saved)
            np.maximum(saved, 0, out=saved)
            # Not a product of numpy's, whose BLAS has threads of its own.
            gains = as_array(torch.bmm(torch.from_numpy(saved), column).squeeze(-1)) + out


def _gains(parts: Sequence[Tensor], mass: Tensor, paid: Tensor) -> Tensor:
    """What each token would take off the cost, `(B, m)`.

    Args:
        parts: all distances, `(B, n, m)` each.
        mass: `(B, m, 1)`.
        paid: `(B, 1, m)`.
    """
    gains = [torch.bmm((paid - part).clamp_(min=0), mass) for part in parts]
    return torch.cat(gains, dim=1).squeeze(-1)


def _rows(distance: Tensor, indices: Tensor) -> Tensor:
    return distance.gather(1, indices.unsqueeze(-1).expand(-1, -1, distance.shape[-1]))
