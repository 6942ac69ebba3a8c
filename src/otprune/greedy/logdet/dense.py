"""The greedy log-determinant step by step, in a small matrix that is formed as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otprune.greedy.ties import TOLERANCE
from otprune.numerics import products, threads
from otprune.numerics.arrays import aligned, as_array

Array = NDArray[Any]

# Up to so many tokens of a set forming the matrix costs less than speculation saves.
MOST = 640


def greedy(
    gains: Array,
    matrix: Array,
    shift: float,
    most: int,
    stop: Callable[[int, int, float], bool] = lambda t, j, gain: False,
) -> tuple[Array, Array, Array]:
    """Greedy among p tokens in tie order: of those tied the first wins.

    Args:
        gains: `(p,)`, conditional variances less `shift`; `-inf` for tokens that are no candidates.
        matrix: `(p, p)`, their covariance without `shift`.
        shift: positive.
        most: the largest number of picks.
        stop: given the number of picks so far, the next place and the largest gain, whether to end
            before it.

    Returns:
        Places of the picks, `(n,)` int64; rows of the residual covariance at each pick, `(n, p)`;
        and the picks' variances, `(n,)`.
    """
    with threads.turn():
        return _greedy(gains, matrix, shift, most, stop)


def _greedy(
    gains: Array, matrix: Array, shift: float, most: int, stop: Callable[[int, int, float], bool]
) -> tuple[Array, Array, Array]:
    (p,) = gains.shape
    gains, floor = gains.copy(), np.where(np.isinf(gains), gains, 0)
    # Python numbers, since operations on arrays of one element take longer.
    places, variances = [], []
    rows, shares = np.empty((most, p), gains.dtype), np.empty((p, most), gains.dtype)
    for t in range(most):
        top = np.maximum.reduce(gains)
        j = (gains >= top * (1 - TOLERANCE)).argmax()
        if stop(t, j, top):
            break
        row = np.subtract(matrix[j], np.einsum("s,sp->p", shares[j, :t], rows[:t]), out=rows[t])
        # Rounding must not break Cauchy-Schwarz: no covariance exceeds the largest variance.
        np.minimum(row, top, out=row)
        np.maximum(row, -top, out=row)
        places.append(j)
        variances.append(gains[j] + shift)
        gains -= row * np.divide(row, variances[t], out=shares[:, t])
        gains[j] = floor[j] = -np.inf
        np.maximum(gains, floor, out=gains)
    n = len(places)
    return np.array(places, np.int64), rows[:n], np.array(variances, gains.dtype)


def whole(
    left: Tensor, right: Tensor, diagonal: Tensor, tie_order: Tensor, k: int, shift: float
) -> Tensor:
    """Tokens of one small set in the order they were picked, `(k,)` int64.

    Args:
        left: `(m, r)`.
        right: `(m, r)`, with `M = left right^T`; may be `left` itself.
        diagonal: of M, `(m,)`.
        tie_order: `(m,)`.
        k: as of `logdet.greedy`.
        shift: as of `logdet.greedy`.
    """
    m = len(tie_order)
    preferred = tie_order.argsort()
    ours = left.index_select(0, preferred)
    theirs = ours if left is right else right.index_select(0, preferred)
    gains = as_array(diagonal.index_select(0, preferred).clamp_(min=0))
    matrix = aligned((m, m), gains.dtype)
    products.symmetric(ours, theirs, out=torch.from_numpy(matrix))
    places, _, _ = greedy(gains, matrix, shift, k)
    return preferred.index_select(0, torch.from_numpy(places))
