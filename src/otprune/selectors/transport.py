"""Greedy minimisation of the squared 2-Wasserstein distance with free mass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from torch import Tensor

from otprune.errors import OTPruneError
from otprune.greedy import cover, ties
from otprune.measures import transport
from otprune.measures.certificate import Certificate
from otprune.measures.transport import Metric
from otprune.numerics.distances import squared_distances
from otprune.selectors.attending import Attending
from otprune.selectors.cues import Cue, Cues


@dataclass(frozen=True)
class TransportPrune(Attending):
    """Facility location on squared distances: keeps tokens that are close to all others.

    Greedily minimises `cost(C) = sum_i p_i min_{j in C} |v_i - v_j|^2`. This is the squared
    2-Wasserstein distance between the full set and the kept tokens C if these may have any masses.
    The first pick is the best single token. The masses `p` of the full set are equal, or the
    caller's weights. With `question` or `saliency`, part of the mass lies where the question or the
    encoder looks (`Attending.mass`), and the kept set must cover it; the certificate is of that
    objective. Masses and distances that are reported stay those of the image itself. O(m^2)
    memory and at worst O(k m^2) time. On a CPU the time is usually much less
    (`greedy.cover.lazy`). For many tokens the search takes at most a quarter of that memory, and
    about the time of one pass over all distances (`greedy.cover.blockwise`).

    Attributes:
        question, saliency: see `Attending`. 0.8 is what `otprune bench quality` has for questions.
        metric: "cosine" measures between tokens at unit length (a zero token stays zero),
            "euclidean" between tokens as they are.
    """

    metric: Metric = "cosine"

    name: ClassVar[str] = "transport"
    summary: ClassVar[str] = "true optimal transport with free mass: greedy facility location"
    nested: ClassVar[bool] = True
    uses: ClassVar[frozenset[Cue]] = frozenset({"weights"})
    certifies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metric not in get_args(Metric):
            raise OTPruneError(f'metric={self.metric!r}: expected "cosine" or "euclidean"')

    @property
    def assignment_metric(self) -> Metric:
        return self.metric

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        points, norms = transport.embed_norms(tokens, self.metric)
        mass = self.mass_or_ones(tokens, cues)
        return cover.greedy(points, mass / mass.shape[-1], k, ties.preference(norms))

    def _certify(self, tokens: Tensor, order: Tensor, cues: Cues) -> Certificate:
        points = transport.embed(tokens, self.metric)[0]
        mass = self.mass_or_ones(tokens, cues)[0]
        distance = squared_distances(points, points)
        return transport.certify(distance, mass / len(points), order)
