"""Greedy facility location on a CPU: gains are worked out again only where they may be the best.

All gains once a round, O(m^2); then those of few candidates a pick, O(m) each, for as long as the
best of them beats what any other token had to offer (`greedy.candidates`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from otprune.greedy.candidates import best_place, candidates
from otprune.greedy.cover.sequential import ROWS, gains_of
from otprune.greedy.ties import TOLERANCE
from otprune.numerics.arrays import aligned, as_array

# Candidates of a round.
_CANDIDATES = 64


def greedy(distance: Tensor, mass: Tensor, k: int, tie_order: Tensor) -> Tensor:
    """As `sequential.greedy`; one set waits for the others."""
    parts, column = distance.split(ROWS, dim=1), mass.unsqueeze(-1)
    paid, preference = as_array(distance.amax(dim=-1)), as_array(tie_order)
    batch, m = paid.shape
    p = min(m, _CANDIDATES)
    order, done = np.zeros((batch, k), np.int64), np.zeros(batch, np.int64)
    penalty = np.zeros_like(paid)
    each = np.arange(batch)
    while True:
        state = as_array(gains_of(parts, column, torch.from_numpy(paid).unsqueeze(1))) + penalty
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


def _rows(distance: Tensor, indices: Tensor) -> Tensor:
    return distance.gather(1, indices.unsqueeze(-1).expand(-1, -1, distance.shape[-1]))
