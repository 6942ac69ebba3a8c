"""Greedy kernel herding: a sample of uniform mass that looks like the full set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from otprune.objectives import transport
from otprune.objectives.transport import Metric
from otprune.search import herding, ties
from otprune.selectors.base import Selector
from otprune.tokens import norms, scale_down


@dataclass(frozen=True)
class HerdingPrune(Selector):
    """Keeps a set whose *uniform* distribution matches that of the full set.

    Kernel herding (Chen, Welling and Smola, UAI 2010) with the Gaussian kernel
    `k(x, y) = exp(-|x - y|^2 / h)`, where `h` is the mean squared distance between two tokens drawn
    from the full set: no parameter, and the selection does not depend on the tokens' scale.
    Without replacement. Weights are the masses of the full set.
    """

    name: ClassVar[str] = "herding"
    summary: ClassVar[str] = "kernel herding: matches the full distribution with uniform mass"
    takes_weights: ClassVar[bool] = True

    @property
    def assignment(self) -> Metric:
        return "euclidean"

    def _pick(self, tokens: Tensor, k: int, weights: Tensor | None) -> Tensor:
        points = transport.embed(scale_down(tokens)[0], "euclidean")
        mass = tokens.new_ones(tokens.shape[:-1]) if weights is None else weights
        mass = mass / mass.shape[-1]
        distance = transport.squared_distances(points, points)
        bandwidth = mass.unsqueeze(1) @ distance @ mass.unsqueeze(-1)
        kernel = torch.exp(-distance / torch.where(bandwidth > 0, bandwidth, 1.0))
        return herding.greedy(kernel, mass, k, rank=ties.preference(norms(tokens)))
