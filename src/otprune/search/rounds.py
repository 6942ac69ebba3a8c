"""The greedy of `search.cholesky`, several picks at a time: how it is done on a CPU.

Pick by pick, all of the kernel's factor is read for one row, and memory, not arithmetic, sets the
pace. Here the next picks are guessed and then looked at together. The guess is what greedy takes
among the p tokens of largest excess, by their p x p block alone. One matrix product tells all
tokens of the whole guess, and so what greedy would have taken before each of its picks. It stands
up to the first that greedy would not have taken, ties included: what is kept is greedy's own,
however good the guess. The first pick of a round always stands.

Since gains never grow (Minoux, "Accelerated greedy algorithms for maximizing submodular set
functions", 1978), those of largest excess are the ones to look at. A guess goes on while greedy
keeps to the better half of them, or gains not much less than tokens outside had to offer at first:
beyond that one of those may well come before.

How many picks a round yields depends on the data, so the host must look. On a CPU it looks at its
own memory: the small arrays are numpy's, and torch writes into them. Nothing waits for anything.
Each set goes its own way, which is the same whatever other sets there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otprune import threads
from otprune.search.ties import TOLERANCE
from otprune.tokens import aligned, as_array

Array = NDArray[Any]

# Candidates of a round: a share of the tokens, within limits.
_SHARE, _LEAST, _MOST = 16, 128, 512
# What not much less is, in terms of the best token outside.
_REACH = 0.7
# No guess is longer, in percent of the candidates.
_PICKED = 40
# A guess ends before variances have fallen by more than this: rounding would be magnified.
_DEPTH = 1e-4
# So many tokens need no guess: M of a small set is soon formed, and greedy goes through it at once.
SMALL = 640
# Tokens that are looked at together: a task.
_PART = 512
# Behind every rank.
_NOBODY = np.iinfo(np.int64).max


def greedy(
    left: Tensor, right: Tensor, diagonal: Tensor, rank: Tensor, k: int, shift: float
) -> Tensor:
    """Tokens of one set in the order they were picked, `(k,)` int64; see `cholesky.greedy`.

    Args:
        left: `(m, r)`.
        right: `(m, r)`, with `M = left right^T`; may be `left` itself.
        diagonal: of M, `(m,)`.
        rank: `(m,)`.
        k: as ever.
        shift: as ever.
    """
    gains, preference = as_array(diagonal.clamp(min=0)), as_array(rank)
    (m,) = gains.shape
    p = min(m, max(_LEAST, min(_MOST, m // _SHARE)))
    factor, block = aligned((k, m), gains.dtype), aligned((p, p), gains.dtype)
    order, done, least = np.zeros(k, np.int64), 0, np.zeros_like(gains)  # -inf for what is picked
    while True:
        known = factor[:done]
        (chosen,), (outside,) = candidates(gains[None], preference[None], p)
        among = torch.from_numpy(chosen)
        ours = left.index_select(0, among)
        theirs = ours if left is right else right.index_select(0, among)
        own = torch.from_numpy(_columns(known, chosen))
        whole = threads.times(ours, theirs.mT, out=torch.from_numpy(block))
        whole.addmm_(own.mT, own, alpha=-1)
        places, root = _guess(gains[chosen], block, shift, outside, k - done)
        picks = chosen[places]
        n = len(picks)
        # Small matrices first, before they become as wide as there are tokens.
        mix = _inverse(torch.from_numpy(root))
        own = torch.mm(mix, torch.from_numpy(_columns(known, picks)).mT)
        mixed = threads.times(mix, ours.index_select(0, torch.from_numpy(places)))
        rows = factor[done : done + n]
        _eliminate(torch.from_numpy(rows), mixed, right.mT, own, torch.from_numpy(known))
        # The two facts that rounding breaks, see `cholesky.Elimination`; the other one is below.
        limit = np.sqrt(np.maximum(gains, 0))
        np.minimum(rows, limit, out=rows)
        np.maximum(rows, -limit, out=rows)
        after = _falling(gains, rows, picks)
        stands = _stand(after[:n], picks, preference)
        count = n if stands.all() else int(stands.argmin())
        order[done : done + count] = picks[:count]
        least[picks[:count]] = -np.inf
        done += count
        if done == k:
            return torch.from_numpy(order)
        gains = np.maximum(after[count], least)


def at_once(sets: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], k: int, shift: float) -> Tensor:
    """`greedy` of small sets of one size, `(B, k)`: by its own definition, in M as a whole.

    All go through the same steps, and none looks at another: what is in a row is numpy's arithmetic
    element by element.

    Args:
        sets: of each `left`, `right`, `diagonal` and `rank`.
        k: as ever.
        shift: as ever.
    """
    batch, (m,) = len(sets), sets[0][3].shape
    gains = as_array(torch.stack([diagonal for _, _, diagonal, _ in sets]).clamp_(min=0))
    preference = as_array(torch.stack([rank for *_, rank in sets]))
    each, blocks = np.arange(batch), [aligned((m, m), gains.dtype) for _ in sets]
    for (left, right, *_), block in zip(sets, blocks, strict=True):
        threads.gram(left, right, out=torch.from_numpy(block))
    floor, order = np.zeros_like(gains), np.empty((batch, k), np.int64)
    rows, shares = (np.empty((k, batch, m), gains.dtype) for _ in range(2))
    for n in range(k):
        top = gains.max(axis=1, keepdims=True)
        tied = gains >= top * (1 - TOLERANCE)
        j = np.where(tied, preference, _NOBODY).argmin(axis=1)
        order[:, n] = j
        if n == k - 1:
            break
        here, row = (each, j), rows[n]
        for b, block in enumerate(blocks):
            row[b] = block[j[b]]
        row -= np.einsum("sb,sbp->bp", shares[:n, each, j], rows[:n])
        # What cannot be: no covariance exceeds the largest variance.
        np.minimum(row, top, out=row)
        np.maximum(row, -top, out=row)
        gains -= row * np.divide(row, (gains[here] + shift)[:, None], out=shares[n])
        gains[here] = floor[here] = -np.inf
        np.maximum(gains, floor, out=gains)
    return torch.from_numpy(order)


def _eliminate(rows: Tensor, mixed: Tensor, across: Tensor, own: Tensor, known: Tensor) -> None:
    """`rows = mixed across - own known`, `(n, m)`."""

    def some(part: slice) -> None:
        here = torch.mm(mixed, across[:, part], out=rows[:, part])
        here.addmm_(own, known[:, part], alpha=-1)

    m = rows.shape[1]
    threads.spread(some, threads.parts(m, _PART if m >= 2 * _PART else m))


def _inverse(root: Tensor) -> Tensor:
    """Of lower triangles. numpy has BLAS threads of its own, in the way of torch's."""
    inverse: Tensor = torch.linalg.solve_triangular(
        root, torch.eye(len(root), dtype=root.dtype, device=root.device), upper=False
    )
    return inverse


