"""Greedy log-determinant by incremental Cholesky.

For a kernel `K = shift * I + M` with `M` positive semi-definite, each step keeps the token that
adds most to `logdet K[C, C]`. Chen, Zhang and Zhou, "Fast greedy MAP inference for determinantal
point processes", NeurIPS 2018, algorithm 1. Here `shift` is kept apart from `M`, so that small
entries of `M` are not rounded away against it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from otprune.search import rounds
from otprune.search.ties import TOLERANCE
from otprune.tokens import at_hand

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


class Thin(Protocol):
    """A positive semi-definite `M = left right^T` that is not formed; both are `(B, m, r)`."""

    @property
    def left(self) -> Tensor: ...

    @property
    def right(self) -> Tensor: ...

    def diagonal(self) -> Tensor:
        """`(B, m)`."""


def greedy(M: Thin, k: int, rank: Tensor, shift: float) -> Tensor:
    """Tokens in the order they were picked, `(B, k)` int64.

    On a CPU set by set, in rounds if they are large (`search.rounds`); elsewhere pick by pick
    (`steps`): the same picks.

    Args:
        M: what is chosen from, `(B, m, m)`.
        k: number of tokens, at most m.
        rank: `(B, m)`, who wins ties (`ties.preference`).
        shift: positive.
    """
    if at_hand(rank):
        left = list(M.left)
        right = left if M.left is M.right else list(M.right)
        sets = list(zip(left, right, M.diagonal(), rank, strict=True))
        if rank.shape[1] <= rounds.SMALL:
            return rounds.at_once(sets, k, shift)
        return torch.stack([rounds.greedy(*one, k, shift) for one in sets])
    return steps(M, k, rank, shift)


def steps(M: Thin, k: int, rank: Tensor, shift: float) -> Tensor:
    """`greedy` with a fixed sequence of operations, and so without a look at what they give.

    On small sets a device waits for its next order most of the time, so what counts is how many
    there are: 11 a pick, and no views. Hence copies of `left` and `right`, O(m (r + k)) memory:

    - Tokens come in order of preference, so that of those tied the first wins.
    - Behind their features is room for the factor. The product that makes a row of `M` then also
      takes from it what is known; what is not known yet is zero.

    `rows` are those of the residual itself: with j picked, `row_i^2 / (excess_j + shift)` comes off
    the excess of i. Excess does not fall below zero, as in `Elimination`. Since j has the largest
    there is, but for the tolerance of ties, the largest stands for its own; and Cauchy-Schwarz lets
    no covariance exceed that.
    """
    preferred = rank.argsort(dim=-1)
    batch, m = rank.shape
    each = torch.arange(batch, device=rank.device).unsqueeze(-1)
    r = M.left.shape[-1]
    ours = pad(M.left[each, preferred], (0, k))
    theirs = pad(M.right[each, preferred].permute(2, 0, 1), (0, 0, 0, 0, 0, k))
    shares, rows = ours[..., r:].unbind(-1), theirs[r:].unbind()
    across, product = theirs.transpose(0, 1), ours.new_empty(batch, 1, m)
    covariance = product.squeeze(1)
    # Excess and variance, which is shift more: what is largest, and what a token has at least, and
    # at most. That is nothing once it is picked.
    excess = M.diagonal().gather(1, preferred).clamp_(min=0)
    state = torch.stack([excess, excess + shift])
    largest, most = state.new_empty(2, batch, 1), torch.full_like(excess, torch.inf)
    least = torch.linspace(0, shift, 2, dtype=excess.dtype, device=excess.device).view(2, 1, 1)
    (excess, _), (top, variance) = state.unbind(), largest.unbind()
    # In terms of the largest excess: what is tied with it, and what no covariance is below.
    scale = torch.linspace(1 - TOLERANCE, -1, 2, dtype=excess.dtype, device=excess.device)
    scale, levels = scale.view(2, 1, 1), torch.empty_like(largest)
    tied, lowest = levels.unbind()
    order: list[Tensor] = []
    for share, row in zip(shares, rows, strict=True):
        torch.amax(state, dim=-1, keepdim=True, out=largest)
        torch.mul(top, scale, out=levels)
        j = torch.minimum(excess, tied).argmax(dim=-1, keepdim=True)
        order.append(j)
        if len(order) == k:
            break
        torch.bmm(ours[each, j], across, out=product)
        torch.clamp(covariance, lowest, top, out=row)
        share.addcdiv_(row, variance, value=-1)
        most.scatter_(1, j, -torch.inf)
        state.addcmul_(row, share).clamp_(least, most)
    return preferred.gather(1, torch.cat(order, dim=-1))
