"""Greedy log-determinant over many blocks of rows, a block at a time, by falling thresholds.

The value is `f(C) = logdet(I + Y_C Y_C^T / shift)`; a row's gain is `log(1 + e / shift)` with its
excess `e`, what the rows kept so far leave unexplained of its squared length (plus `shift` their
noise). Badanidiyuru and Vondrak, "Fast algorithms for maximizing submodular functions", SODA 2014:
pass over the blocks again and again, keep every row whose gain is at least a threshold, then lower
the threshold by a factor of `1 - STEP`. Every row kept gains at least `1 - STEP` of what the best
one would have, so f is within `1 - 1/e - STEP` of the best set's.

Plain greedy would read all rows of all blocks at every step. Here a block is read when the
threshold reaches the largest gain that it last had (gains never grow), and is conditioned on all
rows kept since then in one matrix product. Among rows of equal gain the first block keeps its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import expm1, log1p

import torch
from torch import Tensor

from otprune.greedy.logdet import dense
from otprune.greedy.ties import preference
from otprune.numerics.arrays import as_array

STEP = 0.1
# Gains below this share of the first one are rounding: the rest of the budget is filled in order.
_NOTHING = 1e-4


def above(
    covariance: Tensor, levels: Tensor, tie_order: Tensor, shift: float
) -> tuple[Tensor, Tensor]:
    """Greedy as long as the excess of the t-th pick is at least `levels[t]`.

    The search is the host's, which waits for the covariance.

    Args:
        covariance: `(c, c)`, positive semi-definite, of the candidates.
        levels: `(n,)`, never falling: at most n are picked.
        tie_order: `(c,)`, who wins ties (`ties.preference`).
        shift: positive.

    Returns:
        The picks in order, `(p,)` int64, and the lower Cholesky factor of
        `covariance + shift * I` on them, `(p, p)`.
    """
    preferred = tie_order.argsort()
    block = as_array(covariance[preferred][:, preferred])
    floor = levels.tolist()
    places, _, _ = dense.greedy(
        block.diagonal().clip(0),
        lambda j, _: block[j],
        shift,
        min(len(block), len(floor)),
        stop=lambda t, j, gain: not gain >= floor[t],
    )
    order = preferred[torch.from_numpy(places).to(preferred.device)]
    chosen = covariance[order][:, order]
    chosen.diagonal().add_(shift)
    return order, torch.linalg.cholesky(chosen)


class _Blocks:
    """The rows kept so far, and how far every block has been conditioned on them.

    Kept rows `Y` enter as `Z` with `Z^T Z = I - (I + Y^T Y / shift)^-1`: then
    `e_i = |y_i|^2 - |Z y_i|^2`, and a new kept row appends one row to `Z`.
    """

    def __init__(
        self, blocks: Sequence[Tensor], norms: Sequence[Tensor], k: int, shift: float
    ) -> None:
        self.blocks, self.norms, self.shift = blocks, norms, shift
        self.excess = [y.square().sum(dim=-1) for y in blocks]
        self.kept = [torch.zeros_like(e, dtype=torch.bool) for e in self.excess]
        self.factor = blocks[0].new_empty(k, blocks[0].shape[-1])
        self.done = 0
        self._read = [0] * len(blocks)
        # The excess of the best row that is left, at most.
        self.offers = torch.stack([e.amax() for e in self.excess]).tolist()

    def visit(self, i: int, level: float, most: int) -> None:
        """Keep up to `most` rows of block `i` whose excess is at least `level`."""
        y, kept = self.blocks[i], self.kept[i]
        fresh = self.factor[self._read[i] : self.done]
        self.excess[i] = (self.excess[i] - (y @ fresh.mT).square().sum(dim=-1)).clamp(min=0)
        self._read[i] = self.done
        left = self.excess[i].masked_fill(kept, -torch.inf)
        candidates = (left >= level).nonzero().squeeze(1)
        if not len(candidates):
            self.offers[i] = float(left.amax())
            return
        rows = y[candidates]
        known = self.factor[: self.done]
        rest = rows - (rows @ known.mT) @ known
        covariance = rest @ rows.mT
        covariance = (covariance + covariance.mT) / 2
        order, root = above(
            covariance,
            rows.new_full((most,), level),
            preference(self.norms[i][None, candidates])[0],
            self.shift,
        )
        p = len(order)
        self.factor[self.done : self.done + p] = torch.linalg.solve_triangular(
            root, rest[order], upper=False
        )
        self.done += p
        kept[candidates[order]] = True
        # If the budget ended the visit, better rows may be left; the old bound then stays valid.
        self.offers[i] = level if p < most else float(left.masked_fill(kept, -torch.inf).amax())


def greedy(
    blocks: Sequence[Tensor], norms: Sequence[Tensor], k: int, floor: int, shift: float
) -> list[Tensor]:
    """Rows to keep of every block, each `(k_i,)` int64 ascending; the `k_i` sum to k.

    Time O(M d k) at most for M rows in all, memory O(k d) beyond them.

    Args:
        blocks: `(m_i, d)` each, float32 or float64, d the same.
        norms: `(m_i,)` each, float32: among rows of equal gain in a block the larger norm wins.
        k: at most the number of all rows.
        floor: the least number kept of each block (all rows of a smaller one); at most k in all.
        shift: positive.
    """
    state = _Blocks(blocks, norms, k, shift)
    if floor:
        for i, y in enumerate(blocks):
            state.visit(i, -torch.inf, min(floor, len(y)))
    gain = first = log1p(max(0.0, *state.offers) / shift)
    while state.done < k:
        gain *= 1 - STEP
        level = shift * expm1(gain) if gain > _NOTHING * first else -torch.inf
        for i in range(len(blocks)):
            if state.offers[i] >= level and state.done < k:
                state.visit(i, level, k - state.done)
    return [kept.nonzero().squeeze(1) for kept in state.kept]
