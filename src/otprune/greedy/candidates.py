"""The few tokens of largest gain, among which a lazy greedy search looks first.

Gains never grow. So as long as the best candidate beats the largest gain outside at the time when
the candidates were chosen, no other token needs to be evaluated (Minoux, "Accelerated greedy
algorithms for maximizing submodular set functions", 1978). numpy arrays, on a CPU.

`covering` picks among candidates where a kept token lowers costs: each point pays its distance to
the nearest kept token.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from otprune.greedy.ties import TOLERANCE

Array = NDArray[Any]

# Behind every place in the tie order.
NOBODY = np.iinfo(np.int64).max
# Gains are worked out again when the largest is less than this share of what it was. Until then it
# exceeds the rounding of what was taken off by more than `TOLERANCE`.
_LEFT = 1e-8


def candidates(gains: Array, preference: Array, p: int) -> tuple[Array, float]:
    """The p tokens of largest gain, `(p,)` int64, and the largest gain outside.

    In tie order, so that the first of equal candidates wins. The next pick is always among them,
    however many tie with it.

    Args:
        gains: `(m,)`, `-inf` for tokens that are no candidates.
        preference: `(m,)`, places in the tie order.
        p: at most m.
    """
    if p == len(gains):
        return preference.argsort(), -np.inf
    top = gains.max()
    tied = gains >= top - TOLERANCE * np.abs(top)
    lowered = -gains
    lowered[np.where(tied, preference, NOBODY).argmin()] = -np.inf
    split = lowered.argpartition(p)
    chosen = split[:p]
    return chosen[preference[chosen].argsort()], float(gains[split[p]])


def best_place(gains: Array) -> tuple[int, float]:
    """`ties.best` among candidates in tie order: its place and the top gain.

    Gains are not negative, or `-inf`.
    """
    top = np.maximum.reduce(gains)
    return int((gains >= top * (1 - TOLERANCE)).argmax()), float(top)


def covering(
    near: Array, paid: Array, mass: Array, worth: Array, outside: float, most: int
) -> list[int]:
    """Places of the next picks, in order: one among c candidates, and more while they are greedy's.

    The gain of a candidate is its worth times what the n points would save by it. A pick changes
    gains only through the points that come nearer to a kept token by it, so gains are lowered pick
    by pick; in float64, and worked out again before what is left of them is mere rounding.

    Args:
        near: `(n, c)` float64, distances of points to candidates in tie order.
        paid: `(n,)` float64, what each point pays so far; lowered in place.
        mass: `(n,)` float64, of the points.
        worth: `(c,)` float64, non-negative; `-inf` for tokens that are taken.
        outside: the largest gain of tokens that are no candidates.
        most: the largest number of picks, at least 1.
    """
    least = np.where(worth < 0, worth, 0)
    worth = np.maximum(worth, 0)
    gains, exact = least, np.inf
    places: list[int] = []
    while len(places) < most:
        place, top = best_place(gains)
        if top < _LEFT * exact:
            gains = _saved(paid[:, None] - near, mass) * worth + least
            place, top = best_place(gains)
            exact = top
        if places and not top * (1 - TOLERANCE) > outside:
            break
        places.append(place)
        least[place] = -np.inf
        (nearer,) = np.nonzero(near[:, place] < paid)
        before, after = paid[nearer, None], near[nearer, place][:, None]
        gains -= _saved(before - np.maximum(near[nearer], after), mass[nearer]) * worth
        gains = np.maximum(gains, 0) + least
        paid[nearer] = after[:, 0]
    return places


def _saved(less: Array, mass: Array) -> Array:
    """`sum_i mass_i max(0, less_ij)`, `(n, c)` to `(c,)`; overwrites `less`."""
    # Not a product of numpy's, whose BLAS has threads of its own.
    saved: Array = np.einsum("n,nc->c", mass, np.maximum(less, 0, out=less))
    return saved
