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
_SHARE, _LEAST, _MOST = 16, 64, 512
# Bytes that stay in a core's cache: then single rows are as cheap as many.
_CACHE = 2 << 20
# A round ends before variances have fallen by more than this: rounding would be magnified.
_DEPTH = 1e-4
# Behind every rank.
_NOBODY = np.iinfo(np.int64).max


class Factored(Protocol):
    """A positive semi-definite `M`, `(B, m, m)`, that is not formed."""

    def size(self) -> int:
        """Bytes that are read for one row."""

    def diagonal(self) -> Tensor:
        """`(B, m)`."""

    def rows(self, indices: Tensor, out: Tensor | None = None) -> Tensor:
        """`M[indices]`: `(B, n)` to `(B, n, m)`."""

    def block(self, indices: Tensor) -> Tensor:
        """`M[indices, indices]`: `(B, p)` to `(B, p, p)`."""


def greedy(M: Factored, k: int, rank: Tensor, shift: float) -> Tensor:
    """Tokens in the order they were picked, `(B, k)` int64; arguments as of `cholesky.greedy`.

    All sets go through the same rounds; one that cannot go on in a round waits for the others.
    A round of one pick needs no block. Such are all where the factor fits into the processor's
    cache, and after a round whose block was in vain, as at the start when tokens have much in
    common and each pick changes all that is left, the next 1, 2, 4, ...
    """
    excess, preference = as_array(M.diagonal().clamp_(min=0)), as_array(rank)
    batch, m = excess.shape
    block = min(m, max(_LEAST, min(_MOST, m // _SHARE)))
    factor, width = np.zeros((batch, k, m), excess.dtype), 0
    order, done = np.zeros((batch, k), np.int64), np.zeros(batch, np.int64)
    penalty, state = np.zeros_like(excess), np.empty_like(excess)
    each = np.arange(batch)[:, None]
    # Made once: what a single pick and its row are written to, by numpy here, by torch there.
    single, row = np.empty((batch, 1), np.int64), np.empty((batch, 1, m), excess.dtype)
    picks_, row_ = torch.from_numpy(single), torch.from_numpy(row)
    singles, pause = (k if M.size() <= _CACHE else 0), 1
    while True:
        np.add(excess, penalty, out=state)
        if singles:
            singles -= 1
            single[:, 0] = best_place(state, preference)[0]
            picks, valid = single, (done < k)[:, None]
            root = np.sqrt(excess[each, picks] + shift)[..., None]
        else:
            picks, valid, root = _round(
                M, state, preference, factor[:, :width], shift, block, k - done
            )
            singles, pause = (pause, 2 * pause) if picks.shape[1] == 1 else (0, 1)
        b, t = valid.nonzero()
        order[b, done[b] + t] = picks[b, t]
        penalty[b, picks[b, t]] = -np.inf
        done += valid.sum(axis=1)
        if done.min() == k:
            return torch.from_numpy(order)
        end = width + picks.shape[1]
        if end > factor.shape[1]:  # rows that waiting sets left empty
            factor = np.concatenate([factor, np.zeros_like(factor)], axis=1)
        known, rows = factor[:, :width], factor[:, width:end]
        own = _columns(known, picks)
        if picks is single:
            M.rows(picks_, out=row_)
            np.subtract(row, np.einsum("btn,btm->bnm", own, known), out=rows)
            rows /= root
        else:
            fresh = M.rows(torch.from_numpy(picks))
            fresh.baddbmm_(torch.from_numpy(own).mT, torch.from_numpy(known), alpha=-1)
            fresh = torch.linalg.solve_triangular(torch.from_numpy(root), fresh, upper=False)
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


def _round(
    M: Factored, state: Array, preference: Array, known: Array, shift: float, p: int, most: Array
) -> tuple[Array, Array, Array]:
    """Picks among the p tokens of largest excess: see `_picks`, with tokens for places."""
    each = np.arange(len(state))[:, None]
    chosen, outside = candidates(state, preference, p)
    own = torch.from_numpy(_columns(known, chosen))
    block = as_array(torch.baddbmm(M.block(torch.from_numpy(chosen)), own.mT, own, alpha=-1))
    places, valid, root = _picks(
        state[each, chosen], preference[each, chosen], block, shift, outside, most
    )
    return chosen[each, places], valid, root


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


def best_place(gains: Array, preference: Array) -> tuple[Array, Array]:
    """`ties.best` in numpy: places, `(B,)`, and the largest gains, `(B,)`."""
    top = gains.max(axis=1)
    tied = gains >= (top - TOLERANCE * np.abs(top))[:, None]
    return np.where(tied, preference, _NOBODY).argmin(axis=1), top


def candidates(state: Array, preference: Array, p: int) -> tuple[Array, Array]:
    """The p tokens of largest excess, `(B, p)`, and the largest excess outside, `(B,)`.

    The one to be picked first is always among them, however many tie with it.
    """
    batch, m = state.shape
    if p == m:
        return np.arange(m).repeat(batch).reshape(m, batch).T, np.full(batch, -np.inf)
    first, _ = best_place(state, preference)
    each = np.arange(batch)
    lowered = -state
    lowered[each, first] = -np.inf
    split = lowered.argpartition(p, axis=1)
    return split[:, :p], state[each, split[:, p]]


def _picks(
    state: Array, preference: Array, block: Array, shift: float, outside: Array, most: Array
) -> tuple[Array, Array, Array]:
    """Greedy among the candidates while no token outside can come into it.

    Args:
        state: `(B, p)`, their excess, `-inf` for those that are taken.
        preference: `(B, p)`.
        block: `(B, p, p)`, their covariance.
        shift: as ever.
        outside: `(B,)`, what no token outside exceeds.
        most: `(B,)`, the largest number to pick; the first pick is always good.

    Returns:
        Places of the picks, `(B, n)`; which of them count, `(B, n)`, the first ones of each row;
        and the lower Cholesky factor of their covariance plus shift, `(B, n, n)`, with the rows and
        columns of those that do not count replaced by the identity's.
    """
    batch, p = state.shape
    each = np.arange(batch)
    penalty = np.where(np.isinf(state), state, 0)
    excess = np.maximum(state, 0)
    n = int(min(most.max(), p))
    factor = np.empty((batch, n, p), block.dtype)
    places, counts = np.zeros((batch, n), np.int64), np.zeros((batch, n), bool)
    diagonal = np.ones((batch, n), block.dtype)
    active, floor = most > 0, np.zeros(batch)
    for t in range(n):
        j, top = best_place(excess + penalty, preference)
        if t:
            active &= (top * (1 - TOLERANCE) > outside) & (top + shift > floor) & (t < most)
            if not active.any():
                n = t
                break
        else:
            floor = _DEPTH * (top + shift)
        own = excess[each, j]
        diagonal[:, t] = np.where(active, np.sqrt(own + shift), 1)
        fresh = block[each, j] - np.einsum("bs,bsp->bp", factor[each, :t, j], factor[:, :t])
        fresh /= diagonal[:, t, None]
        limit = np.sqrt(excess * (own / (own + shift))[:, None])
        np.minimum(fresh, limit, out=fresh)
        np.maximum(fresh, -limit, out=fresh)
        fresh[~active] = 0
        factor[:, t] = fresh
        np.maximum(excess - fresh * fresh, 0, out=excess)
        penalty[each[active], j[active]] = -np.inf
        places[:, t], counts[:, t] = j, active
    places, counts = places[:, :n], counts[:, :n]
    root = np.tril(_columns(factor[:, :n], places).swapaxes(1, 2), -1)
    root *= counts[..., None]
    root[:, np.arange(n), np.arange(n)] = diagonal[:, :n]
    return places, counts, root
