"""The greedy of `search.cover` for many tokens on a CPU, without all their distances at once.

A pick matters to a token that comes nearer to a kept one by it, and only to such: each pick lowers
the gains of all candidates by what its own tokens no longer have to offer. After t picks a token
has about `m / t` others nearer than its nearest kept one, and nothing else is ever asked of it.

*At first* these are too many to be held. One pass over all distances, in blocks, works out the
gains after the first pick, and sets aside each distance twice: exactly, if it is among the
shortest of one of its tokens, and as an integer of 16 bits. From the latter follow gains with a
bound on their error; those which may be the best are worked out exactly. *Later*, when hardly any
token has others nearer than those set aside exactly, these are all there is to look at, and the
gains are exact.

Minoux, "Accelerated greedy algorithms for maximizing submodular set functions", 1978, has the
idea of bounds; the picks are those of `search.cover.steps`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otprune.search.ties import TOLERANCE, best
from otprune.tokens import as_array

Array = NDArray[Any]

# Tokens whose distances to as many others are worked on at once.
_BLOCK = 512
# From so many tokens a threshold is guessed that has `_NEAR` others below it.
_SAMPLE, _NEAR = 256, 512
# Distances are exact from when all but one token in so many have no others nearer.
_STRAGGLERS = 8
# Candidates whose gains are worked out exactly at once; more than one for the sake of speed.
_LEAST, _MOST = 16, 256
_FEW = 8
# Distances above so many times the usual one have no integers: few tokens would spoil the rest.
_USUAL = 8.0
# Integers are from minus to plus so much, and half a unit off, and what rounding adds to that.
_MIDDLE, _HALF = 32767, 0.51
# Numbers that are worked on at once.
_CACHED = 1 << 17
# Pairs that are looked at at once.
_AT_ONCE = 1 << 20
# Gains are summed up again when they have fallen to this share of what they were.
_AFRESH = 1e-3
# How far sums of 32 bits are from the truth, in terms of the largest gain.
_ROUNDING = 1e-6


class Points(Protocol):
    """m tokens between which distances are known."""

    def costs(self, mass: Tensor) -> Tensor:
        """What each would cost if it alone were kept, but for rounding, `(m,)`."""

    def distances(self, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
        """From some tokens to others, `(n, n')`, non-negative, the same in both directions."""


def greedy(points: Points, mass: Tensor, k: int, rank: Tensor) -> Tensor:
    """Tokens in the order they were picked, `(k,)` int64.

    Args:
        points: m tokens.
        mass: `(m,)`, sums to 1.
        k: number of tokens, at most m.
        rank: `(m,)`, who wins ties (`ties.preference`).
    """
    bound, usual, far = _sample(points, len(mass))
    costs = points.costs(mass)
    while True:
        first = int(best((mass @ far - costs)[None], rank[None]))
        state = _Early(points, mass, rank, bound, first, _USUAL * usual)
        costs, far = state.costs, state.far
        if int(best((mass @ far - costs)[None], rank[None])) == first:
            break
    while len(state.order) < k and state.stragglers() * _STRAGGLERS > len(mass):
        state.step()
    order = state.order
    if len(order) < k:
        state.later().run(order, k)
    return torch.tensor(order)


def _sample(points: Points, m: int) -> tuple[Tensor, float, Tensor]:
    """From some tokens: below what a token has `_NEAR` others, the usual and the largest distance.

    They are drawn, since what repeats itself may do so at any even step.
    """
    some = torch.randperm(m, generator=torch.Generator().manual_seed(0))[:_SAMPLE]
    near = min(len(some), -(-_NEAR * len(some) // m))
    bound, middle, far = (torch.empty(m) for _ in range(3))
    for a in range(0, m, _width(m)):
        own = slice(a, min(a + _width(m), m))
        block = points.distances(own, some)
        bound[own] = block.kthvalue(near, dim=1).values
        middle[own] = block.median(dim=1).values
        far[own] = block.amax(dim=1)
    return bound, float(middle.median()), far


def _width(m: int) -> int:
    """Of blocks of about one size: none has only a few tokens (`_FEW`)."""
    return -(-m // -(-m // _BLOCK))


class _Early:
    """Gains of all candidates, as far as they are known; from the first pick on."""

    def __init__(
        self, points: Points, mass: Tensor, rank: Tensor, bound: Tensor, first: int, most: float
    ) -> None:
        self.points, self.mass, self.rank = points, mass, rank
        self.bound, self.order = bound, [first]
        m = len(mass)
        self.paid = self._columns(torch.tensor([first]))[0]
        self.costs, self.gains = mass.new_zeros(2, m, dtype=torch.float64)
        self.far = torch.zeros_like(self.paid)
        # Distances that matter are no longer than what is paid.
        self.most = min(most, float(self.paid.max())) or float(self.paid.max()) or 1.0
        self.unit = self.most / (2 * _MIDDLE)
        width = _width(m)
        edges = [*range(0, m, width), m]
        sizes = [(b - a) * (m - a) for a, b in pairwise(edges)]
        room = torch.empty(sum(sizes), dtype=torch.int16).split(sizes)
        self.panels = [x.view(-1, m - a) for x, a in zip(room, edges, strict=False)]
        self.pairs = _Pairs(m)
        for a, panel in zip(edges, self.panels, strict=False):
            self._fill(panel, a, width)
        self.taken = torch.zeros(m, dtype=torch.bool)
        self.taken[first] = True
        self.error = 0.0
        self.known = torch.full_like(self.gains, -_ROUNDING * float(self.gains.max()))

    def _fill(self, panel: Tensor, a: int, width: int) -> None:
        """All of distances between tokens from a on, as many as the panel has, and others."""
        m, own = len(self.mass), slice(a, a + len(panel))
        for c, codes in zip(range(a, m, width), panel.split(width, dim=1), strict=True):
            other = slice(c, c + codes.shape[1])
            block = self.points.distances(own, other)
            self._add(block, own, other)
            if c > a:
                self._add(block.mT, other, own)
            self._set_aside(block, a, c)
            codes.copy_(block.div_(self.unit).sub_(_MIDDLE).clamp_(max=_MIDDLE).round_())

    def _add(self, block: Tensor, own: slice, other: slice) -> None:
        """What tokens `own` pay and would save by candidates `other`."""
        mass = self.mass[own]
        self.costs[other] += mass @ block
        self.gains[other] += mass @ (self.paid[own, None] - block).clamp_(min=0)
        torch.maximum(self.far[own], block.amax(dim=1), out=self.far[own])

    def _set_aside(self, block: Tensor, a: int, c: int) -> None:
        n, width = block.shape
        rows, columns = self.bound[a : a + n, None], self.bound[c : c + width]
        limit = torch.maximum(rows, columns) if c > a else rows
        place = np.flatnonzero((block < limit).numpy())
        near = block.numpy().reshape(-1)[place]
        owner, other = np.divmod(place, width)
        owner, other, bound = owner + a, other + c, self.bound.numpy()
        for i, j in [(owner, other), (other, owner)][: 1 + (c > a)]:
            mine = near < bound[i]
            self.pairs.add(i[mine], j[mine], near[mine])

    def _columns(self, candidates: Tensor) -> Tensor:
        """Distances to candidates, `(n, m)`."""
        n = len(candidates)
        # Never to very few: BLAS would sum in another order, and a distance is not to depend on
        # how it was asked for.
        some = candidates if n >= _FEW or n == 0 else candidates[torch.arange(_FEW) % n]
        return self.points.distances(some, slice(0, len(self.mass)))[:n]

    def stragglers(self) -> int:
        """Tokens that may have others nearer than those set aside."""
        return int((self.paid > self.bound).sum())

    def step(self) -> None:
        """One more pick."""
        j, column = self._best()
        self.order.append(j)
        self.taken[j] = True
        before, self.paid = self.paid, torch.minimum(self.paid, column)
        changed = (self.paid < before).nonzero().squeeze(1)
        known = before[changed] <= self.most
        self._lower(changed[known].numpy(), before.numpy())
        for some in changed[~known].split(_MOST):
            self.gains -= (
                _saved(self._columns(some), before[some, None], self.paid[some, None]).mT
                @ self.mass[some]
            )

    def _best(self) -> tuple[int, Tensor]:
        """The next pick and its distances."""
        exact: dict[int, Tensor] = {}
        fresh = torch.zeros_like(self.taken)
        gains = self.gains.masked_fill(self.taken, -torch.inf)
        slack = (self.error - self.known).masked_fill_(self.taken, 0)
        while True:
            level = float((gains - slack).max())
            rivals = ~fresh & (gains + slack >= level - TOLERANCE * abs(level)) & ~self.taken
            n = int(rivals.sum())
            if n == 0:
                break
            upper = (gains + slack).masked_fill(fresh, -torch.inf)
            some = upper.topk(min(max(n, _LEAST), _MOST, int((~fresh & ~self.taken).sum()))).indices
            columns = self._columns(some)
            gains[some] = (self.paid - columns).clamp_(min=0).double() @ self.mass.double()
            slack[some] = 0
            fresh[some] = True
            exact |= zip(some.tolist(), columns, strict=True)
        self.gains = torch.where(fresh, gains, self.gains)
        self.known[fresh] = self.error
        j = int(best(gains.masked_fill(~fresh, -torch.inf)[None], self.rank[None]))
        return j, exact[j]

    def _lower(self, changed: Array, before: Array) -> None:
        """Take from all gains what tokens no longer have to offer, by their integers."""
        mass = (self.mass.numpy() * self.unit)[changed]
        self.error += _HALF * float(mass.sum())
        offers = [(x / self.unit - _MIDDLE)[changed] for x in (before, self.paid.numpy())]
        weight, high, low = (torch.from_numpy(x) for x in (mass, *offers))
        start = 0
        for panel in self.panels:
            first, end = np.searchsorted(changed, (start, start + len(panel)))
            # Of those in the panel to all from there on, and of those behind it to the panel.
            inside, beyond = slice(first, end), slice(end, None)
            rows = torch.from_numpy(panel.numpy()[changed[inside] - start])
            width = _at_once(rows.shape[0])
            for gains, part in zip(
                self.gains[start:].split(width), rows.split(width, dim=1), strict=True
            ):
                gains -= weight[inside] @ _saved(
                    part.float(), high[inside, None], low[inside, None]
                )
            here = self.gains[start : start + len(panel)]
            columns = torch.from_numpy(panel.numpy()[:, changed[beyond] - start])
            width = _at_once(len(panel))
            parts = (x[beyond].split(width) for x in (high, low, weight))
            for part, above, below, by in zip(columns.split(width, dim=1), *parts, strict=True):
                here -= _saved(part.float(), above, below) @ by
            start += len(panel)

    def later(self) -> _Late:
        self.panels.clear()
        paid, bound = self.paid.numpy(), self.bound.numpy()
        self.pairs.keep(lambda i, near: (near < paid[i]) & (paid[i] <= bound[i]))
        for some in (self.paid > self.bound).nonzero().squeeze(1).split(_MOST):
            block = self._columns(some)
            place = np.flatnonzero((block < self.paid[some, None]).numpy())
            owner, other = np.divmod(place, len(paid))
            self.pairs.add(some.numpy()[owner], other, block.numpy().reshape(-1)[place])
        mass, rank = as_array(self.mass.double()), as_array(self.rank)
        return _Late(self.pairs.take(), paid, mass, rank, self.order)


class _Pairs:
    """Tokens, others, and how near they are; in few large arrays, as they come."""

    def __init__(self, m: int) -> None:
        kind = np.uint16 if m <= 1 << 16 else np.int32
        self._room: list[Array] = [np.empty(2 * _NEAR * m, t) for t in (kind, kind, np.float32)]
        self._n = 0

    def add(self, *new: Array) -> None:
        n, self._n = self._n, self._n + len(new[0])
        if self._n > len(self._room[0]):
            more = max(self._n - n, len(self._room[0]))
            self._room = [np.concatenate([x, np.empty(more, x.dtype)]) for x in self._room]
        for x, values in zip(self._room, new, strict=True):
            x[n : self._n] = values

    def keep(self, wanted: Callable[[Array, Array], Array]) -> None:
        """Only the pairs of which that is so, given their tokens and how near they are."""
        end, self._n = self._n, 0
        for start in range(0, end, _AT_ONCE):
            some = [x[start : min(end, start + _AT_ONCE)] for x in self._room]
            left = wanted(some[0], some[2])
            self.add(*(x[left] for x in some))

    def take(self) -> list[Array]:
        """All of them, ordered by their tokens; none are left here."""
        room, self._room = self._room, []
        order = room[0][: self._n].argsort(kind="stable")
        return [room.pop(0)[order] for _ in range(len(room))]


class _Late:
    """All pairs of tokens that are nearer than what is paid, and with them exact gains."""

    def __init__(
        self,
        pairs: list[Array],
        paid: Array,
        mass: Array,
        rank: Array,
        taken: list[int],
    ) -> None:
        self.paid, self.mass, self.rank = paid.copy(), mass, rank
        self.taken = np.zeros(len(paid), bool)
        self.taken[taken] = True
        self._index(*pairs)

    def _index(self, owner: Array, other: Array, near: Array) -> None:
        """Pairs, ordered by owner, so that those of an owner and those of another are found."""
        m = len(self.paid)
        self.owner, self.other, self.near = owner, other, near
        self.rows = np.concatenate([[0], np.bincount(owner, minlength=m).cumsum()])
        self.columns = np.concatenate([[0], np.bincount(other, minlength=m).cumsum()])
        self.by_other = other.argsort(kind="stable").astype(np.int32)
        saved = (self.paid[owner].astype(np.float64) - near) * self.mass[owner]
        self.gains = np.bincount(other, saved, m).astype(np.float64)  # none: integers

    def run(self, order: list[int], k: int) -> None:
        """Pick until there are k."""
        again, least = 2 * len(order), _AFRESH * self.gains.max()
        while len(order) < k:
            # In time: fewer pairs, and no sums that are much less than what they were taken from.
            if len(order) >= again or self.gains.max() < least:
                left = self.near < self.paid[self.owner]
                self._index(self.owner[left], self.other[left], self.near[left])
                again, least = 2 * len(order), _AFRESH * self.gains.max()
            np.maximum(self.gains, 0, out=self.gains)
            self.gains[self.taken] = -np.inf
            top = self.gains.max()
            tied = np.flatnonzero(self.gains >= top - TOLERANCE * top)
            j = int(tied[self.rank[tied].argmin()])
            order.append(j)
            self.taken[j] = True
            self._keep(j)

    def _keep(self, j: int) -> None:
        place = self.by_other[self.columns[j] : self.columns[j + 1]]
        place = place[self.near[place] < self.paid[self.owner[place]]]
        i, after = self.owner[place], self.near[place]
        before = self.paid[i]
        self.paid[i] = after
        start, counts = self.rows[i], self.rows[i.astype(np.int64) + 1] - self.rows[i]
        ends = counts.cumsum()
        entry = np.arange(counts.sum()) + np.repeat(start - ends + counts, counts)
        less = np.repeat(before, counts) - np.maximum(self.near[entry], np.repeat(after, counts))
        less = np.maximum(less, 0) * np.repeat(self.mass[i], counts)
        self.gains -= np.bincount(self.other[entry], less, len(self.gains))


def _at_once(n: int) -> int:
    """How many rows of n numbers to work on at a time, so that they stay in a cache."""
    return max(_BLOCK, _CACHED // max(n, 1))


def _saved(distance: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """What was saved by coming so near, and is not any more; written over the distances."""
    return torch.sub(before, distance.clamp_(min=after), out=distance).clamp_(min=0)
