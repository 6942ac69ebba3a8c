"""Greedy kernel herding: a subset of uniform mass that approximates the full set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from otprune.greedy import herding, ties
from otprune.measures import transport
from otprune.measures.transport import Metric
from otprune.numerics.distances import pairwise
from otprune.numerics.normalize import norms, scale_down
from otprune.selectors.base import Selector
from otprune.selectors.cues import Cue, Cues


@dataclass(frozen=True)
class HerdingPrune(Selector):
    """Keeps a set whose *uniform* distribution matches that of the full set.

    Kernel herding (Chen, Welling and Smola, UAI 2010) with the Gaussian kernel
    `k(x, y) = exp(-|x - y|^2 / h)`, where `h` is the median squared distance between two tokens
    (the mean, if more than half are duplicates). There is no parameter, the choice does not depend
    on the tokens' scale, and a few tokens of large norm do not dominate the bandwidth. Tokens are
    picked without replacement. Weights are the masses of the full set. O(m^2) memory.
    """

    name: ClassVar[str] = "herding"
    summary: ClassVar[str] = "kernel herding: matches the full distribution with uniform mass"
    nested: ClassVar[bool] = True
    uses: ClassVar[frozenset[Cue]] = frozenset({"weights"})

    @property
    def assignment_metric(self) -> Metric:
        return "euclidean"

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        points = transport.embed(scale_down(tokens)[0], "euclidean")
        mass = tokens.new_ones(tokens.shape[:-1]) if cues.weights is None else cues.weights
        mass = mass / mass.shape[-1]
        distance = pairwise(points)
        kernel = distance.div_(-_bandwidth(distance)).exp_()
        return herding.greedy(kernel, mass, k, tie_order=ties.preference(norms(tokens)))


def _bandwidth(distance: Tensor) -> Tensor:
    pairs = distance.flatten(1)
    median, mean = pairs.median(dim=-1).values, pairs.mean(dim=-1)
    h = torch.where(median > 0, median, mean)
    return torch.where(h > 0, h, 1.0)[:, None, None]
