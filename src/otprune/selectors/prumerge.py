"""LLaVA-PruMerge and PruMerge+: the most salient tokens, each with the tokens of similar keys."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor

from otprune.greedy import ties
from otprune.numerics.normalize import norms, unit_rows
from otprune.selectors.base import Selector
from otprune.selectors.cues import Cue, Cues
from otprune.selectors.settings import number, whole


@dataclass(frozen=True)
class PruMerge(Selector):
    """Keeps the k tokens of largest saliency.

    The method of LLaVA-PruMerge (arXiv 2403.15388, ICCV 2025), implemented from its description.

    With `merge=True` tokens are merged as published: a kept token i becomes
    `x_i + sum_j saliency_j x_j` over the other tokens j, kept or not, whose keys have the largest
    cosine to its key. The weights are not normalised: the saliency of all tokens should sum to
    about 1, as attention does. Masses are those of any method (`reduce`).

    Attributes:
        neighbours: how many tokens are merged into each kept one; published with 32.

    Differences from the published code: `keep` says how many tokens are kept, there the number of
    outliers of the saliency does, about 40 of 576; saliency and keys are those of the layer that
    produced the features, with its heads, there of the next layer as one head of full width; the
    extra token at the end, the sum of `saliency_j x_j` over all that was not kept, is left out;
    kept tokens stay in the order of the image.
    """

    neighbours: int = 32

    name: ClassVar[str] = "prumerge"
    summary: ClassVar[str] = "PruMerge: the largest attention; merges tokens of similar keys"
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[Cue]] = frozenset({"saliency", "keys"})
    merges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "neighbours")

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        return ties.top(cues.saliency, k, ties.preference(norms(tokens)))

    def merge_weights(self, tokens: Tensor, indices: Tensor, cues: Cues) -> Tensor:
        return neighbour_weights(tokens, indices, cues, self.neighbours)


@dataclass(frozen=True)
class PruMergePlus(Selector):
    """Keeps the most salient tokens, and others spread evenly over the image.

    The method of PruMerge+ (arXiv 2403.15388, ICCV 2025), implemented from its description. Of k
    tokens `ceil(k * salient_ratio)` are the most salient ones. Of the n others, in their order in
    the image, c are kept at the places `floor((2 i + 1) n / (2 c))`, i = 0 to c - 1.

    With `merge=True` kept tokens of both kinds are merged as in `PruMerge`.

    Attributes:
        salient_ratio: share of the kept tokens that are chosen by saliency, 0 to 1. One half, as
            published for a fixed budget: 72 outliers and 72 even places of 576 tokens.
        neighbours: how many tokens are merged into each kept one; published with 32.

    Differences from the published code: those of `PruMerge`; even places are counted among the
    tokens that are not kept yet, so that exactly k different tokens are kept, there among all, so
    that one may be kept twice.
    """

    salient_ratio: float = 0.5
    neighbours: int = 32

    name: ClassVar[str] = "prumerge+"
    summary: ClassVar[str] = "PruMerge+: the largest attention, and others spread evenly"
    needs: ClassVar[frozenset[Cue]] = frozenset({"saliency", "keys"})
    merges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        number(self, "salient_ratio", least=0.0, most=1.0)
        whole(self, "neighbours")

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        ranked = ties.top(cues.saliency, tokens.shape[1], ties.preference(norms(tokens)))
        salient = ceil(k * self.salient_ratio)
        spread = k - salient
        if not spread:
            return ranked[:, :k]
        rest = ranked[:, salient:].sort(dim=-1).values
        place = (2 * torch.arange(spread, device=rest.device) + 1) * rest.shape[1] // (2 * spread)
        return torch.cat([ranked[:, :salient], rest[:, place]], dim=-1)

    def merge_weights(self, tokens: Tensor, indices: Tensor, cues: Cues) -> Tensor:
        return neighbour_weights(tokens, indices, cues, self.neighbours)


def neighbour_weights(tokens: Tensor, indices: Tensor, cues: Cues, neighbours: int) -> Tensor:
    """`PruMerge`'s merging, `(B, k, m)`; fewer neighbours if there are not so many other tokens."""
    batch, k = indices.shape
    m = tokens.shape[1]
    keys = unit_rows(cues.keys.flatten(2))
    near = keys.gather(1, indices.unsqueeze(-1).expand(-1, -1, keys.shape[-1])) @ keys.mT
    near.add_(1).clamp_(min=0).scatter_(2, indices.unsqueeze(-1), 0.0)  # 0 to 2, itself last
    tie_order = ties.preference(norms(tokens)).unsqueeze(1).expand(-1, k, -1)
    # Behind all others, also those of cosine -1.
    tie_order = tie_order.scatter(2, indices.unsqueeze(-1), m)
    nearest = ties.top(near.flatten(0, 1), min(neighbours, m - 1), tie_order.flatten(0, 1))
    nearest = nearest.unflatten(0, (batch, k))
    saliency = cues.saliency.unsqueeze(1).expand(-1, k, -1)
    weights = torch.zeros_like(near).scatter_(2, nearest, saliency.gather(2, nearest))
    return weights.scatter_(2, indices.unsqueeze(-1), 1.0)
