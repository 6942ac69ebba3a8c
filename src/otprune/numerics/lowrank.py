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

    def row(self, j: Tensor) -> Tensor:
        """The row at place `j`, `(B, 1)`: `(B, m)`."""
        left = self.left.gather(1, j.unsqueeze(-1).expand(-1, -1, self.left.shape[-1]))
        return torch.bmm(left, self.right.mT).squeeze(1)
