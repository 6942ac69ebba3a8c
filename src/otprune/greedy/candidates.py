"""The few tokens of largest gain, among which a lazy greedy search looks first.

Gains never grow. So as long as the best candidate beats the largest gain outside at the time when
the candidates were chosen, no other token needs to be evaluated (Minoux, "Accelerated greedy
algorithms for maximizing submodular set functions", 1978). numpy arrays, on a CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from otprune.greedy.ties import TOLERANCE

Array = NDArray[Any]

# Behind every place in the tie order.
NOBODY = np.iinfo(np.int64).max


def candidates(gains: Array, preference: Array, p: int) -> tuple[Array, Array]:
    """The p tokens of largest gain, `(B, p)`, and the largest gain outside, `(B,)`.

    In tie order, so that the first of equal candidates wins. The next pick is always among them,
    however many tie with it.
    """
    batch, m = gains.shape
    if p == m:
        return preference.argsort(axis=1), np.full(batch, -np.inf)
    top = gains.max(axis=1, keepdims=True)
    tied = gains >= top - TOLERANCE * np.abs(top)
    first = np.where(tied, preference, NOBODY).argmin(axis=1)
    each = np.arange(batch)
    lowered = -gains
    lowered[each, first] = -np.inf
    split = lowered.argpartition(p, axis=1)
    outside, each = gains[each, split[:, p]], each[:, None]
    chosen = split[:, :p]
    return chosen[each, preference[each, chosen].argsort(axis=1)], outside


def best_place(gains: Array) -> tuple[Array, Array]:
    """`ties.best` among candidates in tie order: places, `(B,)`, and top gains, `(B,)`.

    Gains are not negative, or `-inf`.
    """
    top = gains.max(axis=1)
    return (gains >= (top * (1 - TOLERANCE))[:, None]).argmax(axis=1), top
