"""The published objective: `f(C) = logdet(I + gamma * V_C Sigma V_C^T)`.

Source: OTPrune, arXiv 2602.20205. `V` holds the tokens with every column at unit length and
`Sigma = V^T V`, so that with `S = V V^T` the kernel is `K = I + gamma * S S^T` and
`f(C) = logdet K[C, C]`: monotone and submodular, every conditional variance at least one.
With weights `w` (mean 1), `Sigma = V^T diag(w) V` and the columns have unit *weighted* length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from otprune.objectives.certificate import Certificate, certificate, largest
from otprune.search.cholesky import Elimination
from otprune.tokens import unit_columns


def scaled_gamma(m: int, d: int) -> float:
    """The paper's gamma, 0.01 at 576 tokens of 4096 features, carried to other sizes.

    The mean of `diag(S S^T)` grows with `d^2 / m`; dividing that out keeps `K` at the paper's
    balance between `I` and `gamma * S S^T` everywhere. Departure: the paper uses 0.01 always.
    """
    return 0.01 * (4096**2 / 576) * m / d**2


@dataclass(frozen=True, eq=False)
class Kernel:
    """`gamma * S W S^T` as a product of two thin matrices, `(B, m, r)` with r = min(m, d).

    The m x m kernel itself is never formed: a search needs its diagonal and one row a step.
    """

    left: Tensor
    right: Tensor

    def diagonal(self) -> Tensor:
        """`(B, m)`."""
        return (self.left * self.right).sum(dim=-1)

    def row(self, j: Tensor) -> Tensor:
        """Rows `j`, `(B, 1)`, of the kernel: `(B, m)`."""
        width = self.left.shape[-1]
        chosen = self.left.gather(1, j.unsqueeze(-1).expand(-1, 1, width))
        return (chosen @ self.right.mT).squeeze(1)


def kernel(tokens: Tensor, gamma: float, weights: Tensor | None = None) -> Kernel:
    """`K - I` of the published objective.

    Args:
        tokens: `(B, m, d)` floating; normalised here.
        gamma: positive.
        weights: `(B, m)` of mean 1, or None for all ones.
    """
    V = unit_columns(tokens, weights)
    W = 1.0 if weights is None else weights.unsqueeze(-1)
    if V.shape[-1] < V.shape[-2]:
        return Kernel(gamma * (V @ (V.mT @ (W * V))), V)
    S = V @ V.mT
    return Kernel(gamma * S * (1.0 if weights is None else weights.unsqueeze(-2)), S)


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
