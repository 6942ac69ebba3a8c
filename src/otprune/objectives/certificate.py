"""A guarantee for one kept set: its value, and a bound on that of every set of its size."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Certificate:
    """What a walk through a kept set proves about it.

    For a monotone submodular f and any set A (Nemhauser, Wolsey and Fisher, 1978),
    `f(best of size k) <= f(A) + sum of the k largest gains of tokens not in A`. `bound` is the
    least of these over the prefixes of the walk, the empty one first. It holds whatever the order;
    greedy order makes it tight.

    Attributes:
        value: of the kept set.
        bound: no set of the same size has a larger value.
        ratio: value / bound, 1.0 where nothing can be gained.
        reference: for objectives that are the decrease of a cost, the cost that they decrease from
            (the set costs `reference - value`, any set at least `reference - bound`); else None.
    """

    value: float
    bound: float
    ratio: float
    reference: float | None = None


def largest(gains: Tensor, k: int) -> float:
    """Sum of the k largest gains, `(m,)`, all non-negative."""
    return float(gains.topk(min(k, gains.shape[0])).values.sum())
