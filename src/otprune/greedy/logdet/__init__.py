"""Greedy log-determinant: each step keeps the token that adds most to `logdet K[C, C]`.

For `K = shift * I + M` with `M` positive semi-definite. Chen, Zhang and Zhou, "Fast greedy MAP
inference for determinantal point processes", NeurIPS 2018, algorithm 1. Here `shift` is kept apart
from `M`, so that small entries of `M` are not rounded away against it.

The searches make the same picks, up to gains that are equal within rounding:

- `dense`: on a CPU, a small set pick by pick.
- `speculative`: on a CPU, several picks of a large set at a time.
- `sequential`: on a device, with a fixed sequence of operations.
- `triton_kernel`: on a GPU, all picks of many small sets in one launch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.greedy.logdet import dense, sequential, speculative
from otprune.numerics.arrays import host_readable
from otprune.numerics.lowrank import LowRank


def greedy(M: LowRank, k: int, tie_order: Tensor, shift: float) -> Tensor:
    """Tokens in the order they were picked, `(B, k)` int64.

    On a CPU set by set.

    Args:
        M: `(B, m, m)`, positive semi-definite.
        k: number of tokens, at most m.
        tie_order: `(B, m)`, who wins ties (`ties.preference`).
        shift: positive.
    """
    if not host_readable(tie_order):
        return sequential.greedy(M, k, tie_order, shift)
    left = list(M.left)
    right = left if M.left is M.right else list(M.right)
    sets = list(zip(left, right, M.diagonal(), tie_order, strict=True))
    search = dense.of_set if tie_order.shape[1] <= dense.MOST else speculative.greedy
    return torch.stack([search(*one, k, shift) for one in sets])
