"""Products of matrices that are large, and some of whose structure is known."""

from __future__ import annotations

import torch
from torch import Tensor

from otprune import threads
from otprune.tokens import at_hand

# Columns of a Gram matrix that are made at once: more of them where there are so many.
_PANEL, _WIDER = 128, 2048
# Rows that are made at once.
_ROWS = 1024


def gram(x: Tensor, out: Tensor | None = None) -> Tensor:
    """`x x^T`, `(B, m, r)` to `(B, m, m)`.

    On a CPU only what is on and below the diagonal, some columns and rows at a time, which are then
    copied to the other side. On a GPU a launch more would cost what a product less saves.
    """
    batch, m, _ = x.shape
    product = x.new_empty(batch, m, m) if out is None else out
    if not at_hand(x):
        return torch.bmm(x, x.mT, out=product)
    width = _PANEL * -(-m // _WIDER)
    height = max(width, _ROWS)

    def some(place: tuple[int, int, int]) -> None:
        b, start, top = place
        one, whole = x[b], product[b]
        columns, rows = slice(start, start + width), slice(top, top + height)
        made = torch.mm(one[rows], one[columns].mT, out=whole[rows, columns])
        if top > start:
            whole[columns, rows] = made.mT
        else:  # without what is in both halves
            whole[columns, start + width : top + height] = made[width:].mT

    tops = [(i, j) for i in range(0, m, width) for j in range(i, m, height)]
    threads.spread(some, [(b, *place) for b in range(batch) for place in tops])
    return product