def _columns(factor: Array, indices: Array) -> Array:
    """`(t, m)` and `(n,)` to `(t, n)`."""
    out = aligned((len(factor), len(indices)), factor.dtype)
    return factor.take(indices, axis=1, out=out, mode="clip")


def candidates(gains: Array, preference: Array, p: int) -> tuple[Array, Array]:
    """The p tokens of largest gain, `(B, p)`, and the largest gain outside, `(B,)`.

    In order of preference, so that the first of equal ones is the one to take. The one to be picked
    first is always among them, however many tie with it.
    """
    batch, m = gains.shape
    if p == m:
        return preference.argsort(axis=1), np.full(batch, -np.inf)
    top = gains.max(axis=1, keepdims=True)
    tied = gains >= top - TOLERANCE * np.abs(top)
    first = np.where(tied, preference, _NOBODY).argmin(axis=1)
    each = np.arange(batch)
    lowered = -gains
    lowered[each, first] = -np.inf
    split = lowered.argpartition(p, axis=1)
    outside, each = gains[each, split[:, p]], each[:, None]
    chosen = split[:, :p]
    return chosen[each, preference[each, chosen].argsort(axis=1)], outside


def best_place(gains: Array) -> tuple[Array, Array]:
    """`ties.best` among candidates in order of preference: places, `(B,)`, and top gains, `(B,)`.

    Gains are not negative, or `-inf`.
    """
    top = gains.max(axis=1)
    return (gains >= (top * (1 - TOLERANCE))[:, None]).argmax(axis=1), top


