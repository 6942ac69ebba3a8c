"""Products of matrices that are large, and some of whose structure is known."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALL = 200
# What is worked on at once on a CPU: so many numbers, or a third of all.
_CACHED, _PARTS = 2**21, 3


def rows(x: Tensor, places: Tensor) -> Tensor:
    """`(B, p, r)` of `(B, m, r)`: row i of set b has place `b m + i` in `places`, `(B, p)`."""
    return torch.embedding(x.reshape(-1, x.shape[-1]), places)


def parts(x: Tensor) -> list[slice]:
    """Slices of the first axis to be worked on one after the other.

    On a CPU a slice is of few sets, so that what is made of them is still in the processor's cache
    when it is used; but calls cost too, and there are three at most. On a GPU only calls count, and
    one slice is of all sets.
    """
    batch, m, r = x.shape
    size = max(-(-batch // _PARTS), _CACHED // (m * r), 1) if x.is_cpu else batch
    return [slice(start, start + size) for start in range(0, batch, size)]


def gram(x: Tensor, out: Tensor | None = None) -> Tensor:
    """`x x^T`, `(B, m, r)` to `(B, m, m)`.

    On a CPU by halves: the quarter above the diagonal is copied from the one below, and both on it
    are products of this kind again. On a GPU a launch more would cost what a product less saves.
    """
    m = x.shape[-2]
    product = x.new_empty(*x.shape[:-1], m) if out is None else out
    if not x.is_cpu or m <= _SMALL:
        return torch.bmm(x, x.mT, out=product)
    half = -(-m // 2)
    (one, other), (top, bottom) = x.split(half, dim=1), product.split(half, dim=1)
    (upper, right), (left, lower) = top.split(half, dim=2), bottom.split(half, dim=2)
    gram(one, out=upper)
    gram(other, out=lower)
    right.copy_(torch.bmm(other, one.mT, out=left).mT)
    return product
