"""The short sequences of an encoder's kept tokens, and the way back to whole ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprune.errors import UnsupportedError
from otprune.measures.cells import Cells


@dataclass(frozen=True)
class Short:
    """The kept tokens of R sequences of n tokens, n' in each.

    columns: `(R, n')` int64, ascending.
    index: `(R * n',)`, the same among the tokens of all sequences.
    back: `(R * n,)`, for each token the position in `index` of the token whose feature it takes.
    log_mass: `(R, n')` float32.
    """

    columns: Tensor
    index: Tensor
    back: Tensor
    log_mass: Tensor

    @property
    def n(self) -> int:
        return len(self.back) // len(self.columns)

    def take(self, hidden: Tensor) -> Tensor:
        """`(R, n, d)`, or `(n, d)` of one sequence, to `(R, n', d)` or `(n', d)`."""
        flat = hidden.reshape(-1, hidden.shape[-1]).index_select(0, self.index.to(hidden.device))
        return flat if hidden.ndim == 2 else flat.view(*self.columns.shape, -1)

    def give_back(self, hidden: Tensor) -> Tensor:
        """`(R, n', d)` or `(n', d)` to `(R, n, d)` or `(n, d)`."""
        flat = hidden.reshape(-1, hidden.shape[-1]).index_select(0, self.back.to(hidden.device))
        return flat if hidden.ndim == 2 else flat.view(len(self.columns), self.n, -1)

    def spread(self, hidden: Tensor) -> Tensor:
        """Of all tokens, to all tokens: dropped ones take what those in their place have."""
        return self.give_back(self.take(hidden))

    def borders(self, old: Tensor) -> Tensor:
        """Packed borders `(parts + 1,)` of the short sequence, without its empty parts."""
        kept = torch.zeros(self.n + 1, dtype=torch.int64, device=old.device)
        kept[self.columns[0].to(old.device) + 1] = 1
        found: Tensor = torch.unique_consecutive(kept.cumsum(0)[old.long()])
        return found.to(old.dtype)


def short_of(special: Tensor, units: list[Tensor], cells: list[Cells], rows: int, n: int) -> Short:
    """The short sequences of `rows` sequences of `n` tokens.

    Args:
        special, units: as in `grids.Layout`.
        cells: the plan of each set.

    Raises:
        UnsupportedError: they would differ in length, and padding cannot fill them up.
    """
    device = special.device
    keep = torch.zeros(rows * n, dtype=torch.bool, device=device)
    padding = torch.ones_like(keep)
    log_mass = torch.zeros(rows * n, dtype=torch.float32, device=device)
    whose = torch.arange(rows * n, device=device)
    keep[special], padding[special] = True, False
    for some, plan in zip(units, cells, strict=True):
        kept = some[plan.kept]
        padding[some], keep[kept] = False, True
        log_mass[kept] = plan.counts().log().unsqueeze(1)
        whose[some] = kept[plan.cell]
    keep, padding = keep.view(rows, n), padding.view(rows, n)
    number = keep.sum(dim=1, keepdim=True)
    width = int(number.max())
    # Shorter sequences are filled up with padding of theirs, which the layer's mask hides.
    filler = padding & (padding.cumsum(dim=1) <= width - number)
    keep = keep | filler
    if bool((keep.sum(dim=1) != width).any()):
        raise UnsupportedError(
            "the sequences of an encoder's batch keep different numbers of tokens: give an encoder "
            "stage whose selector keeps the same share of each image"
        )
    columns = keep.nonzero()[:, 1].view(rows, width)
    first = torch.arange(rows, device=device).unsqueeze(1)
    index = (columns + first * n).reshape(-1)
    place = (keep.cumsum(dim=1) - 1 + first * width).reshape(-1)
    # Dropped padding takes the feature of the first token; nothing reads it.
    lost = (padding & ~keep).reshape(-1)
    whose = torch.where(lost, index.view(rows, width)[:, :1].expand(rows, n).reshape(-1), whose)
    return Short(columns, index, place[whose], log_mass[index].view(rows, width))


def applied(change: Callable[[Tensor], Tensor], out: Any) -> Any:
    """What a layer gave, with its hidden states changed."""
    if isinstance(out, tuple):
        return change(out[0]), *out[1:]
    return change(out)
