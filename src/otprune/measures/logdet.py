"""The published objective: `f(C) = logdet(I + gamma * V_C Sigma V_C^T)`.

Source: OTPrune, arXiv 2602.20205. `V` holds the tokens with every column at unit length and
`Sigma = V^T V`, so that with `S = V V^T` the kernel is `K = I + gamma * S S^T` and
`f(C) = logdet K[C, C]`: monotone and submodular, every conditional variance at least one.
With weights `w` (mean 1), `Sigma = V^T diag(w) V` and the columns have unit *weighted* length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.measures.certificate import Certificate, certificate, largest
from otprune.numerics import products, projection
from otprune.numerics.arrays import LINE, host_readable
from otprune.numerics.lowrank import LowRank
from otprune.numerics.normalize import unit_columns_norms
from otprune.numerics.products import gram


def scaled_gamma(m: int, d: int) -> float:
    """The paper's gamma, 0.01 at 576 tokens of 4096 features, carried to other sizes.

    The mean of `diag(S S^T)` grows with `d^2 / m`; dividing that out keeps `K` at the paper's
    balance between `I` and `gamma * S S^T` everywhere. Departure: the paper uses 0.01 always.
    """
    return 0.01 * (4096**2 / 576) * m / d**2


def kernel(tokens: Tensor, gamma: float, weights: Tensor | None = None) -> LowRank:
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
) -> tuple[LowRank, Tensor]:
    """`kernel`, and `normalize.norms` of the tokens up to one scale per set.

    `gamma` may be one for each set, `(B,)`.

    With columns of length `gamma^(1/4)` it is `S S^T` for m <= d, from one m x m matrix, and else
    `V (V^T V) V^T`, of O(m d) memory. With a `rank` less than d the features of `V` are first
    projected at random to so many: an approximation in O(m d + m rank^2) time.
    """
    batch, m, d = tokens.shape
    r = d if rank is None else min(rank, d)
    square = m <= r
    left, norms = _sets(tokens, m if square else r), tokens.new_empty(batch, m)
    right = left if square else _sets(tokens, r)
    length = gamma**0.25
    # On a CPU set by set; the normalised tokens reuse one buffer unless they are the result.
    size = 1 if host_readable(tokens) else batch
    buffer = tokens.new_empty(size, m, d) if square and r == d else None
    for i in range(0, batch, size):
        part = slice(i, i + size)
        x, product = tokens[part], left[part]
        w = None if weights is None else weights[part]
        own = length[part, None, None] if isinstance(length, Tensor) else length
        if r < d:
            V, norms[part] = projection.unit_columns_norms(x, r, w, own)
        else:
            V, norms[part] = unit_columns_norms(x, w, own, buffer if square else right[part])
        if square:
            S = gram(V, out=product)
            if w is not None:
                S *= w.sqrt().unsqueeze(-2)
        else:
            weighted = V if w is None else V * w.sqrt().unsqueeze(-1)
            within = gram(weighted.mT)
            if host_readable(V):
                products.times(V[0], within[0], out=product[0])
            else:
                torch.bmm(V, within, out=product)
            if r < d:
                right[part] = V
    return LowRank(left, right), norms


def _sets(tokens: Tensor, n: int) -> Tensor:
    """An empty `(B, m, n)`; on a CPU each set begins at a cache line, as if it were alone."""
    batch, m, _ = tokens.shape
    if not host_readable(tokens):
        return tokens.new_empty(batch, m, n)
    size = m * n
    buffer = tokens.new_empty(batch, -(-size // LINE) * LINE)
    return buffer[:, :size].view(batch, m, n)


def certify(K: LowRank, order: Tensor) -> Certificate:
    """Value of a kept set, in nats, and a bound on the best value of its size.

    Args:
        K: of one set, B = 1; in float64, so that rounding is far below what the figures show.
        order: `(k,)`, the kept tokens in the order they were picked.
    """
    k = order.shape[0]
    rows = K.left[0, order] @ K.right[0].mT
    factor = torch.empty_like(rows)
    excess = K.diagonal()[0].clamp(min=0)
    value, bound = 0.0, float("inf")
    values = []
    for t in range(k + 1):
        gains = torch.log1p(excess)
        gains[order[:t]] = 0.0
        bound = min(bound, value + largest(gains, k))
        if t < k:
            j = order[t]
            value += float(gains[j])
            values.append(value)
            # The next row of the Cholesky factor. Once all of M is known (more tokens than rank,
            # huge gamma) rounding is larger than the shift; two facts that it breaks are imposed:
            # Cauchy-Schwarz, and that no excess is negative.
            root = (excess[j] + 1.0).sqrt()
            limit = excess.sqrt() * (excess[j].sqrt() / root)
            fresh = (rows[t] - factor[:t, j] @ factor[:t]) / root
            factor[t] = fresh.clamp(min=-limit, max=limit)
            excess = (excess - factor[t].square()).clamp(min=0)
    return certificate(values, max(value, bound))
