"""The cells of kept tokens: a free-mass transport plan as an assignment, with its way back.

Every token belongs to the cell of one kept token. A plan does three things. The number of tokens in
a cell is the mass of its kept token. The way back gives every token the feature of its kept token,
so that a layout of m tokens is whole again. Plans compose: of the kept tokens of one plan another
one keeps fewer, and the masses still add up to m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Cells:
    """A partition of m tokens into the cells of k kept ones.

    Attributes:
        kept: `(k,)` int64, strictly ascending: the kept tokens.
        cell: `(m,)` int64: for each token the position in `kept` of the token that it belongs to. A
            kept token belongs to itself.
    """

    kept: Tensor
    cell: Tensor

    @classmethod
    def whole(cls, m: int, device: torch.device | None = None) -> Cells:
        """Every token kept, each its own cell."""
        every = torch.arange(m, device=device)
        return cls(every, every)

    @classmethod
    def joined(cls, parts: Sequence[Cells]) -> Cells:
        """Several sets as one, in order."""
        kept, cell, m, k = [], [], 0, 0
        for part in parts:
            kept.append(part.kept + m)
            cell.append(part.cell + k)
            m, k = m + len(part.cell), k + len(part.kept)
        return cls(torch.cat(kept), torch.cat(cell))

    def to(self, device: torch.device) -> Cells:
        """The same on another device."""
        return Cells(self.kept.to(device), self.cell.to(device))

    @property
    def is_whole(self) -> bool:
        """Whether every token is kept."""
        return len(self.kept) == len(self.cell)

    @property
    def representative(self) -> Tensor:
        """`(m,)` int64: for each token the index of the kept token that it belongs to."""
        return self.kept[self.cell]

    def counts(self, weights: Tensor | None = None) -> Tensor:
        """Number of tokens in each cell, `(k,)` float32; sums to m.

        Args:
            weights: `(m,)`, how much each token counts, instead of 1 each.
        """
        each = torch.ones_like(self.cell) if weights is None else weights.to(self.cell.device)
        empty = torch.zeros(len(self.kept), dtype=torch.float32, device=self.cell.device)
        return empty.index_add_(0, self.cell, each.float())

    def back(self, features: Tensor) -> Tensor:
        """Features of the kept tokens, `(k, ...)`, given to all of their cells, `(m, ...)`."""
        return features.index_select(0, self.cell.to(features.device))

    def then(self, fewer: Cells) -> Cells:
        """The plan that keeps, of the tokens kept here, those that `fewer` keeps.

        Args:
            fewer: cells of the k tokens kept here.
        """
        return Cells(self.kept[fewer.kept], fewer.cell[self.cell])

    def shown(self, origin: Tensor) -> Cells:
        """The plan for another layout, which shows some of the m tokens, and others besides.

        Of the tokens shown for one cell, its kept token is kept; if that is not shown, the first.

        Args:
            origin: `(n,)` int64, for each token of the layout the token that it shows; -1 for
                others, which are all kept.
        """
        place = torch.arange(len(origin), device=origin.device)
        there = self.representative[origin.clamp(min=0)]
        group = torch.where(origin < 0, len(self.cell) + place, there)
        whose = group.unique(return_inverse=True)[1]
        last = len(origin) * ((origin >= 0) & (origin != there)) + place
        head = torch.full_like(place, 2 * len(origin)).scatter_reduce_(0, whose, last, "amin")
        return Cells(*(head % len(origin))[whose].unique(return_inverse=True))
