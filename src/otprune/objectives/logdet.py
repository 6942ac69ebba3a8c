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

from otprune.objectives import sketch
from otprune.objectives.certificate import Certificate, certificate, largest
from otprune.objectives.products import at_once, gram
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

    def diagonal(self) -> Tensor:
        """`(B, m)`."""
        if self.left is self.right:
            squares: Tensor = torch.linalg.vector_norm(self.left, dim=-1).square()
        else:
            squares = torch.linalg.vecdot(self.left, self.right)
        return squares

    def of(self, sets: Tensor) -> Kernel:
        """Of some of the sets, `(b,)`."""
        left = self.left[sets]
        return Kernel(left, left if self.left is self.right else self.right[sets])

    def rows(self, places: Tensor, mix: Tensor | None = None) -> Tensor:
        """Its rows at `places`, `(B, n)`: `(B, n, m)`; multiplied by `mix`, `(B, n, n)`, if given.

        Row i of set b has place `b m + i`.
        """
        left = torch.embedding(self._flat, places)
        return torch.bmm(left if mix is None else torch.bmm(mix, left), self._across)

    @cached_property
    def _flat(self) -> Tensor:
        """`left` as the rows of all sets, `(B m, r)`."""
        return self.left.reshape(-1, self.left.shape[-1])

    @cached_property
    def _across(self) -> Tensor:
        return self.right.mT

    def row(self, j: Tensor) -> Tensor:
        """The row at place `j`, `(B, 1)`: `(B, m)`."""
        return self.rows(j).squeeze(1)

    def block(self, places: Tensor) -> Tensor:
        """Its rows and columns at `places`, `(B, p)`: `(B, p, p)`."""
        left = torch.embedding(self._flat, places)
        if self.left is self.right:
            return torch.bmm(left, left.mT)
        flat = self.right.reshape(-1, self.right.shape[-1])
        return torch.bmm(left, torch.embedding(flat, places).mT)


def kernel(tokens: Tensor, gamma: float, weights: Tensor | None = None) -> Kernel:
    """`K - I` of the published objective.

    Args:
        tokens: `(B, m, d)` floating; normalised here.
        gamma: positive.
        weights: `(B, m)` of mean 1, or None for all ones.
    """
    return kernel_norms(tokens, gamma, weights)[0]


def kernel_norms(
    tokens: Tensor,
    gamma: float | Tensor,
    weights: Tensor | None = None,
    rank: int | None = None,
) -> tuple[Kernel, Tensor]:
    """`kernel`, and `otprune.tokens.norms` of the tokens, but for a factor of a set.

    `gamma` may be one for each set, `(B,)`.

    With columns of length `gamma^(1/4)` it is `S S^T` for m <= d, from one m x m matrix, and else
    `V (V^T V) V^T`, of O(m d) memory. With a `rank` less than d the features of `V` are first
    projected at random to so many: an approximation in O(m d + m rank^2) time.
    """
    batch, m, d = tokens.shape
    r = d if rank is None else min(rank, d)
    square = m <= r
    left, norms = tokens.new_empty(batch, m, m if square else r), tokens.new_empty(batch, m)
    right, length, size = [], gamma**0.25, at_once(tokens)
    # The same memory for all parts, unless they are to stay.
    room = torch.empty_like(tokens[:size]) if square and r == d else None
    parts = zip(tokens.split(size), left.split(size), norms.split(size), strict=True)
    for i, (x, product, norm) in enumerate(parts):
        part = slice(i * size, (i + 1) * size)
        w = None if weights is None else weights[part]
        own = length[part, None, None] if isinstance(length, Tensor) else length
        if r < d:
            V, sizes = sketch.unit_columns_norms(x, r, w, own)
        else:
            here = room if room is None or len(x) == size else room[: len(x)]
            V, sizes = unit_columns_norms(x, w, own, here)
        norm.copy_(sizes)
        if square:
            S = gram(V, out=product)
            if w is not None:
                S *= w.sqrt().unsqueeze(-2)
        else:
            weighted = V if w is None else V * w.sqrt().unsqueeze(-1)
            torch.bmm(V, gram(weighted.mT), out=product)
            right.append(V)
    if square:
        return Kernel(left, left), norms
    return Kernel(left, right[0] if len(right) == 1 else torch.cat(right)), norms


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
