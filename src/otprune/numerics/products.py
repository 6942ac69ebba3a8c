"""Products of matrices that are large, and some of whose structure is known."""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.numerics import threads
from otprune.numerics.arrays import host_readable

# Columns of a Gram matrix that are made at once, more of them where there are so many; and rows.
_PANEL, _WIDER, _ROWS = 128, 2048, 1024
# Multiplications that are worth a task of their own, about a millisecond.
_WORTH = 2**25
# Tasks begin at a line of the cache.
_EVEN = 16
# Of fewer rows or columns at once, most of a product's time goes into arranging the other matrix.
_LEAST = 256


def gram(x: Tensor, out: Tensor | None = None) -> Tensor:
    """`x x^T`, `(B, m, r)` to `(B, m, m)`.

    On a CPU little more than half of it is worked out (`symmetric`). On a GPU a launch more
    would cost what a product less saves.
    """
    batch, m, _ = x.shape
    product = x.new_empty(batch, m, m) if out is None else out
    if not host_readable(x):
        return torch.bmm(x, x.mT, out=product)
    for one, room in zip(x, product, strict=True):
        symmetric(one, one, out=room)
    return product


def symmetric(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """`x y^T`, `(m, r)` to `(m, m)`, known to be symmetric, on a CPU and as tasks.

    Only what is on and below the diagonal, some columns and rows at a time, which are then copied
    to the other side.
    """
    m = len(x)
    width = _PANEL * -(-m // _WIDER)
    height = max(width, _ROWS)

    def some(place: tuple[int, int]) -> None:
        start, top = place
        columns, rows = slice(start, start + width), slice(top, top + height)
        made = torch.mm(x[rows], y[columns].mT, out=out[rows, columns])
        if top > start:
            out[columns, rows] = made.mT
        else:  # without what is in both halves
            out[columns, start + width : top + height] = made[width:].mT

    threads.spread(some, [(i, j) for i in range(0, m, width) for j in range(i, m, height)])
    return out


def times(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """`a b`, `(n, r)` and `(r, q)` to `(n, q)` on a CPU, as tasks where that pays."""
    n, r, q = *a.shape, b.shape[1]
    product = a.new_empty(n, q) if out is None else out
    worth = -(-_WORTH // max(1, r * min(n, q)))
    size = max(_LEAST, -(-worth // _EVEN) * _EVEN)

    def some(part: slice) -> None:
        if q > n:
            torch.mm(a, b[:, part], out=product[:, part])
        else:
            torch.mm(a[part], b, out=product[part])

    threads.spread(some, threads.parts(max(n, q), size))
    return product
