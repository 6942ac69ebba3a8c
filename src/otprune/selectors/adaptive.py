"""Choosing how many tokens to keep if `keep` is a rule (`Auto` or `Budget`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from otprune import keep as budget
from otprune.keep import Auto, Budget
from otprune.measures import transport
from otprune.numerics import threads
from otprune.selectors.batches import Batch
from otprune.selectors.picks import picked

if TYPE_CHECKING:
    from otprune.selectors.base import Selector


class Choice(NamedTuple):
    """The kept tokens of one set, `(k,)` in the order of picking, and the value of the rule's
    measure for them, a distance or a certified share."""

    order: Tensor
    reached: float


@torch.no_grad()
def choose(selector: Selector, batches: Sequence[Batch]) -> list[Choice]:
    """The kept tokens of each set in the batches, for a selector whose `keep` is a rule.

    Raises:
        KeepError: the total of a `Budget` is less than the sum of its floors.
    """
    rule = selector.keep
    device = batches[0].tokens.device.type
    with threads.single(), torch.autocast(device, enabled=False):
        if isinstance(rule, Budget):
            return shared([Walk(selector, batch) for batch in batches], rule)
        assert isinstance(rule, Auto)
        assert rule.target is not None
        if rule.measure == "certificate":
            batches = [row for batch in batches for row in batch.rows()]
        stop = {"distance": fewest, "certificate": proven}[rule.measure]
        choices = []
        for batch in batches:
            walk = Walk(selector, batch)
            choices += stop(walk, rule.target, budget.count(rule.max_keep, walk.size))
        return choices


class Walk:
    """The picks of a method in B sets of m tokens, and the cost of keeping the first k.

    The cost is the squared 2-Wasserstein distance to the full set with free mass, on tokens scaled
    to unit length. For a nested method one run gives the cost for every k. For other methods each k
    needs its own run.
    """

    def __init__(self, selector: Selector, batch: Batch) -> None:
        self.selector = selector
        self.batch = Batch(batch.tokens.float(), batch.cues)
        self._points = transport.embed(self.batch.tokens, "cosine")
        mass = self._points.new_ones(self._points.shape[:-1])
        weights = batch.cues.weights
        self._mass = (mass if weights is None else weights) / self.size
        self._order: Tensor | None = None
        self._costs = mass[:, :0]

    @property
    def size(self) -> int:
        """m."""
        return self.batch.tokens.shape[1]

    def pick(self, k: int) -> Tensor:
        """The method's k tokens of each set, `(B, k)`, 1 <= k <= m, in the order of picking."""
        if k < self.size:
            return picked(self.selector, self.batch, k)
        # `Selector.pick` is defined for k < m only. The one token that is left comes last.
        first = self.pick(k - 1) if k > 1 else self._mass[:, :0].long()
        last = k * (k - 1) // 2 - first.sum(dim=-1, keepdim=True)
        return torch.cat([first, last], dim=-1)

    def costs(self, k: int) -> Tensor:
        """The costs after 1, 2, ..., k picks, `(B, k)`."""
        done = self._costs.shape[-1]
        if k > done and self.selector.nested:
            self._order = self.pick(k)
            self._costs = transport.prefix_costs(self._points, self._order, self._mass)
        elif k > done:
            more = (
                transport.prefix_costs(self._points, self.pick(n), self._mass)[:, -1]
                for n in range(done + 1, k + 1)
            )
            self._costs = torch.cat([self._costs, torch.stack([*more], dim=-1)], dim=-1)
        return self._costs[:, :k]

    def stop(self, ks: Sequence[int]) -> list[Choice]:
        """The choice of each set for its k, which must not exceed the last k passed to `costs`."""
        reached = [float(cost[k - 1]) for cost, k in zip(self._costs.cpu(), ks, strict=True)]
        orders = [
            (self.pick(k) if self._order is None else self._order[:, :k])[b]
            for b, k in enumerate(ks)
        ]
        return [Choice(*one) for one in zip(orders, reached, strict=True)]


def fewest(walk: Walk, target: float, limit: int) -> list[Choice]:
    """The fewest tokens of each set whose cost is at most the target, or `limit` tokens.

    Tries up to an eighth of the limit first, then doubles that until every set has stopped, so that
    sets that need few tokens do not pay for many picks.
    """
    k = -(-limit // 8)
    while True:
        hit = walk.costs(k) <= target
        first = torch.where(hit.any(dim=-1), hit.int().argmax(dim=-1) + 1, limit).tolist()
        if k == limit or max(first) <= k:
            return walk.stop(first)
        k = min(2 * k, limit)


def proven(walk: Walk, target: float, limit: int) -> list[Choice]:
    """The fewest tokens of one set that reach a share `target` of the best value of `limit` tokens.

    The share is proven by an upper bound on that value. The certificate of `explain` is of no use
    here: it compares with sets of the same size, and is 1 for a single token. Computed in float64
    on the CPU, as in `explain`.
    """
    order = walk.pick(limit)[0]
    tokens, cues = walk.batch.tokens, walk.batch.cues.each(lambda x: x.cpu().double())
    proof = walk.selector._certify(tokens.cpu().double(), order.cpu(), cues)
    assert proof is not None
    k = next((i for i, share in enumerate(proof.shares, 1) if share >= target), limit)
    return [Choice(order[:k], proof.shares[k - 1])]


def shared(walks: Sequence[Walk], rule: Budget) -> list[Choice]:
    """Divide the budget's total among all sets so that it reduces their costs most.

    Costs of each set are computed up to twice its proportional share first. Wherever a set would
    stop at the last computed cost, that range is doubled.
    """
    owners = [w for w, walk in enumerate(walks) for _ in walk.batch.tokens]
    tokens = sum(walks[w].size for w in owners)
    total = budget.count(rule.total, tokens)
    ends = [min(walk.size, rule.floor + 2 * total * walk.size // tokens) for walk in walks]
    while True:
        costs = [walk.costs(end) * walk.size for walk, end in zip(walks, ends, strict=True)]
        rows = [row.tolist() for cost in costs for row in cost]
        ks = budget.share(rows, total, rule.floor)
        cut = {w for w, k in zip(owners, ks, strict=True) if k == ends[w] < walks[w].size}
        if not cut:
            break
        for w in cut:
            ends[w] = min(walks[w].size, 2 * ends[w])
    stops = iter(ks)
    return [
        choice for walk in walks for choice in walk.stop([next(stops) for _ in walk.batch.tokens])
    ]
