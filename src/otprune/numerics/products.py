"""Products of large matrices: symmetric ones at half the work, others in parallel tasks."""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.numerics import threads
from otprune.numerics.arrays import host_readable

# Columns of a symmetric product per task (multiplied for every so many of them), and rows.
_PANEL, _WIDER, _ROWS = 128, 2048, 1024
# Multiplications of a task, about a millisecond.
_WORTH = 2**25
# Tasks begin at a line of the cache.
_EVEN = 16
# Of fewer rows or columns at once, most of a product's time goes into arranging the other matrix.
_LEAST = 256


def gram(x: Tensor, out: Tensor | None = None) -> Tensor:
    """`x x^T`, `(B, m, r)` to `(B, m, m)`.

    On a CPU little more than half of it is computed (`symmetric`). On a GPU one launch more would
    cost what the smaller product saves.
    """
    batch, m, _ = x.shape
    product = x.new_empty(batch, m, m) if out is None else out
    if not host_readable(x):
        return torch.bmm(x, x.mT, out=product)
    for one, buffer in zip(x, product, strict=True):
        symmetric(one, one, out=buffer)
    return product


def symmetric(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """`x y^T`, `(m, r)` to `(m, m)`, known to be symmetric, on a CPU in parallel tasks.

    Only blocks on and below the diagonal are computed, and copied to the other side.
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
        else:  # the block on the diagonal is whole already
            out[columns, start + width : top + height] = made[width:].mT

    threads.spread(some, [(i, j) for i in range(0, m, width) for j in range(i, m, height)])
    return out


def times(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """`a b`, `(n, r)` and `(r, q)` to `(n, q)`, on a CPU in parallel tasks where that pays."""
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
