"""The greedy log-determinant of a small set on a CPU, pick by pick."""

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

# Up to so many tokens of a set this takes no longer than speculation.
MOST = 1024
# Where at most one token in so many is kept, rows are formed on demand, some at once, if the factor
# is square, as OTPrune's: of narrow ones the whole matrix is cheap, wide ones are slow to read.
_FEW, _AT_ONCE = 8, 16
# The covariance of a token with all, given its place and the current gains of all.
Rows = Callable[[int, Array], Array]


def greedy(
    gains: Array,
    covariance: Rows,
    shift: float,
    most: int,
    stop: Callable[[int, int, float], bool] = lambda t, j, gain: False,
) -> tuple[Array, Array, Array]:
    """Greedy among p tokens in tie order: of those tied the first wins.

    Args:
        gains: `(p,)`, conditional variances less `shift`; `-inf` for tokens that are no candidates.
        covariance: given a place and the current gains, `(p,)`: that token's covariance with all,
            without `shift`, `(p,)`.
        shift: positive.
        most: the largest number of picks.
        stop: given the number of picks so far, the next place and the largest gain, whether to end
            before it.

    Returns:
        Places of the picks, `(n,)` int64; rows of the residual covariance at each pick, `(n, p)`;
        and the picks' variances, `(n,)`.
    """
    with threads.turn():
        return _greedy(gains, covariance, shift, most, stop)


def _greedy(
    gains: Array, covariance: Rows, shift: float, most: int, stop: Callable[[int, int, float], bool]
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
        known = np.einsum("s,sp->p", shares[j, :t], rows[:t])
        row = np.subtract(covariance(j, gains), known, out=rows[t])
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


def of_set(
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
    preferred = tie_order.argsort()
    ours = left.index_select(0, preferred)
    theirs = ours if left is right else right.index_select(0, preferred)
    gains = as_array(diagonal.index_select(0, preferred).clamp_(min=0))
    m, r = theirs.shape
    on_demand = k * _FEW <= m and r == m
    covariance = _OnDemand(ours, theirs) if on_demand else _whole(ours, theirs, gains)
    places, _, _ = greedy(gains, covariance, shift, k)
    return preferred.index_select(0, torch.from_numpy(places))


def _whole(ours: Tensor, theirs: Tensor, gains: Array) -> Rows:
    """Rows of `ours theirs^T`, formed beforehand in parallel tasks."""
    m = len(gains)
    matrix = aligned((m, m), gains.dtype)
    products.symmetric(ours, theirs, out=torch.from_numpy(matrix))
    return lambda j, _: matrix[j]


class _OnDemand:
    """Rows of `ours theirs^T`, `(m, m)`, formed when they are asked for, several at a time.

    A few rows cost little more than one, so those of largest gain are formed with it: the next
    picks, most likely. Asked for inside `threads.turn`.
    """

    def __init__(self, ours: Tensor, theirs: Tensor) -> None:
        self._ours, self._across = ours, theirs.mT
        self._rows: dict[int, Array] = {}
        self._missing = np.ones(len(ours), bool)

    def __call__(self, j: int, gains: Array) -> Array:
        if self._missing[j]:
            self._form(j, gains)
        return self._rows[j]

    def _form(self, j: int, gains: Array) -> None:
        wanted = np.where(self._missing, gains, -np.inf)
        wanted[j] = np.inf
        n = min(_AT_ONCE, len(wanted))
        some = wanted.argpartition(-n)[-n:]
        rows = aligned((n, len(wanted)), wanted.dtype)
        with threads.between_turns():
            ours = self._ours.index_select(0, torch.from_numpy(some))
            torch.mm(ours, self._across, out=torch.from_numpy(rows))
        self._rows |= zip(some.tolist(), rows, strict=True)
        self._missing[some] = False
