"""Greedy kernel herding without replacement. O(m k) after the kernel.

Chen, Welling and Smola, "Super-samples from kernel herding", UAI 2010, equation 8. Departure: a
token is kept once at most (they draw with replacement, from a continuum).
"""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.greedy.ties import best


def greedy(kernel: Tensor, mass: Tensor, k: int, tie_order: Tensor) -> Tensor:
    """Tokens in the order they were picked, `(B, k)` int64.

    Step t keeps the token `x` of largest
    `sum_i mass_i k(x, x_i) - sum_{j kept} k(x, x_j) / (t + 1)`.

    Args:
        kernel: `(B, m, m)`, symmetric, ones on the diagonal.
        mass: `(B, m)`, sums to 1.
        k: number of tokens, at most m.
        tie_order: `(B, m)`, who wins ties (`ties.preference`).
    """
    each = torch.arange(len(mass), device=mass.device).unsqueeze(-1)
    wanted = (kernel @ mass.unsqueeze(-1)).squeeze(-1)
    got = torch.zeros_like(wanted)
    order = []
    for t in range(k):
        j = best(wanted.sub(got, alpha=1 / (t + 1)), tie_order, unit=1.0)
        order.append(j)
        wanted.scatter_(1, j, -torch.inf)
        got += kernel[each, j].squeeze(1)
    return torch.cat(order, dim=-1)
