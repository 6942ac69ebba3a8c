"""Squared Euclidean distances between points: of two sets, of all pairs, or when asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.numerics import threads
from otprune.numerics.products import gram

_BLOCK = 256  # points whose distances are finished at once


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """`|x_i - y_j|^2`, `(B, n, d)` and `(B, k, d)` to `(B, n, k)`.

    What is below rounding becomes zero: duplicates have distance zero, none is negative.
    """
    squares = _squares(x).unsqueeze(-1) + _squares(y).unsqueeze(-2)
    distance = squares - 2 * (x @ y.mT)
    noise = 8 * torch.finfo(x.dtype).eps * squares
    return torch.where(distance > noise, distance, 0.0)


def pairwise(x: Tensor) -> Tensor:
    """`squared_distances(x, x)`, `(B, m, m)`, without a second matrix of that size."""
    squares = _squares(x)
    distance = gram(x)

    def finish(some: tuple[Tensor, Tensor]) -> None:
        part, own = some
        sums = own.unsqueeze(-1) + squares.unsqueeze(-2)
        part.mul_(-2).add_(sums)
        part.masked_fill_(part <= sums.mul_(8 * torch.finfo(x.dtype).eps), 0.0)

    threads.spread(finish, zip(distance.split(_BLOCK, 1), squares.split(_BLOCK, 1), strict=True))
    return distance


class Points:
    """m points, `(m, d)`, whose distances are worked out when they are asked for."""

    def __init__(self, points: Tensor) -> None:
        self._points = points
        self._squares = _squares(points)

    def costs(self, mass: Tensor) -> Tensor:
        """`sum_i p_i |x_i - x_j|^2` for every j, `(m,)`."""
        mean = mass @ self._points
        return mass @ self._squares + self._squares - 2 * (self._points @ mean)

    def distances(self, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
        """As `pairwise` has them, `(n, n')`."""
        sums = self._squares[rows, None] + self._squares[columns]
        product = self._points[rows] @ self._points[columns].mT
        distance = torch.add(sums, product, alpha=-2, out=product)
        noise = 8 * torch.finfo(sums.dtype).eps
        if 0 in distance.shape or distance.amin() > noise * sums.amax():  # most often
            return distance
        return distance.masked_fill_(distance <= sums.mul_(noise), 0.0)


def _squares(x: Tensor) -> Tensor:
    """Squared lengths, `(..., d)` to `(...)`, without an array of the size of x."""
    lengths: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return lengths.square()
