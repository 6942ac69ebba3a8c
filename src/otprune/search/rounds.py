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
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otprune.search.ties import TOLERANCE
from otprune.tokens import as_array

Array = NDArray[Any]

# Candidates of a round: a share of the tokens, within limits. More of them make fewer rounds, which
# is worth most where there is little to do in each: for a single set.
_SHARE, _LEAST, _ALONE, _MOST = 16, 96, 128, 512
# What not much less is, in terms of the best token outside.
_REACH = 0.7
# No guess is longer, in percent of the candidates.
_PICKED = 40
# A guess ends before variances have fallen by more than this: rounding would be magnified.
_DEPTH = 1e-4
# Those that are left are copied and go on alone when sets were so many times as many.
_FEW = 4
# Behind every rank.
_NOBODY = np.iinfo(np.int64).max


class Factored(Protocol):
    """A positive semi-definite `M`, `(B, m, m)`, that is not formed.

    Row i of set b has place `b m + i`.
    """

    def diagonal(self) -> Tensor:
        """`(B, m)`."""

    def rows(self, places: Tensor, mix: Tensor | None = None) -> Tensor:
        """`mix @ M[places]`: `(B, n)` to `(B, n, m)`, with `mix` `(B, n, n)` or the identity."""

    def block(self, places: Tensor) -> Tensor:
        """`M[places, places]`: `(B, p)` to `(B, p, p)`."""

    def of(self, sets: Tensor) -> Factored:
        """Some of the sets, `(b,)`."""


