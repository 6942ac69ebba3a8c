"""Products of matrices that are large, and some of whose structure is known."""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.tokens import at_hand

# Columns of a product that are made at once: more of them where there are so many.
_PANEL, _WIDER = 128, 2048
# What is worked on at once on a CPU: so many numbers, or a third of all.
_CACHED, _PARTS = 2**21, 3


def rows(x: Tensor, places: Tensor) -> Tensor:
    """`(B, p, r)` of `(B, m, r)`: row i of set b has place `b m + i` in `places`, `(B, p)`."""
    return torch.embedding(x.reshape(-1, x.shape[-1]), places)


def parts(x: Tensor) -> list[slice]:
    """Slices of the first axis to be worked on one after the other.

    On a CPU a slice is of few sets, so that what is made of them is still in the processor's cache
    when it is used; but calls cost too, and there are three at most. Each thread has as many sets
    as another, since every product is made by one. On a GPU only calls count, and one slice is of
    all sets.
    """
    batch, m, r = x.shape
    size = batch
    if at_hand(x):
        threads = torch.get_num_threads()
        size = max(-(-batch // _PARTS), _CACHED // (m * r), 1)
        size = -(-size // threads) * threads
    return [slice(start, start + size) for start in range(0, batch, size)]


def gram(x: Tensor, out: Tensor | None = None) -> Tensor:
    """`x x^T`, `(B, m, r)` to `(B, m, m)`.

    On a CPU only what is on and below the diagonal, some columns at a time, which are then copied
    to the other side. On a GPU a launch more would cost what a product less saves.
    """
    batch, m, _ = x.shape
    product = x.new_empty(batch, m, m) if out is None else out
    width = _PANEL * -(-m // _WIDER)
    if not x.is_cpu or m <= width:
        return torch.bmm(x, x.mT, out=product)
    below, beyond = product.split(width, dim=2), product.mT.split(width, dim=2)
    for i, (some, left, right) in enumerate(zip(x.mT.split(width, 2), below, beyond, strict=True)):
        start, end = i * width, i * width + some.shape[2]
        # Not into `left`: of a batch, torch would then make one product after the other.
        columns = torch.bmm(x[:, start:], some)
        left[:, start:] = columns
        if end < m:
            right[:, end:] = columns[:, width:]
    return product
