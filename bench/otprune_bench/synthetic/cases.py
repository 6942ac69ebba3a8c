"""The paper's table on synthetic tokens: win rate against random subsets and optimality ratio."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from otprune.measures import distances, logdet
from otprune.numerics.distances import squared_distances
from otprune.selectors import OTPrune, TransportPrune
from otprune_bench.runs.cases import Case
from otprune_bench.synthetic.plan import GAMMAS, MEASURES, Plan, Size, methods


def cases(plan: Plan) -> Iterator[Case]:
    """One case a token set."""
    for size, kind in plan.parts():
        for number in range(size.sets):
            yield (
                f"{size.name}/{kind}#{number + 1}",
                functools.partial(_one, size, kind, plan.seed + number),
            )


def make_tokens(kind: str, m: int, d: int, seed: int) -> Tensor:
    """Tokens, `(m, d)` float64."""
    generator = torch.Generator().manual_seed(seed)
    normal = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    if kind == "normal":
        return normal(m, d)
    rank = min(m, d)
    falling = torch.arange(1, rank + 1, dtype=torch.float64) ** -0.7
    return (normal(m, rank) * falling) @ normal(rank, d) + normal(d) + 0.1 * normal(m, d)


class Measures:
    """All measures of subsets of one token set, batched; larger is better in the objectives."""

    def __init__(self, tokens: Tensor) -> None:
        m, d = tokens.shape
        self.tokens = tokens
        self._kernels = {}
        for name, gamma in zip(GAMMAS, (0.01, logdet.scaled_gamma(m, d)), strict=True):
            kernel = logdet.kernel(tokens.unsqueeze(0), gamma)
            self._kernels[name] = torch.eye(m).double() + (kernel.left @ kernel.right.mT)[0]
        self._cost = squared_distances(tokens, tokens)

    def of(self, subsets: Tensor) -> dict[str, Tensor]:
        """Measures of subsets `(R, k)`, each `(R,)`."""
        exact = torch.tensor([self._exact(chosen) for chosen in subsets], dtype=torch.float64)
        return self._quick(subsets) | {"exact": exact}

    def best(self, subsets: Tensor) -> dict[str, float]:
        """The best of each measure among subsets `(R, k)`."""
        found = self._quick(subsets)
        best = {
            name: float(values.max() if name in GAMMAS else values.min())
            for name, values in found.items()
        }
        # Uniform mass is never nearer than free mass: the rest need not be looked at.
        best["exact"] = float("inf")
        for i in found["free mass"].argsort():
            if float(found["free mass"][i]) >= best["exact"]:
                break
            best["exact"] = min(best["exact"], self._exact(subsets[i]))
        return best

    def _quick(self, subsets: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, K in self._kernels.items():
            found[name] = torch.logdet(K[subsets.unsqueeze(2), subsets.unsqueeze(1)])
        found["gaussian"] = self._gaussian(subsets)
        found["free mass"] = self._cost[:, subsets].amin(dim=2).mean(dim=0)
        return found

    def _exact(self, chosen: Tensor) -> float:
        return distances.exact_w2(self.tokens, self.tokens[chosen])

    def _gaussian(self, subsets: Tensor) -> Tensor:
        """As `distances.gaussian_w2`, of many subsets at once."""
        m, k = len(self.tokens), subsets.shape[1]
        kept = self.tokens[subsets]
        cross = torch.linalg.svdvals(kept @ self.tokens.mT).sum(dim=-1) / sqrt(m * k)
        spread = self.tokens.square().sum() / m + kept.square().sum(dim=(1, 2)) / k
        apart: Tensor = (spread - 2 * cross).clamp(min=0)
        return apart

    def bounds(self, k: int) -> dict[str, float]:
        """Upper bounds of the objectives and lower bounds of the distances, of any k tokens."""
        found = {}
        for name, gamma in zip(GAMMAS, (0.01, "scaled"), strict=True):
            bound = OTPrune(k, gamma=gamma).explain(self.tokens).bound  # type: ignore[arg-type]
            assert bound is not None
            found[name] = bound
        spectrum = torch.linalg.svdvals(self.tokens).square() / len(self.tokens)
        beyond = float(spectrum[k:].sum())
        best = TransportPrune(k, metric="euclidean").explain(self.tokens)
        assert best.reference is not None
        assert best.bound is not None
        # With uniform mass nothing is nearer than with free mass.
        free = max(beyond, best.reference - best.bound)
        return found | {"gaussian": beyond, "exact": free, "free mass": free}


def win_rate(name: str, own: float, others: Tensor) -> float:
    """Share of others that a choice beats; ties, to rounding, count half."""
    better = own - others if name in GAMMAS else others - own
    tied = better.abs() <= 1e-9 * others.abs().clamp(min=abs(own))
    return float(torch.where(tied, 0.5, (better > 0).double()).mean())


def ratio(name: str, own: float, best: float) -> float:
    """How near a choice comes to the best, or to a bound of it; 1 is optimal."""
    over, under = (own, best) if name in GAMMAS else (best, own)
    return over / under if under > 0 else 1.0


def _one(size: Size, kind: str, seed: int) -> dict[str, Any]:
    tokens = make_tokens(kind, size.m, size.d, seed)
    measures = Measures(tokens)
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(size.m, generator=generator)[: size.k] for _ in range(size.subsets)]
    random_ones = measures.of(torch.stack(drawn))
    if size.brute:
        every = itertools.combinations(range(size.m), size.k)
        best = measures.best(torch.tensor(list(every)))
    else:
        best = measures.bounds(size.k)
    result: dict[str, Any] = {"best": best}
    for label, selector in methods(size.k).items():
        own = measures.of(selector.select(tokens).unsqueeze(0))
        result[label] = {
            name: {
                "value": float(own[name]),
                "win_rate": 100 * win_rate(name, float(own[name]), random_ones[name]),
                "optimality": 100 * ratio(name, float(own[name]), best[name]),
            }
            for name in MEASURES
        }
    return result
