"""The greedy of `search.cholesky`, several picks at a time: how it is done on a CPU.

Pick by pick, all of the kernel's factor is read for one row, and memory, not arithmetic, sets the
pace. But gains never grow. So the p tokens of largest excess are looked at alone, by their p x p
block, and greedy goes on among them for as long as the best of them beats what the best token
outside had to offer when they were singled out: those picks are greedy's own, ties included. Only
then do all tokens hear of them, in one matrix product. (Lazy evaluation: Minoux, "Accelerated
greedy algorithms for maximizing submodular set functions", 1978; here in blocks.)

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

Array = NDArray[Any]

# Candidates of a round: a share of the tokens, within limits. More of them make fewer rounds.
_SHARE, _LEAST, _MOST = 16, 96, 512
# A round ends before variances have fallen by more than this: rounding would be magnified.
_DEPTH = 1e-4
# Behind every rank.
_NOBODY = np.iinfo(np.int64).max


class Factored(Protocol):
    """A positive semi-definite `M`, `(B, m, m)`, that is not formed."""

    def diagonal(self) -> Tensor:
        """`(B, m)`."""

    def rows(self, indices: Tensor, mix: Tensor | None = None) -> Tensor:
        """`mix @ M[indices]`: `(B, n)` to `(B, n, m)`, with `mix` `(B, n, n)` or the identity."""

    def block(self, indices: Tensor) -> Tensor:
        """`M[indices, indices]`: `(B, p)` to `(B, p, p)`."""


def greedy(M: Factored, k: int, rank: Tensor, shift: float) -> Tensor:
    """Tokens in the order they were picked, `(B, k)` int64; arguments as of `cholesky.greedy`.

    All sets go through the same rounds; one that cannot go on in a round waits for the others.
    """
    excess, preference = as_array(M.diagonal().clamp_(min=0)), as_array(rank)
    batch, m = excess.shape
    p = min(m, max(_LEAST, min(_MOST, m // _SHARE)))
    factor, width = np.zeros((batch, k, m), excess.dtype), 0
    order, done = np.zeros((batch, k), np.int64), np.zeros(batch, np.int64)
    penalty, each = np.zeros_like(excess), np.arange(batch)[:, None]
    while True:
        gains = excess + penalty
        chosen, outside = candidates(gains, preference, p)
        known = torch.from_numpy(factor[:, :width])
        own = torch.from_numpy(_columns(factor[:, :width], chosen))
        block = as_array(M.block(torch.from_numpy(chosen)).baddbmm_(own.mT, own, alpha=-1))
        places, valid, root = _picks(gains[each, chosen], block, shift, outside, k - done)
        picks = chosen[each, places]
        b, t = valid.nonzero()
        order[b, done[b] + t] = picks[b, t]
        penalty[b, picks[b, t]] = -np.inf
        done += valid.sum(axis=1)
        if done.min() == k:
            return torch.from_numpy(order)
        end = width + picks.shape[1]
        if end > factor.shape[1]:  # rows that waiting sets left empty
            factor = np.concatenate([factor, np.zeros_like(factor)], axis=1)
        # Small matrices first, before they become as wide as there are tokens.
        mix = torch.from_numpy(np.linalg.inv(root))
        own = torch.bmm(mix, torch.from_numpy(_columns(factor[:, :width], picks)).mT)
        fresh = M.rows(torch.from_numpy(picks), mix).baddbmm_(own, known, alpha=-1)
        rows = factor[:, width:end]
        torch.from_numpy(rows).copy_(fresh)
        if not valid.all():
            rows *= valid[..., None]
        # The two facts that rounding breaks, see `cholesky.Elimination`.
        limit = np.sqrt(excess)[:, None]
        np.minimum(rows, limit, out=rows)
        np.maximum(rows, -limit, out=rows)
        excess -= np.einsum("bnm,bnm->bm", rows, rows)
        np.maximum(excess, 0, out=excess)
        width = end


def as_array(tensor: Tensor) -> Array:
    """A numpy array of the same values: the tensor is copied into it, nothing is read out."""
    array = np.empty(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
    torch.from_numpy(array).copy_(tensor)
    return array


def _columns(factor: Array, indices: Array) -> Array:
    """`(B, t, m)` and `(B, n)` to `(B, t, n)`."""
    if len(factor) == 1:
        return factor[:, :, indices[0]]
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


def _picks(
    gains: Array, block: Array, shift: float, outside: Array, most: Array
) -> tuple[Array, Array, Array]:
    """Greedy among the candidates while no token outside can come into it.

    Args:
        gains: `(B, p)`, their excess, `-inf` for those that are taken; in order of preference.
        block: `(B, p, p)`, their covariance.
        shift: as ever.
        outside: `(B,)`, what no token outside exceeds.
        most: `(B,)`, the largest number to pick; the first pick is always good.

    Returns:
        Places of the picks, `(B, n)`; which of them count, `(B, n)`, the first ones of each row;
        and the lower Cholesky factor of their covariance plus shift, `(B, n, n)`, with the rows and
        columns of those that do not count replaced by the identity's.
    """
    batch, p = gains.shape
    each, n = np.arange(batch), int(min(most.max(), p))
    excess, penalty = np.maximum(gains, 0), np.where(np.isinf(gains), gains, 0)
    factor, diagonal = np.empty((batch, n, p), block.dtype), np.ones((batch, n), block.dtype)
    places, counts = np.zeros((batch, n), np.int64), np.zeros((batch, n), bool)
    level = np.where(most > 0, -np.inf, np.inf)
    for t in range(n):
        j, top = best_place(gains)
        good = top > level  # and no longer from the first time on that it is not
        if not good.any():
            n = t
            break
        places[:, t], counts[:, t] = j, good
        if t == 0:
            deep = _DEPTH * (top + shift) - shift
            level = np.maximum(level, np.maximum(outside / (1 - TOLERANCE), deep))
        root = np.sqrt(excess[each, j] + shift)
        # Not a product of BLAS, whose threads would be in the way of torch's.
        known = np.einsum("bs,bsp->bp", factor[each, :t, j], factor[:, :t])
        fresh = (block[each, j] - known) / root[:, None]
        # What cannot be, see `cholesky.Elimination`.
        limit = np.sqrt(excess)
        np.minimum(fresh, limit, out=fresh)
        np.maximum(fresh, -limit, out=fresh)
        factor[:, t], diagonal[:, t] = fresh, root
        excess = np.maximum(excess - fresh * fresh, 0)
        penalty[each, j] = -np.inf
        gains = excess + penalty
    places, counts = places[:, :n], counts[:, :n] & (np.arange(n) < most[:, None])
    root = np.tril(_columns(factor[:, :n], places).swapaxes(1, 2), -1)
    root *= counts[..., None]
    root[:, np.arange(n), np.arange(n)] = np.where(counts, diagonal[:, :n], 1)
    return places, counts, root
