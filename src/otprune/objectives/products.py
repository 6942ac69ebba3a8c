"""Products of matrices that are large, and some of whose structure is known."""

from __future__ import annotations

import torch
from torch import Tensor

_PANELS = 6
_SMALL = 256


def rows(x: Tensor, indices: Tensor) -> Tensor:
    """Rows `indices`, `(B, p)`, of `(B, m, r)`: `(B, p, r)`."""
    batch, m, r = x.shape
    if batch > 1:
        indices = indices + torch.arange(0, batch * m, m, device=x.device).unsqueeze(-1)
    return x.reshape(-1, r).index_select(0, indices.flatten()).view(batch, -1, r)


def parts(x: Tensor) -> list[slice]:
    """Slices of the first axis to be worked on one after the other.

    On a CPU each set is one, so that what is made of it is still in the processor's cache when it
    is used. On a GPU launches count, and all sets are one.
    """
    return [slice(b, b + 1) for b in range(len(x))] if x.is_cpu else [slice(None)]


def gram(x: Tensor, out: Tensor | None = None) -> Tensor:
    """`x x^T`, `(B, m, r)` to `(B, m, m)`.

    On a CPU the half above the diagonal is copied from the one below: of six row panels, 21 of 36
    blocks are multiplied. On a GPU a launch more would cost what a product less saves.
    """
    m = x.shape[-2]
    product = x.new_empty(*x.shape[:-1], m) if out is None else out
    if not x.is_cpu or m <= _SMALL:
        return torch.bmm(x, x.mT, out=product)
    size = -(-m // _PANELS)
    for one, square in zip(x, product, strict=True):
        for start in range(0, m, size):
            end = min(start + size, m)
            below = torch.mm(one[start:end], one[:end].mT, out=square[start:end, :end])
            square[:start, start:end] = below[:, :start].mT
    return product


def project(x: Tensor, rank: int, seed: int = 0) -> Tensor:
    """A random projection of the features, `(B, m, d)` to `(B, m, rank)`, rank <= d.

    Each feature is added to one of `rank` sums, with a random sign, so that inner products are
    right in the mean (Charikar, Chen and Farach-Colton, "Finding frequent items in data streams",
    ICALP 2002, the count sketch). O(m d): features are read once.
    """
    d = x.shape[-1]
    signs = random_signs(d, seed, x.device).to(x.dtype)
    sums = x[..., :rank] * signs[:rank]
    for start in range(rank, d, rank):
        part = x[..., start : start + rank]
        sums[..., : part.shape[-1]].addcmul_(part, signs[start : start + rank])
    return sums


def random_signs(n: int, seed: int, device: torch.device) -> Tensor:
    """`(n,)` int64, 1 or -1, the same on every device, where they are made: nothing is copied.

    The top bits of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014) at n places of its sequence, far from those of another seed. int64
    wraps around as its unsigned numbers do; shifts are masked, since they would copy the sign.
    """
    first = (seed << 32) + 1
    z = torch.arange(first, first + n, device=device) * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        z = (z ^ (z >> shift & (1 << 64 - shift) - 1)) * factor
    return 1 - 2 * (z < 0).long()
