"""FasterVLM: the tokens that the vision encoder attends to most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from otprune.greedy import ties
from otprune.numerics.normalize import norms
from otprune.selectors.base import Selector
from otprune.selectors.cues import Cue, Cues


@dataclass(frozen=True)
class FasterVLM(Selector):
    """Keeps the k tokens of largest saliency, the attention of the encoder's class token.

    The method of FasterVLM (arXiv 2412.01818, version 1), implemented from its description.

    Differences from the published code: exactly k tokens of a whole image are kept, there k of each
    tile; ties follow the library's rule, there they are not defined.
    """

    name: ClassVar[str] = "fastervlm"
    summary: ClassVar[str] = "FasterVLM: the largest attention in the vision encoder"
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[Cue]] = frozenset({"saliency"})

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        return ties.top(cues.saliency, k, ties.preference(norms(tokens)))