def _falling(gains: Array, rows: Array, picks: Array) -> Array:
    """What tokens gain before each of n picks and after the last, `(n + 1, m)`.

    From the gains at first, `(m,)`, and the picks' rows of the factor, `(n, m)`. By rounding a
    gain may fall below zero. `-inf` for those that are taken.
    """
    n, m = rows.shape
    after = np.empty((n + 1, m), rows.dtype)
    after[0] = gains
    falls = np.multiply(rows, rows, out=after[1:])
    falls[np.arange(n), picks] = np.inf
    for t in range(n):
        np.subtract(after[t], after[t + 1], out=after[t + 1])
    return after


def _stand(gains: Array, picks: Array, preference: Array) -> Array:
    """Where `ties.best` is the pick: `(n,)`, from what tokens gain, `(n, m)`.

    Gains that are not positive are all alike, but for `-inf`.
    """
    here = np.arange(len(picks)), picks
    own = gains[here]
    gains[here] = -np.inf
    others = gains.max(axis=1)
    gains[here] = own
    top = np.maximum(own, others)
    level = np.where(top > 0, top * (1 - TOLERANCE), np.finfo(gains.dtype).min)
    stand: Array = own >= level
    (t,) = (stand & (others >= level)).nonzero()
    tied = gains[t] >= level[t, None]
    stand[t] = np.where(tied, preference, _NOBODY).argmin(axis=1) == picks[t]
    return stand


def _guess(
    gains: Array, block: Array, shift: float, outside: float, most: int
) -> tuple[Array, Array]:
    """What greedy takes among the candidates alone, while they gain more than is enough.

    Args:
        gains: `(p,)`, their excess, `-inf` for those that are taken; in order of preference.
        block: `(p, p)`, their covariance.
        shift: as ever.
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
    picks, rows, variances = _greedily(gains, block, shift, enough, most)
    n = len(picks)
    diagonal = np.sqrt(variances)
    root = aligned((n, n), gains.dtype)
    np.divide(rows[:, picks].T, diagonal, out=root)
    root[range(n), range(n)] = diagonal
    return picks, root


def _greedily(
    gains: Array, block: Array, shift: float, enough: Array, most: int
) -> tuple[Array, Array, Array]:
    """Greedy by its own definition, until it comes to a token that gains no more than `enough`.

    Returns:
        Places of at least one and at most `most` picks, `(n,)`; rows of the residual covariance at
        each pick, `(n, p)`; and the picks' variances, `(n,)`.
    """
    (p,) = gains.shape
    gains, floor = gains.copy(), np.where(np.isinf(gains), gains, 0)
    # Numbers where there is one of each, since arrays take longer.
    places, variances = [], []
    rows, shares = np.empty((most, p), gains.dtype), np.empty((p, most), gains.dtype)
    for n in range(most):
        top = np.maximum.reduce(gains)
        j = (gains >= top * (1 - TOLERANCE)).argmax()
        if n > 0 and not top > enough[j]:
            break
        row = np.subtract(block[j], np.einsum("s,sp->p", shares[j, :n], rows[:n]), out=rows[n])
        # What cannot be: no covariance exceeds the largest variance.
        np.minimum(row, top, out=row)
        np.maximum(row, -top, out=row)
        places.append(j)
        variances.append(gains[j] + shift)
        gains -= row * np.divide(row, variances[n], out=shares[:, n])
        gains[j] = floor[j] = -np.inf
        np.maximum(gains, floor, out=gains)
    n = len(places)
    return np.array(places), rows[:n], np.array(variances, gains.dtype)
