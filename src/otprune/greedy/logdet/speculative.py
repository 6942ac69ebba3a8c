"""The greedy log-determinant of a large set on a CPU, by speculation: several picks at a time.

Pick by pick, all of the kernel's factor is read for one row, and memory, not arithmetic, sets the
pace. So this is done as speculative decoding is: a cheap draft, verified as a whole. The draft is
what greedy takes among the p tokens of largest excess, by their p x p block alone (`dense`). One
matrix product then conditions all tokens on the whole draft, and so tells what greedy would have
taken before each of its picks. The draft is accepted up to the first pick that greedy would not
have taken, ties included: what is kept is greedy's own, however good the draft. The first pick of
a round is always accepted.

Since gains never grow (Minoux, "Accelerated greedy algorithms for maximizing submodular set
functions", 1978), those of largest excess are the ones to look at. A draft goes on while greedy
keeps to the better half of them, or gains not much less than tokens outside had to offer at first:
beyond that one of those may well come before.

How many picks a round yields depends on the data, so the host must look. On a CPU it looks at its
own memory: the small arrays are numpy's, and torch writes into them. Nothing waits for anything.
Each set goes its own way, which is the same whatever other sets there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otprune.greedy.candidates import NOBODY, candidates
from otprune.greedy.logdet import dense
from otprune.greedy.ties import TOLERANCE
from otprune.numerics import products, threads
from otprune.numerics.arrays import aligned, as_array

Array = NDArray[Any]

# Candidates of a round: one token in so many, within limits.
_SHARE, _LEAST, _MOST = 16, 128, 512
# A draft may use candidates of at least this share of the largest gain outside.
_REACH = 0.7
# The longest draft, in percent of the candidates.
_PICKED = 40
# A draft ends before variances fall below this share of the first: rounding would be magnified.
_DEPTH = 1e-4
# Tokens of a task.
_PART = 512


def greedy(
    left: Tensor, right: Tensor, diagonal: Tensor, tie_order: Tensor, k: int, shift: float
) -> Tensor:
    """Tokens of one set in the order they were picked, `(k,)` int64; see `logdet.greedy`.

    Args:
        left: `(m, r)`.
        right: `(m, r)`, with `M = left right^T`; may be `left` itself.
        diagonal: of M, `(m,)`.
        tie_order: `(m,)`.
        k: as of `logdet.greedy`.
        shift: as of `logdet.greedy`.
    """
    gains, preference = as_array(diagonal.clamp(min=0)), as_array(tie_order)
    (m,) = gains.shape
    p = min(m, max(_LEAST, min(_MOST, m // _SHARE)))
    factor, block = aligned((k, m), gains.dtype), aligned((p, p), gains.dtype)
    order, done, least = np.zeros(k, np.int64), 0, np.zeros_like(gains)  # -inf for what is picked
    while True:
        known = factor[:done]
        chosen, outside = candidates(gains, preference, p)
        among = torch.from_numpy(chosen)
        ours = left.index_select(0, among)
        theirs = ours if left is right else right.index_select(0, among)
        own = torch.from_numpy(_columns(known, chosen))
        whole = products.times(ours, theirs.mT, out=torch.from_numpy(block))
        whole.addmm_(own.mT, own, alpha=-1)
        places, root = _draft(gains[chosen], block, shift, outside, k - done)
        picks = chosen[places]
        n = len(picks)
        # Small matrices first, before they become as wide as there are tokens.
        mix = _inverse(torch.from_numpy(root))
        own = torch.mm(mix, torch.from_numpy(_columns(known, picks)).mT)
        mixed = products.times(mix, ours.index_select(0, torch.from_numpy(places)))
        rows = factor[done : done + n]
        _eliminate(torch.from_numpy(rows), mixed, right.mT, own, torch.from_numpy(known))
        # Two facts that rounding breaks are imposed. No covariance exceeds what its two variances
        # allow (Cauchy-Schwarz); and, below, no excess is negative. Without the first, noise
        # divided by a small root would grow from step to step once all of M is eliminated.
        limit = np.sqrt(np.maximum(gains, 0))
        np.minimum(rows, limit, out=rows)
        np.maximum(rows, -limit, out=rows)
        after = _gains_before_each(gains, rows, picks)
        accepted = _accepted(after[:n], picks, preference)
        count = n if accepted.all() else int(accepted.argmin())
        order[done : done + count] = picks[:count]
        least[picks[:count]] = -np.inf
        done += count
        if done == k:
            return torch.from_numpy(order)
        gains = np.maximum(after[count], least)


def _eliminate(rows: Tensor, mixed: Tensor, across: Tensor, own: Tensor, known: Tensor) -> None:
    """`rows = mixed across - own known`, `(n, m)`."""

    def some(part: slice) -> None:
        here = torch.mm(mixed, across[:, part], out=rows[:, part])
        here.addmm_(own, known[:, part], alpha=-1)

    m = rows.shape[1]
    threads.spread(some, threads.parts(m, _PART if m >= 2 * _PART else m))


def _inverse(root: Tensor) -> Tensor:
    """Inverse of a lower triangle, by torch: numpy's BLAS threads would compete with torch's."""
    inverse: Tensor = torch.linalg.solve_triangular(
        root, torch.eye(len(root), dtype=root.dtype, device=root.device), upper=False
    )
    return inverse


def _columns(factor: Array, indices: Array) -> Array:
    """`(t, m)` and `(n,)` to `(t, n)`."""
    out = aligned((len(factor), len(indices)), factor.dtype)
    return factor.take(indices, axis=1, out=out, mode="clip")


def _gains_before_each(gains: Array, rows: Array, picks: Array) -> Array:
    """Gains of all tokens before each of n picks and after the last, `(n + 1, m)`.

    From the gains before the first, `(m,)`, and the picks' rows of the factor, `(n, m)`. Rounding
    may bring a gain below zero. `-inf` for tokens that are taken.
    """
    n, m = rows.shape
    after = np.empty((n + 1, m), rows.dtype)
    after[0] = gains
    falls = np.multiply(rows, rows, out=after[1:])
    falls[np.arange(n), picks] = np.inf
    for t in range(n):
        np.subtract(after[t], after[t + 1], out=after[t + 1])
    return after


def _accepted(gains: Array, picks: Array, preference: Array) -> Array:
    """Which drafted picks are those of `ties.best`: `(n,)`, from all gains, `(n, m)`.

    Gains that are not positive count as equal, except for `-inf`.
    """
    here = np.arange(len(picks)), picks
    own = gains[here]
    gains[here] = -np.inf
    others = gains.max(axis=1)
    gains[here] = own
    top = np.maximum(own, others)
    level = np.where(top > 0, top * (1 - TOLERANCE), np.finfo(gains.dtype).min)
    accepted: Array = own >= level
    (t,) = (accepted & (others >= level)).nonzero()
    tied = gains[t] >= level[t, None]
    accepted[t] = np.where(tied, preference, NOBODY).argmin(axis=1) == picks[t]
    return accepted


def _draft(
    gains: Array, block: Array, shift: float, outside: float, most: int
) -> tuple[Array, Array]:
    """The picks of greedy among the candidates alone, while their gains are large enough.

    Args:
        gains: `(p,)`, their excess, `-inf` for those that are taken; in tie order.
        block: `(p, p)`, their covariance.
        shift: as of `logdet.greedy`.
        outside: the largest gain of other tokens, `-inf` if there are none.
        most: the largest number to pick.

    Returns:
        Places of the picks, `(n,)`; and the lower Cholesky factor of their covariance plus shift,
        `(n, n)`, with anything above its diagonal.
    """
    (p,) = gains.shape
    most = min(most, p if outside < 0 else -(-p * _PICKED // 100))
    deep = _DEPTH * (max(gains.max(), 0) + shift) - shift
    enough = np.full(p, deep, gains.dtype)
    enough[gains.argpartition(p // 2)[: p // 2]] = max(deep, _REACH * outside)
    picks, rows, variances = dense.greedy(
        gains, lambda j, _: block[j], shift, most, lambda t, j, gain: t > 0 and not gain > enough[j]
    )
    n = len(picks)
    diagonal = np.sqrt(variances)
    root = aligned((n, n), gains.dtype)
    np.divide(rows[:, picks].T, diagonal, out=root)
    root[range(n), range(n)] = diagonal
    return picks, root
