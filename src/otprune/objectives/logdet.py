"""The published objective: `f(C) = logdet(I + gamma * V_C Sigma V_C^T)`.

Source: OTPrune, arXiv 2602.20205. `V` holds the tokens with every column at unit length and
`Sigma = V^T V`, so that with `S = V V^T` the kernel is `K = I + gamma * S S^T` and
`f(C) = logdet K[C, C]`: monotone and submodular, every conditional variance at least one.
With weights `w` (mean 1), `Sigma = V^T diag(w) V` and the columns have unit *weighted* length.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from otprune.objectives.certificate import Certificate, certificate, largest
from otprune.objectives.products import gram, project, rows
from otprune.search.cholesky import Elimination
from otprune.tokens import unit_columns_norms


def scaled_gamma(m: int, d: int) -> float:
    """The paper's gamma, 0.01 at 576 tokens of 4096 features, carried to other sizes.

    The mean of `diag(S S^T)` grows with `d^2 / m`; dividing that out keeps `K` at the paper's
    balance between `I` and `gamma * S S^T` everywhere. Departure: the paper uses 0.01 always.
    """
    return 0.01 * (4096**2 / 576) * m / d**2


@dataclass(frozen=True, eq=False)
class Kernel:
    """`left right^T`, symmetric, as two thin matrices `(B, m, r)`, which may be one and the same.

    The m x m matrix itself is not formed: a search needs its diagonal and some of its rows.
    """

    left: Tensor
    right: Tensor

    @cached_property
    def _across(self) -> Tensor:
        return self.right.mT

    def size(self) -> int:
        """Bytes that are read for one row."""
        return self.right.numel() * self.right.element_size()

    def diagonal(self) -> Tensor:
        """`(B, m)`."""
        if self.left is self.right:
            squares: Tensor = torch.linalg.vector_norm(self.left, dim=-1).square()
        else:
            squares = torch.linalg.vecdot(self.left, self.right)
        return squares

    def rows(self, indices: Tensor, out: Tensor | None = None) -> Tensor:
        """Its rows `indices`, `(B, n)`: `(B, n, m)`."""
        return torch.bmm(rows(self.left, indices), self._across, out=out)

    def row(self, j: Tensor) -> Tensor:
        """Row `j`, `(B, 1)`: `(B, m)`."""
        return self.rows(j).squeeze(1)

    def block(self, indices: Tensor) -> Tensor:
        """Its rows and columns `indices`, `(B, p)`: `(B, p, p)`."""
        left = rows(self.left, indices)
        right = left if self.left is self.right else rows(self.right, indices)
        return torch.bmm(left, right.mT)


def kernel(tokens: Tensor, gamma: float, weights: Tensor | None = None) -> Kernel:
    """`K - I` of the published objective.

    Args:
        tokens: `(B, m, d)` floating; normalised here.
        gamma: positive.
        weights: `(B, m)` of mean 1, or None for all ones.
    """
    return kernel_norms(tokens, gamma, weights)[0]


def kernel_norms(
    tokens: Tensor, gamma: float, weights: Tensor | None = None, rank: int | None = None
) -> tuple[Kernel, Tensor]:
    """`kernel`, and `otprune.tokens.norms` of the tokens.

    With columns of length `gamma^(1/4)` it is `S S^T` for m <= d, one m x m matrix, and else
    `V (V^T V) V^T`, of O(m d) memory. With a `rank` less than d the features of `V` are first
    projected at random to so many: an approximation in O(m d + m rank^2) time.
    """
    V, norms = unit_columns_norms(tokens, weights, gamma**0.25)
    if rank is not None and rank < V.shape[-1]:
        V = project(V, rank)
    if V.shape[-1] < V.shape[-2]:
        weighted = V if weights is None else V * weights.sqrt().unsqueeze(-1)
        return Kernel(V @ gram(weighted.mT), V), norms
    S = gram(V)
    if weights is not None:
        S *= weights.sqrt().unsqueeze(-2)
    return Kernel(S, S), norms


def certify(K: Kernel, order: Tensor) -> Certificate:
    """Value of a kept set, in nats, and a bound on the best value of its size.

    Args:
        K: of one set, B = 1; in float64, so that rounding is far below what the figures show.
        order: `(k,)`, the kept tokens in the order they were picked.
    """
    k = order.shape[0]
    state = Elimination(K.diagonal(), K.row, k, shift=1.0)
    taken = torch.zeros_like(state.excess[0], dtype=torch.bool)
    value, bound = 0.0, float("inf")
    values = []
    for t in range(k + 1):
        gains = torch.log1p(state.excess[0]).masked_fill(taken, 0.0)
        bound = min(bound, value + largest(gains, k))
        if t < k:
            j = order[t]
            value += float(gains[j])
            values.append(value)
            taken[j] = True
            state.eliminate(j.reshape(1, 1))
    return certificate(values, max(value, bound))
