"""Fewer features, by chance: tokens with columns at unit length, projected without making them.

Each feature is added to one of `rank` sums, with a random sign, so that inner products are right in
the mean (Charikar, Chen and Farach-Colton, "Finding frequent items in data streams", ICALP 2002,
the count sketch).
"""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.tokens import column_lengths

# Numbers a set that are worked on at once: what is made of them stays in a processor's cache.
_CACHED = 1_200_000


def unit_columns_norms(
    tokens: Tensor,
    rank: int,
    weights: Tensor | None = None,
    length: float | Tensor = 1.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """`tokens.unit_columns_norms`, with the columns projected to `rank`, at most d of them.

    `(B, m, rank)` and `(B, m)` in O(m d) time. Memory beside the result is that of some columns,
    `rank` at least: they are read from the tokens, made unit and added up a few at a time.
    """
    batch, m, d = tokens.shape
    width = rank * max(1, _CACHED // (m * rank))
    signs = random_signs(d, seed, tokens.device).to(tokens.dtype)
    room = tokens.new_empty(batch, m, min(width, d))
    sums, squares, largest = tokens.new_zeros(batch, m, rank), [], []
    for part, sign in zip(tokens.split(width, dim=-1), signs.split(width), strict=True):
        n = len(sign)
        here = room if n == room.shape[-1] else room[..., :n]
        by, square, size = column_lengths(part, here, weights, length)
        squares.append(square)
        largest.append(size.squeeze(-1))
        for columns, signed in zip(part.split(rank, -1), (by * sign).split(rank, -1), strict=True):
            n = columns.shape[-1]
            (sums if n == rank else sums[..., :n]).addcdiv_(columns, signed)
    sizes = torch.stack(largest)
    share = (sizes / sizes.amax(dim=0).clamp_(min=torch.finfo(sizes.dtype).tiny)).square_()
    return sums, torch.stack(squares).mul_(share).sum(dim=0).sqrt_()


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
