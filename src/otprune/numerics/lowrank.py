"""Symmetric positive semi-definite matrices that are not formed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LowRank:
    """`left right^T`, symmetric, as two thin matrices `(B, m, r)`, which may be the same tensor.

    The m x m matrix is not formed: a search needs its diagonal and some of its rows.
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
