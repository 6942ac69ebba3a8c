"""The published algorithm line by line, in float32: what selection is measured against.

arXiv 2602.20205, section 3: columns at unit length, the m x m matrices `S = V V^T` and
`K = I + gamma S S^T`, then greedy by incremental Cholesky, one pick after the other, each of which
the host waits for. One set of tokens, no weights, the first of equal gains wins.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def select(tokens: Tensor, k: int, gamma: float = 0.01) -> Tensor:
    """Indices of the k tokens to keep, `(k,)` int64, ascending.

    Args:
        tokens: `(m, d)` float32, no column all zero.
        k: 1 <= k <= m.
        gamma: 0.01 in the paper.
    """
    m = tokens.shape[0]
    V = tokens / tokens.norm(dim=0)
    S = V @ V.T
    K = gamma * (S @ S.T)
    K.diagonal().add_(1)
    variance = K.diagonal().clone()
    C = tokens.new_zeros(k, m)
    kept: list[int] = []
    for t in range(k):
        j = int(variance.argmax())
        kept.append(j)
        C[t] = (K[j] - C[:t, j] @ C[:t]) / variance[j].sqrt()
        variance -= C[t].square()
        variance[j] = -torch.inf
    return torch.tensor(sorted(kept), device=tokens.device)
