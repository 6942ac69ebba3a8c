"""Greedy maximum coverage: each step keeps the token that covers most of what is not yet covered.

The value of a set C is `f(C) = sum_r max(0, max_{j in C} similarity[r, j])` over rows r, tokens or
words, that want to be covered. It is monotone and submodular, so the greedy value is at least
1 - 1/e of the best (Nemhauser, Wolsey and Fisher, 1978), if all candidates have one quality.
O(n m) memory and O(k n m) time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.greedy.ties import best


def greedy(similarity: Tensor, k: int, tie_order: Tensor, quality: Tensor | None = None) -> Tensor:
    """Tokens in the order they were picked, `(B, k)` int64.

    Each step keeps the token j of largest
    `quality[j] * sum_r max(0, similarity[r, j] - covered[r])`, where `covered[r]` is the largest
    similarity of row r to a kept token, and at least 0.

    Args:
        similarity: `(B, n, m)` of n rows to m tokens.
        k: number of tokens, at most m.
        tie_order: `(B, m)`, who wins ties (`ties.preference`).
        quality: `(B, m)`, non-negative; None for ones.
    """
    each = torch.arange(len(similarity), device=similarity.device).unsqueeze(-1)
    by_token = similarity.mT
    taken = similarity.new_zeros(tie_order.shape)
    covered = similarity.new_zeros(*similarity.shape[:2], 1)
    left = torch.empty_like(similarity)
    order = []
    for _ in range(k):
        gains = torch.sub(similarity, covered, out=left).clamp_(min=0).sum(dim=1)
        if quality is not None:
            gains *= quality
        j = best(gains + taken, tie_order)
        order.append(j)
        taken.scatter_(1, j, -torch.inf)
        covered = torch.maximum(covered, by_token[each, j].mT)
    return torch.cat(order, dim=-1)
