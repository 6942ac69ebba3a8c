"""SCOPE: coverage of the image by salient tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from otprune.greedy import coverage, ties
from otprune.numerics.normalize import norms, unit_rows
from otprune.numerics.products import gram
from otprune.selectors.base import Selector
from otprune.selectors.cues import Cue, Cues
from otprune.selectors.settings import number


@dataclass(frozen=True)
class SCOPE(Selector):
    """Greedily covers the image, gains multiplied by saliency.

    The method of SCOPE (arXiv 2510.24214, NeurIPS 2025), implemented from its description. Each
    step keeps the token j of largest

        saliency_j^saliency_power * sum_i max(0, cos(u_i, u_j) - covered_i)

    where u are the encoder's features before the projector, and `covered_i` is the largest cosine
    of u_i to a kept token, and at least 0. With `saliency_power=0` this is facility location.
    O(m^2) memory, O(k m^2) time.

    Attributes:
        saliency_power: exponent of the saliency (alpha), >= 0; published with 1.

    Differences from the published code: computation is in float32, there in the model's dtype;
    exactly k tokens of a whole image are kept, there an equal part of each tile; saliency is the
    mean over heads, there the sum, which makes no difference.
    """

    saliency_power: float = 1.0

    name: ClassVar[str] = "scope"
    summary: ClassVar[str] = "SCOPE: greedy coverage of the image, weighted by saliency"
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[Cue]] = frozenset({"saliency", "encoded"})

    def __post_init__(self) -> None:
        super().__post_init__()
        number(self, "saliency_power", least=0.0)

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        similarity = gram(unit_rows(cues.encoded))
        quality = _scaled(cues.saliency).pow(self.saliency_power)
        return coverage.greedy(similarity, k, ties.preference(norms(tokens)), quality)


def _scaled(saliency: Tensor) -> Tensor:
    """At most 1, so that no power of it leaves the range of float32."""
    largest = saliency.amax(dim=-1, keepdim=True)
    return saliency / largest.clamp(min=1e-38)
