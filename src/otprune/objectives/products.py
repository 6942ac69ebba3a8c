"""Products of matrices that are large, and some of whose structure is known."""

from __future__ import annotations

import torch
from torch import Tensor

_PANELS = 4
_SMALL = 256


def rows(x: Tensor, indices: Tensor) -> Tensor:
    """Rows `indices`, `(B, p)`, of `(B, m, r)`: `(B, p, r)`."""
    return x.gather(1, indices.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def gram(x: Tensor) -> Tensor:
    """`x x^T`, `(B, m, r)` to `(B, m, m)`.

    On a CPU the half above the diagonal is copied from the one below: of four row panels, 10 of 16
    blocks are multiplied. On a GPU a launch more would cost what a product less saves.
    """
    m = x.shape[-2]
    if not x.is_cpu or m <= _SMALL:
        return x @ x.mT
    product = x.new_empty(*x.shape[:-1], m)
    size = -(-m // _PANELS)
    for start in range(0, m, size):
        end = min(start + size, m)
        below = product[..., start:end, :end]
        if len(x) == 1:
            torch.mm(x[0, start:end], x[0, :end].mT, out=below[0])
        else:
            below.copy_(x[:, start:end] @ x[:, :end].mT)
        product[..., :start, start:end] = below[..., :start].mT
    return product


def project(x: Tensor, rank: int, seed: int = 0) -> Tensor:
    """A random projection of the features, `(B, m, d)` to `(B, m, rank)`, rank <= d.

    Each feature is added to one of `rank` sums, with a random sign, so that inner products are
    right in the mean (Charikar, Chen and Farach-Colton, "Finding frequent items in data streams",
    ICALP 2002, the count sketch). O(m d): features are read once. The signs are drawn on the CPU:
    the same on every device.
    """
    d = x.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (d,), generator=generator).mul_(2).sub_(1)
    signs = signs.to(x.device, x.dtype, non_blocking=True)
    sums = x[..., :rank] * signs[:rank]
    for start in range(rank, d, rank):
        part = x[..., start : start + rank]
        sums[..., : part.shape[-1]].addcmul_(part, signs[start : start + rank])
    return sums
