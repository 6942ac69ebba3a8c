"""Greedy maximum coverage: each step keeps the token that covers most of what is not yet covered.

The value of a kept set C is `f(C) = sum_r max(0, max_{j in C} similarity[j, r])`, over rows r to be
covered, tokens or words. It is monotone and submodular, so the greedy value is at least
1 - 1/e of the best (Nemhauser, Wolsey and Fisher, 1978), if all candidates have one quality.

`sequential` runs on a device, with a fixed sequence of operations, O(k n m). On a CPU `lazy` makes
the same picks, up to gains that are equal within rounding: gains never grow, so only those of few
candidates are worked out after a pick (`greedy.candidates`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from otprune.greedy.candidates import candidates, covering
from otprune.greedy.ties import best
from otprune.numerics import threads
from otprune.numerics.arrays import as_array, host_readable

# Tokens whose gains are worked out at once, and candidates of a round.
_ROWS, _CANDIDATES = 256, 64


def greedy(similarity: Tensor, k: int, tie_order: Tensor, quality: Tensor | None = None) -> Tensor:
    """Tokens in the order they were picked, `(B, k)` int64.

    Each step keeps the token j of largest
    `quality[j] * sum_r max(0, similarity[j, r] - covered[r])`, where `covered[r]` is the largest
    similarity of row r to a kept token, and at least 0.

    Args:
        similarity: `(B, m, n)` of m tokens to n rows.
        k: number of tokens, at most m.
        tie_order: `(B, m)`, who wins ties (`ties.preference`).
        quality: `(B, m)`, non-negative; None for ones.
    """
    of_each = torch.ones_like(similarity[..., 0]) if quality is None else quality
    if not host_readable(similarity):
        return sequential(similarity, k, tie_order, of_each)
    sets = zip(similarity, tie_order, of_each, strict=True)
    return torch.stack([lazy(s, k, order, q) for s, order, q in sets])


def sequential(similarity: Tensor, k: int, tie_order: Tensor, quality: Tensor) -> Tensor:
    """`greedy` with a fixed sequence of operations."""
    each = torch.arange(len(similarity), device=similarity.device).unsqueeze(-1)
    covered = torch.zeros_like(similarity[:, :1])
    taken = torch.zeros_like(quality)
    order = []
    for _ in range(k):
        gains = (similarity - covered).clamp_(min=0).sum(dim=-1)
        j = best(gains * quality + taken, tie_order)
        order.append(j)
        taken = taken.scatter(1, j, -torch.inf)
        covered = torch.maximum(covered, similarity[each, j])
    return torch.cat(order, dim=-1)


def lazy(similarity: Tensor, k: int, tie_order: Tensor, quality: Tensor) -> Tensor:
    """`greedy` of one set on a CPU.

    What a row lacks is the cost that it pays, and dissimilarity the distance.
    """
    m, n = similarity.shape
    parts, preference = similarity.split(_ROWS), as_array(tie_order)
    lacking, mass = np.zeros(n), np.ones(n)
    factor, worth = as_array(quality), as_array(quality.double())
    order = np.empty(0, np.int64)
    while len(order) < k:
        state = _gains(parts, torch.from_numpy(-lacking).to(similarity.dtype)) * factor
        state[order] = -np.inf
        if not state.max() > 0:  # nothing is left to cover, so the rule for ties decides
            rest = np.setdiff1d(preference.argsort(), order, assume_unique=True)
            order = np.concatenate([order, rest])[:k]
            break
        chosen, outside = candidates(state, preference, min(m, _CANDIDATES))
        apart = similarity.index_select(0, torch.from_numpy(chosen)).double().neg_().mT
        places = covering(as_array(apart), lacking, mass, worth[chosen], outside, k - len(order))
        order = np.concatenate([order, chosen[places]])
        worth[order] = -np.inf
    return torch.from_numpy(order)


def _gains(parts: tuple[Tensor, ...], covered: Tensor) -> np.ndarray:
    """What each token would cover besides, `(m,)`."""
    gains = threads.spread(lambda part: (part - covered).clamp_(min=0).sum(dim=-1), parts)
    return as_array(torch.cat(gains))
