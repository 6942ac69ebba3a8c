"""Products of matrices that are large, and some of whose structure is known."""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.tokens import at_hand

# Columns of a product that are made at once: more of them where there are so many.
_PANEL, _WIDER = 128, 2048
# What is worked on at once on a CPU: so many numbers, or a quarter of all.
_CACHED, _PARTS = 2**21, 4


def at_once(x: Tensor) -> int:
    """How many sets of `(B, m, r)` to work on at a time.

    On a CPU few, so that what is made of them is still in the processor's cache when it is used;
    but calls cost too, and so it is a quarter at least. Each thread has as many sets as another,
    since every product is made by one. On a GPU only calls count, and it is all sets.
    """
    batch, m, r = x.shape
    if not at_hand(x):
        return batch
    threads = torch.get_num_threads()
    few = max(-(-batch // _PARTS), _CACHED // (m * r), 1)
    return -(-few // threads) * threads


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
