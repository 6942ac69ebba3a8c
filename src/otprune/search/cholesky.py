"""Greedy log-determinant by incremental Cholesky.

For a kernel `K = shift * I + M` with `M` positive semi-definite, each step keeps the token that
adds most to `logdet K[C, C]`. Chen, Zhang and Zhou, "Fast greedy MAP inference for determinantal
point processes", NeurIPS 2018, algorithm 1. Here `shift` is kept apart from `M`, so that small
entries of `M` are not rounded away against it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from otprune.search import rounds
from otprune.search.rounds import Factored
from otprune.search.ties import best

Row = Callable[[Tensor], Tensor]


class Elimination:
    """The residual of `M` after eliminating the tokens kept so far.

    `excess` is `(B, m)`: the conditional variance of each token, less `shift`. O(m t) in step t,
    plus one row of `M`.

    Two facts of exact arithmetic are imposed, since rounding breaks them once all of `M` is
    eliminated and the search goes on (more tokens than rank): no excess is negative, and no
    covariance exceeds what its two variances allow (Cauchy-Schwarz). Without the second, noise
    divided by a small root grows from step to step until it overflows.
    """

    def __init__(self, diagonal: Tensor, row: Row, steps: int, shift: float) -> None:
        batch, m = diagonal.shape
        self.excess = diagonal.clamp(min=0)
        self._row = row
        self._shift = shift
        self._factor = diagonal.new_empty(batch, steps, m)
        self._done = 0

    def eliminate(self, j: Tensor) -> None:
        """Condition on token `j`, `(B, 1)`."""
        t = self._done
        earlier = self._factor[:, :t]
        column = earlier.gather(2, j.unsqueeze(1).expand(-1, t, 1))
        fresh = self._row(j) - (column.mT @ earlier).squeeze(1)
        own = self.excess.gather(1, j)
        fresh = fresh / (own + self._shift).sqrt()
        limit = (self.excess * (own / (own + self._shift))).sqrt()
        fresh = fresh.clamp(min=-limit, max=limit)
        self._factor[:, t] = fresh
        self._done = t + 1
        self.excess = (self.excess - fresh.square()).clamp(min=0)


def greedy(M: Factored, k: int, rank: Tensor, shift: float) -> Tensor:
    """Tokens in the order they were picked, `(B, k)` int64.

    On a CPU in rounds (`search.rounds`), elsewhere pick by pick (`steps`): the same picks.

    Args:
        M: what is chosen from, `(B, m, m)`.
        k: number of tokens, at most m.
        rank: `(B, m)`, who wins ties (`ties.preference`).
        shift: positive.
    """
    if rank.is_cpu and not torch.compiler.is_compiling():
        return rounds.greedy(M, k, rank, shift)
    return steps(M, k, rank, shift)


def steps(M: Factored, k: int, rank: Tensor, shift: float) -> Tensor:
    """`greedy` with a fixed sequence of operations, and so without a look at what they give."""
    diagonal = M.diagonal()
    state = Elimination(diagonal, lambda j: M.rows(j).squeeze(1), k, shift)
    taken = torch.zeros_like(diagonal, dtype=torch.bool)
    order = rank.new_empty(rank.shape[0], k)
    for t in range(k):
        j = best(state.excess.masked_fill(taken, -torch.inf), rank)
        order[:, t : t + 1] = j
        taken.scatter_(1, j, True)
        if t + 1 < k:
            state.eliminate(j)
    return order