def greedy(M: Factored, k: int, rank: Tensor, shift: float) -> Tensor:
    """Tokens in the order they were picked, `(B, k)` int64; arguments as of `cholesky.greedy`.

    All sets go through the same rounds; one that cannot go on in a round waits for the others. When
    few are left that are not done, they go on alone.
    """
    gains, preference = as_array(M.diagonal().clamp_(min=0)), as_array(rank)
    batch, m = gains.shape
    p = min(m, max(_ALONE if batch == 1 else _LEAST, min(_MOST, m // _SHARE)))
    # Sets have rows of zeros where they wait for others.
    factor, width = np.empty((batch, k if batch == 1 else k + p // 2, m), gains.dtype), 0
    order, done = np.zeros((batch, k), np.int64), np.zeros(batch, np.int64)
    least, among = np.zeros_like(gains), np.arange(batch)  # -inf for what is picked
    while True:
        sets = np.arange(len(done))
        each, start = sets[:, None], sets[:, None] * m
        chosen, outside = candidates(gains, preference, p)
        known = torch.from_numpy(factor[:, :width])
        own = torch.from_numpy(_columns(factor[:, :width], chosen))
        block = np.empty((len(done), p, p), gains.dtype)
        whole = M.block(torch.from_numpy(start + chosen))
        torch.baddbmm(whole, own.mT, own, alpha=-1, out=torch.from_numpy(block))
        places, root = _guess(gains[each, chosen], block, shift, outside, k - done)
        picks = chosen[each, places]
        n = picks.shape[1]
        if width + n > factor.shape[1]:
            factor = np.concatenate([factor, np.empty_like(factor)], axis=1)
        # Small matrices first, before they become as wide as there are tokens.
        mix = _inverse(torch.from_numpy(root))
        own = torch.bmm(mix, torch.from_numpy(_columns(factor[:, :width], picks)).mT)
        whole = M.rows(torch.from_numpy(start + picks), mix).baddbmm_(own, known, alpha=-1)
        # The two facts that rounding breaks, see `cholesky.Elimination`; the other one is below.
        limit, rows = np.sqrt(np.maximum(gains, 0))[:, None], factor[:, width : width + n]
        torch.from_numpy(rows).copy_(whole)
        np.minimum(rows, limit, out=rows)
        np.maximum(rows, -limit, out=rows)
        after = _falling(gains, rows, picks)
        stands = _stand(after[:, :n], picks, preference) & (np.arange(n) < (k - done)[:, None])
        stands = np.logical_and.accumulate(stands, axis=1)
        b, t = stands.nonzero()
        order[among[b], done[b] + t] = picks[b, t]
        least[b, picks[b, t]] = -np.inf
        counts = stands.sum(axis=1)
        done += counts
        if done.min() == k:
            return torch.from_numpy(order)
        if not stands.all():
            rows *= stands[..., None]
        width += int(counts.max())
        gains = np.maximum(after[sets, counts], least)
        left = (done < k).nonzero()[0]
        if _FEW * len(left) <= len(done):
            M = M.of(torch.from_numpy(left))
            gains, preference, least, factor, done, among = (
                x[left] for x in (gains, preference, least, factor, done, among)
            )


def _inverse(root: Tensor) -> Tensor:
    """Of lower triangles. numpy has BLAS threads of its own, in the way of torch's."""
    one = torch.eye(root.shape[-1], dtype=root.dtype)
    inverse: Tensor = torch.linalg.solve_triangular(root, one, upper=False)
    return inverse


def _columns(factor: Array, indices: Array) -> Array:
    """`(B, t, m)` and `(B, n)` to `(B, t, n)`."""
    if len(factor) == 1:
        columns: Array = factor[0].take(indices[0], axis=1)[None]
        return columns
    return np.take_along_axis(factor, indices[:, None], axis=2)


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
    """What tokens gain before each of n picks and after the last, `(B, n + 1, m)`.

    From the gains at first, `(B, m)`, and the picks' rows of the factor, `(B, n, m)`. By rounding a
    gain may fall below zero. `-inf` for those that are taken.
    """
    batch, n, m = rows.shape
    after = np.empty((batch, n + 1, m), rows.dtype)
    after[:, 0] = gains
    falls = np.multiply(rows, rows, out=after[:, 1:])
    falls[np.arange(batch)[:, None], np.arange(n), picks] = np.inf
    for t in range(n):
        np.subtract(after[:, t], after[:, t + 1], out=after[:, t + 1])
    return after


def _stand(gains: Array, picks: Array, preference: Array) -> Array:
    """Where `ties.best` is the pick: `(B, n)`, from what tokens gain, `(B, n, m)`.

    Gains that are not positive are all alike, but for `-inf`.
    """
    here = (*np.indices(picks.shape), picks)
    own = gains[here]
    gains[here] = -np.inf
    others = gains.max(axis=2)
    gains[here] = own
    top = np.maximum(own, others)
    level = np.where(top > 0, top * (1 - TOLERANCE), np.finfo(gains.dtype).min)
    stand: Array = own >= level
    b, t = (stand & (others >= level)).nonzero()
    tied = gains[b, t] >= level[b, t, None]
    stand[b, t] = np.where(tied, preference[b], _NOBODY).argmin(axis=1) == picks[b, t]
    return stand


def _guess(
    gains: Array, block: Array, shift: float, outside: Array, most: Array
) -> tuple[Array, Array]:
    """What greedy takes among the candidates alone.

    Args:
        gains: `(B, p)`, their excess, `-inf` for those that are taken; in order of preference.
        block: `(B, p, p)`, their covariance.
        shift: as ever.
        outside: `(B,)`, the largest gain of other tokens, `-inf` if there are none.
        most: `(B,)`, the largest number to pick.

    Returns:
        Places of the picks, `(B, n)`, in some sets more than asked for; and the lower Cholesky
        factor of their covariance plus shift, `(B, n, n)`, with anything above its diagonal.
    """
    batch, p = gains.shape
    n = int(min(most.max(), p if (outside < 0).all() else -(-p * _PICKED // 100)))
    deep = _DEPTH * (np.maximum(gains.max(axis=1), 0) + shift) - shift
    enough = np.full((batch, p), deep[:, None], gains.dtype)
    worse = gains.argpartition(p // 2, axis=1)[:, : p // 2]
    enough[np.arange(batch)[:, None], worse] = np.maximum(deep, _REACH * outside)[:, None]
    if batch == 1:
        places, rows, variances = _greedily_alone(gains[0], block[0], shift, enough[0], n)
    else:
        enough[most == 0] = np.inf  # what is done does not go on
        places, rows, variances = _greedily(gains, block, shift, enough, n)
    root = np.sqrt(np.maximum(variances, shift))  # where nobody was left to pick
    factor = _columns(rows, places).swapaxes(1, 2) / root[:, None]
    factor[:, range(root.shape[1]), range(root.shape[1])] = root
    return places, factor


def _greedily(
    gains: Array, block: Array, shift: float, enough: Array, most: int
) -> tuple[Array, Array, Array]:
    """`_guess` while three of four sets go on.

    A set does until greedy comes to a token that gains no more than `enough`, `(B, p)`.

    Returns:
        Places, `(B, n)`; rows of the residual covariance at each pick, `(B, n, p)`; and the picks'
        variances, `(B, n)`.
    """
    batch, p = gains.shape
    sets = np.arange(batch)
    gains, floor = gains.copy(), np.where(np.isinf(gains), gains, 0)
    places, variances = np.zeros((most, batch), np.int64), np.empty((most, batch), gains.dtype)
    rows, shares = (np.empty((most, batch, p), gains.dtype) for _ in range(2))
    going, n = enough.min(axis=1) < np.inf, 0
    quorum = -(-3 * np.count_nonzero(going) // 4)
    for n in range(most):
        top = gains.max(axis=1, keepdims=True, initial=0)
        j = (gains >= top * (1 - TOLERANCE)).argmax(axis=1)
        here = sets, j
        if n > 0:
            going = going & (top[:, 0] > enough[here])
            if np.count_nonzero(going) < quorum:
                break
        # Not a product of numpy's BLAS, see `_inverse`.
        known = np.einsum("sb,sbp->bp", shares[:n, sets, j], rows[:n])
        row = np.subtract(block[here], known, out=rows[n])
        # What cannot be: no covariance exceeds the largest variance.
        np.minimum(row, top, out=row)
        np.maximum(row, -top, out=row)
        places[n], variances[n] = j, gains[here] + shift
        gains -= row * np.divide(row, variances[n, :, None], out=shares[n])
        gains[here] = floor[here] = -np.inf
        np.maximum(gains, floor, out=gains)
    else:
        n = most
    return places[:n].T, rows[:n].swapaxes(0, 1), variances[:n].T


def _greedily_alone(
    gains: Array, block: Array, shift: float, enough: Array, most: int
) -> tuple[Array, Array, Array]:
    """`_greedily` of one set, `(p,)`, with numbers instead of arrays, which take longer."""
    (p,) = gains.shape
    gains, floor = gains.copy(), np.where(np.isinf(gains), gains, 0)
    places, variances = [], []
    rows, shares = np.empty((most, p), gains.dtype), np.empty((p, most), gains.dtype)
    for n in range(most):
        top = np.maximum.reduce(gains)
        j = (gains >= top * (1 - TOLERANCE)).argmax()
        if n > 0 and not top > enough[j]:
            break
        row = np.subtract(block[j], np.einsum("s,sp->p", shares[j, :n], rows[:n]), out=rows[n])
        np.minimum(row, top, out=row)
        np.maximum(row, -top, out=row)
        places.append(j)
        variances.append(gains[j] + shift)
        gains -= row * np.divide(row, variances[n], out=shares[:, n])
        gains[j] = floor[j] = -np.inf
        np.maximum(gains, floor, out=gains)
    n = len(places)
    return np.array([places]), rows[None, :n], np.array([variances], gains.dtype)
