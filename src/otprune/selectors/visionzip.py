"""VisionZip: dominant tokens, and contextual ones that stand for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from otprune.greedy import ties
from otprune.numerics.normalize import norms, unit_rows
from otprune.selectors.base import Selector
from otprune.selectors.cues import Cue, Cues
from otprune.selectors.settings import number


@dataclass(frozen=True)
class VisionZip(Selector):
    """Keeps the most salient tokens (dominant), and others at even steps (contextual).

    The method of VisionZip (arXiv 2412.04467, CVPR 2025), implemented from its description. Of k
    tokens `round(k * dominant_ratio)` are the most salient ones. Of the n others, in their order in
    the image, every s-th is kept, `s = max(1, n // c)`, from the first on, until there are c.

    With `merge=True` contextual tokens are merged as published: each token that is not kept belongs
    to the contextual token whose key is nearest, by the cosine of the keys' mean over heads, and a
    contextual token becomes its feature *plus* the mean of the features that belong to it (nothing,
    if none do). Dominant tokens do not change. Masses are those of any method (`reduce`).

    Attributes:
        dominant_ratio: share of the kept tokens that are dominant, 0 to 1. Published: 54 of 64, 108
            of 128, 162 of 192, which are all 0.84375.

    Differences from the published code: the class token, which is one of its dominant ones, is not
    among the tokens of a model here, and another patch takes its place; features are merged behind
    the projector, if the tokens are from there; kept tokens stay in the order of the image; exactly
    k tokens of a whole image are kept, there k of each tile.
    """

    dominant_ratio: float = 54 / 64

    name: ClassVar[str] = "visionzip"
    summary: ClassVar[str] = "VisionZip: the largest attention, and others at even steps"
    needs: ClassVar[frozenset[Cue]] = frozenset({"saliency", "keys"})
    merges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        number(self, "dominant_ratio", least=0.0, most=1.0)

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        ranked = ties.top(cues.saliency, tokens.shape[1], ties.preference(norms(tokens)))
        dominant = round(k * self.dominant_ratio)
        contextual = k - dominant
        if not contextual:
            return ranked[:, :k]
        rest = ranked[:, dominant:].sort(dim=-1).values
        step = max(1, rest.shape[1] // contextual)
        return torch.cat([ranked[:, :dominant], rest[:, ::step][:, :contextual]], dim=-1)

    def merge_weights(self, tokens: Tensor, indices: Tensor, cues: Cues) -> Tensor:
        k = indices.shape[1]
        leaders = ties.top(
            cues.saliency, round(k * self.dominant_ratio), ties.preference(norms(tokens))
        )
        everyone = torch.zeros_like(cues.saliency)
        contextual = everyone.scatter(1, leaders, 1.0).gather(1, indices) == 0
        dropped = everyone.scatter(1, indices, 1.0) == 0
        keys = unit_rows(cues.keys.mean(dim=2))
        near = keys.gather(1, indices.unsqueeze(-1).expand(-1, -1, keys.shape[-1])) @ keys.mT
        near.masked_fill_(~contextual.unsqueeze(-1), -torch.inf)
        tied = near >= near.amax(dim=1, keepdim=True) - ties.TOLERANCE
        place = torch.arange(k, device=tokens.device).unsqueeze(-1)
        owner = torch.where(tied, place, k).amin(dim=1, keepdim=True)
        share = ((owner == place) & contextual.unsqueeze(-1) & dropped.unsqueeze(1)).float()
        share /= share.sum(dim=-1, keepdim=True).clamp(min=1)
        return share.scatter(2, indices.unsqueeze(-1), 1.0)
