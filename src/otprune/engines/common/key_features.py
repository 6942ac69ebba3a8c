"""A bias per key as features of the keys, for attention kernels that take no bias.

With 1 in some features of each query and numbers that sum to b / scale in the same features of a
key, `scale * (q . k)` grows by b, under any mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

FEATURES = 8  # attention kernels expect head sizes that are multiples of 8
PIECES = 3  # how many of them hold the bias


def split(x: Tensor) -> Tensor:
    """Numbers `(...)` as sums of three pieces `(..., 3)` bfloat16, of 8 significant bits each.

    The sum is exact to float32 precision, and so is each piece in bfloat16, in float16 (for numbers
    of the size of biases), and in float32 that a kernel casts to either.
    """
    rest, pieces = x.float(), []
    for _ in range(PIECES):
        pieces.append(rest.bfloat16())
        rest = rest - pieces[-1]
    return torch.stack(pieces, dim=-1)


def join(pieces: Tensor) -> Tensor:
    """The numbers `(...)` float32 whose pieces are `(..., 3)`, in any dtype."""
    return pieces.float().sum(dim=-1)
