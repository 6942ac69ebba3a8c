"""Greedy facility location among many tokens on a CPU, without all their distances at once.

A pick changes gains only through the tokens that come nearer to a kept one by it. After t picks a
token has about `m / t` others nearer than its nearest kept one, and only their distances matter.

*First phase* (`_Bounded`): too many distances matter to be held exactly. One pass over all of them,
in blocks, computes the gains after the first pick, and stores each distance twice: exactly, if it
is among the shortest of one of its tokens, and quantised to 16 bits. The quantised distances give
gains with a bound on their error; only candidates that may be the best are evaluated exactly. Gains
never grow, so an old bound stays valid, and as few as possible are updated.

*Second phase* (`_Sparse`): hardly any token has others nearer than its exact distances reach. These
are all that matters then, and gains are exact.

The idea of bounds is that of Minoux, "Accelerated greedy algorithms for maximizing submodular set
functions", 1978; the picks are those of `cover.sequential`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otprune.greedy.ties import TOLERANCE, best
from otprune.numerics import threads
from otprune.numerics.arrays import as_array
from otprune.numerics.distances import Points

Array = NDArray[Any]
Sums = tuple[slice, slice, Tensor, Tensor, Tensor]

# Side of a block of distances.
_BLOCK = 512
# Tokens sampled to estimate, for each token, a distance below which it has `_NEAR` others.
_SAMPLE, _NEAR = 256, 512
# The second phase begins when at most one token in so many reaches beyond its exact distances.
_STRAGGLERS = 8
# Candidates that are evaluated at once.
_LEAST, _MOST = 32, 256
_FEW = 8
# Candidates whose distances are kept for the next pick.
_HELD = 32
# Distances above so many times the median are not quantised: few tokens would spoil the rest.
_USUAL = 8.0
# Quantised distances lie between minus and plus so much; their error, in units, with rounding.
_MIDDLE, _HALF = 32767, 0.51
# Rows and columns of a block of quantised distances.
_ROWS, _WIDE = 64, 1 << 12
# Pairs of a part.
_AT_ONCE = 1 << 20
# Gains are summed up anew when the largest has fallen to this share.
_AFRESH = 1e-3
# Error of float32 sums, relative to the largest gain.
_ROUNDING = 1e-6


def greedy(points: Points, mass: Tensor, k: int, tie_order: Tensor) -> Tensor:
    """Tokens in the order they were picked, `(k,)` int64.

    Args:
        points: m tokens.
        mass: `(m,)`, sums to 1.
        k: number of tokens, at most m.
        tie_order: `(m,)`, who wins ties (`ties.preference`).
    """
    bound, usual, far = _sample(points, len(mass))
    costs = points.costs(mass)
    while True:
        first = int(best((mass @ far - costs)[None], tie_order[None]))
        state = _Bounded(points, mass, tie_order, bound, first, _USUAL * usual)
        costs, far = state.costs, state.far
        if int(best((mass @ far - costs)[None], tie_order[None])) == first:
            break
    while len(state.order) < k and state.stragglers() * _STRAGGLERS > len(mass):
        state.step()
    order = state.order
    if len(order) < k:
        state.sparse().run(order, k)
    return torch.tensor(order)


def _sample(points: Points, m: int) -> tuple[Tensor, float, Tensor]:
    """Estimates from a sample: a distance below which each token has `_NEAR` others, the median
    distance, and each token's largest.

    The sample is random, since tokens may repeat at any regular step.
    """
    some = torch.randperm(m, generator=torch.Generator().manual_seed(0))[:_SAMPLE]
    near = min(len(some), -(-_NEAR * len(some) // m))

    def summary(own: slice) -> list[Tensor]:
        block = points.distances(own, some)
        bound = np.partition(block.numpy(), near - 1, axis=1)[:, near - 1].copy()
        return [torch.from_numpy(bound), block.median(dim=1).values, block.amax(dim=1)]

    made = threads.spread(summary, threads.parts(m, _width(m, _BLOCK)))
    bound, middle, far = (torch.cat(x) for x in zip(*made, strict=True))
    return bound, float(middle.median()), far


def _width(m: int, most: int) -> int:
    """Width of blocks of equal size, so that none has only a few tokens (`_FEW`)."""
    return -(-m // -(-m // most))


class _Bounded:
    """Gains of all candidates within bounds, from the first pick on."""

    def __init__(
        self,
        points: Points,
        mass: Tensor,
        tie_order: Tensor,
        bound: Tensor,
        first: int,
        most: float,
    ) -> None:
        self.points, self.mass, self.tie_order = points, mass, tie_order
        self.bound, self.order = bound, [first]
        m = len(mass)
        self.paid = self._columns(torch.tensor([first]))[0]
        self.costs, self.gains = mass.new_zeros(2, m, dtype=torch.float64)
        self.far = torch.zeros_like(self.paid)
        # Distances above the largest cost do not matter.
        self.most = min(most, float(self.paid.max())) or float(self.paid.max()) or 1.0
        self.unit = self.most / (2 * _MIDDLE)
        width = _width(m, _BLOCK)
        self.edges = [*range(0, m, width), m]
        sizes = [(b - a) * (m - a) for a, b in pairwise(self.edges)]
        storage = torch.empty(sum(sizes), dtype=torch.int16).split(sizes)
        self.panels = [x.view(-1, m - a) for x, a in zip(storage, self.edges, strict=False)]
        self.pairs = _Pairs(m)
        for a, panel in zip(self.edges, self.panels, strict=False):
            self._fill(panel, a, width)
        self.taken = torch.zeros(m, dtype=torch.bool)
        self.taken[first] = True
        # Gains at costs `bounded`, with a common error; each was exact up to rounding when that
        # error was `known`. `at_most` are bounds from elsewhere.
        self.bounded, self.error = self.paid, 0.0
        self.known = torch.full_like(self.gains, -_ROUNDING * float(self.gains.max()))
        self.at_most = torch.full_like(self.gains, torch.inf)
        # Candidates that are evaluated exactly: their distances and gains.
        self.held, self.near = torch.empty(0, dtype=torch.int64), torch.empty(0, m)
        self.exact = self.gains[:0]

    def _fill(self, panel: Tensor, a: int, width: int) -> None:
        """Read the distances from the panel's tokens, which begin at a, to those from a on."""
        m, own = len(self.mass), slice(a, a + len(panel))
        others = [slice(c, min(c + width, m)) for c in range(a, m, width)]

        def some(place: tuple[slice, Tensor]) -> tuple[list[Sums], list[list[Array]]]:
            other, codes = place
            block = self.points.distances(own, other)
            sums = [self._sums(block, own, other)]
            if other != own:
                sums.append(self._sums(block.mT, other, own))
            near = self._near(block, own, other)
            codes.copy_(block.div_(self.unit).sub_(_MIDDLE).clamp_(max=_MIDDLE).round_())
            return sums, near

        blocks = list(zip(others, panel.split(width, dim=1), strict=True))
        # A few at a time, since results are held until all of them are there.
        for first in range(0, len(blocks), _FEW):
            for sums, near in threads.spread(some, blocks[first : first + _FEW]):
                for rows, columns, costs, gains, far in sums:
                    self.costs[columns] += costs
                    self.gains[columns] += gains
                    torch.maximum(self.far[rows], far, out=self.far[rows])
                for pairs in near:
                    self.pairs.add(*pairs)

    def _sums(self, block: Tensor, own: slice, other: slice) -> Sums:
        """Costs, gains and largest distances of tokens `own` for candidates `other`."""
        mass, gains = self.mass[own], (self.paid[own, None] - block).clamp_(min=0)
        return own, other, mass @ block, mass @ gains, block.amax(dim=1)

    def _near(self, block: Tensor, own: slice, other: slice) -> list[list[Array]]:
        """Pairs to be stored exactly, in either direction."""
        rows, columns = self.bound[own, None], self.bound[other]
        both = other != own
        limit = torch.maximum(rows, columns) if both else rows
        place = np.flatnonzero((block < limit).numpy()).astype(np.int32)
        near = block.numpy().reshape(-1)[place]
        row, column = _divided(place, block.shape[1])
        row, column, bound = row + own.start, column + other.start, self.bound.numpy()
        pairs = []
        for i, j in [(row, column), (column, row)][: 1 + both]:
            mine = np.flatnonzero(near < bound[i])
            pairs.append([i[mine], j[mine], near[mine]])
        return pairs

    def _columns(self, candidates: Tensor) -> Tensor:
        """Distances to candidates, `(n, m)`."""
        n = len(candidates)
        # Never of very few: BLAS would sum in another order, and a distance must not depend on how
        # it was asked for.
        some = candidates if n >= _FEW or n == 0 else candidates[torch.arange(_FEW) % n]
        m = len(self.mass)
        columns = self.mass.new_empty(len(some), m)

        def fill(part: slice) -> None:
            columns[:, part] = self.points.distances(some, part)

        threads.spread(fill, threads.parts(m, _width(m, _WIDE)))
        return columns[:n]

    def stragglers(self) -> int:
        """Number of tokens that may have others nearer than their exact distances reach."""
        return int((self.paid > self.bound).sum())

    def step(self) -> None:
        """One more pick."""
        while self._rivals():
            pass
        gains = torch.full_like(self.gains, -torch.inf)
        gains[self.held] = self.exact
        j = int(best(gains[None], self.tie_order[None]))
        self.order.append(j)
        self.taken[j] = True
        self.paid = torch.minimum(self.paid, self.near[self.held == j][0])
        kept = self.exact.topk(min(_HELD, len(self.held))).indices
        kept = kept[self.held[kept] != j]
        self.held, self.near = self.held[kept], self.near[kept]
        self.exact = self._saved_by(self.near)

    def _saved_by(self, columns: Tensor) -> Tensor:
        """Gains of candidates, by their distances."""
        mass = self.mass.double()
        parts = [(self.paid - x).clamp_(min=0).double() @ mass for x in columns.split(_FEW)]
        return torch.cat(parts)

    def _rivals(self) -> bool:
        """Evaluate candidates that may be the best; False if there are none any more."""
        slack = self.error - self.known
        upper = torch.minimum(self.gains + slack, self.at_most)
        upper[self.taken] = upper[self.held] = -torch.inf
        current = self.bounded is self.paid
        level = max(self.exact.tolist(), default=-torch.inf)
        if current:
            level = max(level, float((upper - 2 * slack).max()))
        level -= TOLERANCE * abs(level)
        rivals = ((upper >= level) & (upper > -torch.inf)).nonzero().squeeze(1)
        if not current and len(rivals) > _MOST:
            self._lower()
            return True
        if not current and len(rivals):
            self.at_most[rivals] = upper[rivals] = self._at_most(rivals.numpy())
            rivals = rivals[upper[rivals] >= level]
        if not len(rivals):
            return False
        n = min(max(len(rivals), _LEAST), _MOST, int((upper > -torch.inf).sum()))
        some = upper.topk(n).indices
        columns = self._columns(some)
        exact = self.at_most[some] = self._saved_by(columns)
        if current:
            self.gains[some], self.known[some] = exact, self.error
        self.held, self.near = torch.cat([self.held, some]), torch.cat([self.near, columns])
        self.exact = torch.cat([self.exact, exact])
        return True

    def _lower(self) -> None:
        """Bring all gains up to date with the costs."""
        before, self.bounded = self.bounded, self.paid
        changed = (self.paid < before).nonzero().squeeze(1)
        known = before[changed] <= self.most
        self._lower_by_integers(changed[known].numpy(), before.numpy())
        for some in changed[~known].split(_MOST):
            self.gains -= (
                _saved(self._columns(some), before[some, None], self.paid[some, None]).mT
                @ self.mass[some]
            )

    def _lower_by_integers(self, changed: Array, before: Array) -> None:
        """`_lower` for tokens whose costs are within the quantised range."""
        mass = (self.mass.numpy() * self.unit)[changed]
        self.error += _HALF * float(mass.sum())
        both = [(x / self.unit - _MIDDLE)[changed] for x in (before, self.paid.numpy())]
        weight, high, low = (torch.from_numpy(x) for x in (mass, *both))

        def some(place: tuple[int, Tensor]) -> tuple[Tensor, Tensor]:
            """Decreases by the panel's tokens for all from there on, and by later tokens for it."""
            start, panel = place
            less, here = self.gains.new_zeros(panel.shape[1]), self.gains.new_zeros(len(panel))
            first, end = np.searchsorted(changed, (start, start + len(panel)))
            for i in (slice(a, min(a + _ROWS, end)) for a in range(first, end, _ROWS)):
                rows = torch.from_numpy(panel.numpy()[changed[i] - start])
                for out, part in zip(less.split(_WIDE), rows.split(_WIDE, dim=1), strict=True):
                    out += weight[i] @ _saved(part.float(), high[i, None], low[i, None])
            for i in (slice(a, a + _BLOCK) for a in range(end, len(changed), _BLOCK)):
                columns = torch.from_numpy(panel.numpy().take(changed[i] - start, axis=1))
                here += _saved(columns.float(), high[i], low[i]) @ weight[i]
            return less, here

        places = list(zip(self.edges, self.panels, strict=False))
        for (start, _), (less, here) in zip(places, threads.spread(some, places), strict=True):
            self.gains[start:] -= less
            self.gains[start : start + len(here)] -= here

    def _at_most(self, candidates: Array) -> Tensor:
        """Upper bounds on gains, taking each quantised distance at its smallest."""
        offer = self.paid / self.unit + (_HALF - _MIDDLE)
        mass = self.mass * self.unit

        def some(place: tuple[int, Tensor]) -> tuple[Tensor, Tensor]:
            """Savings by the panel's tokens from there on, and by later tokens in it."""
            start, panel = place
            first, end = np.searchsorted(candidates, (start, start + len(panel)))
            rows = torch.from_numpy(panel.numpy()[candidates[first:end] - start]).float()
            columns = torch.from_numpy(panel.numpy().take(candidates[end:] - start, axis=1)).float()
            here = slice(start, start + len(panel))
            torch.sub(offer[start:], rows, out=rows).clamp_(min=0)
            torch.sub(offer[here, None], columns, out=columns).clamp_(min=0)
            return rows @ mass[start:], mass[here] @ columns

        bounds, first = torch.zeros(len(candidates), dtype=torch.float64), 0
        for inside, beyond in threads.spread(some, zip(self.edges, self.panels, strict=False)):
            end = first + len(inside)
            bounds[first:end] += inside
            bounds[end:] += beyond
            first = end
        return bounds.mul_(1 + _ROUNDING)

    def sparse(self) -> _Sparse:
        self.panels.clear()
        paid, bound = self.paid.numpy(), self.bound.numpy()
        self.pairs.keep(lambda i, near: (near < paid[i]) & (paid[i] <= bound[i]))
        for some in (self.paid > self.bound).nonzero().squeeze(1).split(_MOST):
            block = self._columns(some)
            place = np.flatnonzero((block < self.paid[some, None]).numpy())
            owner, other = _divided(place, len(paid))
            self.pairs.add(some.numpy()[owner], other, block.numpy().reshape(-1)[place])
        mass, tie_order = as_array(self.mass.double()), as_array(self.tie_order)
        return _Sparse(self.pairs.take(), paid, mass, tie_order, self.order)


