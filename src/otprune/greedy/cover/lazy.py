"""Greedy facility location on a CPU: gains are worked out again only where they may be the best.

All gains once a round, O(m^2); then those of few candidates, for as long as the best of them beats
what any other token had to offer (`greedy.candidates`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from otprune.greedy.candidates import candidates, covering
from otprune.greedy.cover.sequential import ROWS, gains_of
from otprune.numerics.arrays import as_array

# Candidates of a round.
_CANDIDATES = 64


def greedy(distance: Tensor, mass: Tensor, k: int, tie_order: Tensor) -> Tensor:
    """Tokens of one set in the order they were picked, `(k,)` int64; see `sequential.greedy`.

    Args:
        distance: `(m, m)`, non-negative, symmetric.
        mass: `(m,)`.
        k: number of tokens, at most m.
        tie_order: `(m,)`.
    """
    parts, preference = distance[None].split(ROWS, dim=1), as_array(tie_order)
    # Of float32 numbers as a rule, so that nothing is rounded on the way to `gains_of`.
    paid, p = as_array(distance.amax(dim=-1).double()), as_array(mass.double())
    (m,) = paid.shape
    worth, order = np.ones(m), np.empty(0, np.int64)
    while len(order) < k:
        now = torch.from_numpy(paid).to(distance.dtype)
        state = as_array(gains_of(parts, mass[None, :, None], now[None, None])[0])
        state[order] = -np.inf
        chosen, outside = candidates(state, preference, min(m, _CANDIDATES))
        # By token, then by candidate: the distances of a token lie together.
        near = as_array(distance.index_select(1, torch.from_numpy(chosen)).double())
        places = covering(near, paid, p, worth[chosen], outside, k - len(order))
        order = np.concatenate([order, chosen[places]])
        worth[order] = -np.inf
    return torch.from_numpy(order)
