"""A guarantee for one kept set: its value, and a bound on that of every set of its size."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Certificate:
    """What a walk through a kept set proves about it.

    For a monotone submodular f and any set A (Nemhauser, Wolsey and Fisher, 1978),
    `f(best of size k) <= f(A) + sum of the k largest gains of tokens not in A`. `bound` is the
    least of these bounds over all prefixes of the walk, the empty one among them. It holds for any
    order; greedy order makes it tight. It speaks of the kept tokens as they are, unmerged.

    Attributes:
        value: of the kept set.
        bound: no set of the same size has a larger value.
        ratio: value / bound, 1.0 where the bound is zero.
        shares: `(k,)`, of the bound that the first 1, 2, ..., k tokens of the walk reach; never
            falls, and ends at `ratio`.
        reference: for objectives that are the decrease of a cost, the cost that they decrease from
            (the set costs `reference - value`, any set at least `reference - bound`); else None.
    """

    value: float
    bound: float
    ratio: float
    shares: tuple[float, ...]
    reference: float | None = None


def certificate(
    values: list[float], bound: float, noise: float = 0.0, reference: float | None = None
) -> Certificate:
    """From the values of a walk's prefixes, 1 to k tokens; a bound within `noise` is nothing."""
    shares = tuple(value / bound if bound > noise else 1.0 for value in values)
    return Certificate(values[-1], bound, shares[-1], shares, reference)


def largest(gains: Tensor, k: int) -> float:
    """Sum of the k largest gains, `(m,)`, all non-negative."""
    return float(gains.topk(min(k, gains.shape[0])).values.sum())