class _Pairs:
    """Pairs of tokens with their distances, appended to three large arrays."""

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
        """Keep only the pairs that are wanted, given their tokens and distances."""
        end, self._n = self._n, 0
        for start in range(0, end, _AT_ONCE):
            some = [x[start : min(end, start + _AT_ONCE)] for x in self._room]
            left = wanted(some[0], some[2])
            self.add(*(x[left] for x in some))

    def take(self) -> list[Array]:
        """All pairs, ordered by token; empties this object."""
        room, self._room = self._room, []
        order = room[0][: self._n].argsort(kind="stable")
        return [room.pop(0)[order] for _ in range(len(room))]


class _Sparse:
    """Exact gains from all pairs of tokens that are nearer than the token's cost."""

    def __init__(
        self,
        pairs: list[Array],
        paid: Array,
        mass: Array,
        tie_order: Array,
        taken: list[int],
    ) -> None:
        self.paid, self.mass, self.tie_order = paid.copy(), mass, tie_order
        self.taken = np.zeros(len(paid), bool)
        self.taken[taken] = True
        self._index(*pairs)

    def _index(self, owner: Array, other: Array, near: Array) -> None:
        """Index pairs, which are ordered by owner, by owner and by other."""
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
            # Now and then: drop pairs that no longer matter, and sum up gains anew, before they are
            # much smaller than the terms they were subtracted from.
            if len(order) >= again or self.gains.max() < least:
                left = self.near < self.paid[self.owner]
                self._index(self.owner[left], self.other[left], self.near[left])
                again, least = 2 * len(order), _AFRESH * self.gains.max()
            np.maximum(self.gains, 0, out=self.gains)
            self.gains[self.taken] = -np.inf
            top = self.gains.max()
            tied = np.flatnonzero(self.gains >= top - TOLERANCE * top)
            j = int(tied[self.tie_order[tied].argmin()])
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


def _divided(place: Array, n: int) -> tuple[Array, Array]:
    """`np.divmod` by one number, faster."""
    row = place // n
    return row, place - row * n


def _saved(distance: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Savings at costs `before` that are gone at costs `after`; overwrites the distances."""
    return torch.sub(before, distance.clamp_(min=after), out=distance).clamp_(min=0)
