"""Random projection of tokens to fewer features, with columns at unit length.

Each feature is added to one of `rank` sums with a random sign, so that inner products are right in
expectation (Charikar, Chen and Farach-Colton, "Finding frequent items in data streams", ICALP 2002,
the count sketch).
"""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.numerics.arrays import by_tokens, host_readable
from otprune.numerics.normalize import column_lengths

# Columns of a part, on a device.
_WIDTH = 2048


def unit_columns_norms(
    tokens: Tensor,
    rank: int,
    weights: Tensor | None = None,
    length: float | Tensor = 1.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """`normalize.unit_columns_norms`, with the columns projected to `rank`, at most d of them.

    `(B, m, rank)` and `(B, m)` in O(m d) time. The normalised tokens are never held as a whole.
    """
    signs = random_signs(tokens.shape[-1], seed, tokens.device).to(tokens.dtype)
    sums = tokens.new_zeros(*tokens.shape[:2], rank)
    if host_readable(tokens):
        by, squares, _ = column_lengths(tokens, weights, length)
        by.mul_(signs)
        by_tokens(lambda some: _add_up(sums[:, some], tokens[:, some], by), tokens)
        return sums, squares.sqrt_()
    parts = []
    for part, sign in zip(tokens.split(_WIDTH, dim=-1), signs.split(_WIDTH), strict=True):
        by, *sizes = column_lengths(part, weights, length)
        parts.append(sizes)
        _add_up(sums, part, by * sign)
    squares, largest = (torch.stack(x) for x in zip(*parts, strict=True))
    size = largest.squeeze(-1)
    share = (size / size.amax(dim=0).clamp_(min=torch.finfo(size.dtype).tiny)).square_()
    return sums, squares.mul_(share).sum(dim=0).sqrt_()


def _add_up(sums: Tensor, tokens: Tensor, by: Tensor) -> None:
    """Add all columns, divided by `by`, to `rank` sums."""
    rank = sums.shape[-1]
    for columns, signed in zip(tokens.split(rank, -1), by.split(rank, -1), strict=True):
        n = columns.shape[-1]
        (sums if n == rank else sums[..., :n]).addcdiv_(columns, signed)


def random_signs(n: int, seed: int, device: torch.device) -> Tensor:
    """`(n,)` int64, 1 or -1, the same on every device, where they are made: nothing is copied.

    The top bits of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014) at n places of its sequence, far from those of another seed. int64
    wraps around as unsigned numbers do; shifts are masked, since they would copy the sign bit.
    """
    first = (seed << 32) + 1
    z = torch.arange(first, first + n, device=device) * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        z = (z ^ (z >> shift & (1 << 64 - shift) - 1)) * factor
    return 1 - 2 * (z < 0).long()
