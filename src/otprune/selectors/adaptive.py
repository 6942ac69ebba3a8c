"""How many tokens to keep where the tokens decide: walks through sets, and where they stop."""

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
    """One set's kept tokens, `(k,)` in the order of picking, and what they reached: the distance
    or the certified share that the rule looks at."""

    order: Tensor
    reached: float


@torch.no_grad()
def choose(selector: Selector, batches: Sequence[Batch]) -> list[Choice]:
    """What a selector whose `keep` is a rule keeps of each set of some batches, in order.

    Raises:
        KeepError: the total of a `Budget` is less than its floors take.
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
    """The picks of a method among B sets of m tokens, and the cost of stopping after each.

    The cost is the squared 2-Wasserstein distance from the full set with the mass free, on tokens
    at unit length. Of a nested method, whose k tokens are the first k of any longer run, one run
    gives every cost; of any other each k is a run of its own.
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
        # Methods are asked for less than all; what is left then comes last.
        first = self.pick(k - 1) if k > 1 else self._mass[:, :0].long()
        last = k * (k - 1) // 2 - first.sum(dim=-1, keepdim=True)
        return torch.cat([first, last], dim=-1)

    def costs(self, k: int) -> Tensor:
        """After 1, 2, ..., k picks, `(B, k)`."""
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
        """The choices of the sets when each stops at its k, none beyond the costs looked at."""
        reached = [float(cost[k - 1]) for cost, k in zip(self._costs.cpu(), ks, strict=True)]
        orders = [
            (self.pick(k) if self._order is None else self._order[:, :k])[b]
            for b, k in enumerate(ks)
        ]
        return [Choice(*one) for one in zip(orders, reached, strict=True)]


def fewest(walk: Walk, target: float, limit: int) -> list[Choice]:
    """Of each set as few tokens as bring the cost down to the target, but no more than `limit`.

    Looks at an eighth of the limit first and doubles that while a set asks for more, so that a low
    stop does not pay for a long walk.
    """
    k = -(-limit // 8)
    while True:
        hit = walk.costs(k) <= target
        first = torch.where(hit.any(dim=-1), hit.int().argmax(dim=-1) + 1, limit).tolist()
        if k == limit or max(first) <= k:
            return walk.stop(first)
        k = min(2 * k, limit)


def proven(walk: Walk, target: float, limit: int) -> list[Choice]:
    """Of one set as few tokens as are worth the target's share of any set of `limit` tokens.

    A certificate proper compares with sets of the same size, and is 1 for a single token: it says
    how good a choice is, not whether it is enough. In float64 on the CPU, like `explain`.
    """
    order = walk.pick(limit)[0]
    tokens, weights = walk.batch.tokens, walk.batch.cues.weights
    weights = None if weights is None else weights[0].cpu().double()
    proof = walk.selector._certify(tokens[0].cpu().double(), order.cpu(), weights)
    assert proof is not None
    k = next((i for i, share in enumerate(proof.shares, 1) if share >= target), limit)
    return [Choice(order[:k], proof.shares[k - 1])]


def shared(walks: Sequence[Walk], rule: Budget) -> list[Choice]:
    """Of all sets together as many tokens as the budget's total, where they help most.

    Costs are looked at as far as a set could stop: to twice its even share first, twice as far
    again whenever one stops at the end of that.
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
