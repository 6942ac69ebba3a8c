"""HoloV: a budget for each part of the image, and the most attended tokens in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from otprune.greedy import ties
from otprune.numerics.normalize import norms, unit_rows
from otprune.selectors.base import Selector
from otprune.selectors.cues import Cue, Cues
from otprune.selectors.settings import number, whole

_LEAST = 1e-6


@dataclass(frozen=True)
class HoloV(Selector):
    """Shares the budget among crops of the image; in each crop keeps the most salient tokens.

    The method of HoloV (arXiv 2510.02912, NeurIPS 2025), implemented from its description. A crop
    is a run of consecutive tokens; sizes differ by at most one, larger ones first. In a crop of n
    tokens with saliency a, `S` is their cosine similarity with zeros on the diagonal, and

        mu_i = sum_j S_ij / (n - 1),  var_i = sum_j (S_ij - mu_i)^2 / (n - 1)
        score = mean_i(a_i + diversity * var_i * mean(a) / (mean(var) + 1e-6))

    A crop's weight is its share w of all scores. It gets `floor(w k)` tokens, and what is left goes
    one by one to the crops of largest w. In its crop a token is kept by its saliency alone.

    So diversity moves the budget only; and since the variances are divided by their mean, a crop's
    score is close to `(1 + diversity) mean(a)` unless its tokens hardly differ.

    Attributes:
        crops: number of crops; published with 16 for LLaVA, and with 1.78 m / k for Qwen-VL.
        diversity: weight of the variance; published with 0.09.

    Differences from the published code: exactly k tokens are kept. What a crop has no tokens for
    goes to the others, one by one in the order of their weights, there it is lost and zero tokens
    take its place. The factor of 1000 on the saliency, which cancels, is left out, also for crops
    of one token, where it does not. Kept tokens stay in the order of the image.
    """

    crops: int = 16
    diversity: float = 0.09

    name: ClassVar[str] = "holov"
    summary: ClassVar[str] = "HoloV: the largest attention in each of several crops"
    needs: ClassVar[frozenset[Cue]] = frozenset({"saliency"})

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "crops")
        number(self, "diversity", least=0.0)

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        m = tokens.shape[1]
        crops = min(self.crops, m)
        # Crops begin after those of m // crops tokens, and one token more in each of the first.
        start = torch.arange(crops + 1, device=tokens.device)
        start = start * (m // crops) + start.clamp(max=m % crops)
        within = torch.arange(-(-m // crops), device=tokens.device)
        real = within < start.diff().unsqueeze(-1)
        place = (start[:-1, None] + within).clamp(max=m - 1)
        saliency = cues.saliency[:, place].masked_fill(~real, 0.0)
        score = self._scores(unit_rows(tokens)[:, place], saliency, real)
        total = score.sum(dim=-1, keepdim=True)
        weight = torch.where(total > 0, score / torch.where(total > 0, total, 1.0), 1 / crops)
        # Every token's place by saliency in its crop, and where in the queue that puts it: inside
        # its crop's share a negative number, then one token of each crop in turn.
        ranked = ties.top(cues.saliency, m, ties.preference(norms(tokens)))
        rank = ranked.argsort(dim=-1)[:, place].masked_fill(~real, m)
        rank = rank.argsort(dim=-1).argsort(dim=-1)
        share = (weight * k).floor().long()
        queue = (rank - share.unsqueeze(-1)) * crops + ties.preference(weight).unsqueeze(-1)
        queue = queue.masked_fill(~real, m * crops)
        first = queue.flatten(1).topk(k, dim=-1, largest=False).indices
        return place.flatten()[first]

    def _scores(self, points: Tensor, saliency: Tensor, real: Tensor) -> Tensor:
        """Scores of the crops, `(B, crops)`.

        Args:
            points: `(B, crops, n, d)` at unit length.
            saliency: `(B, crops, n)`, zero where there is no token.
            real: `(crops, n)`, where there is one.
        """
        n = real.sum(dim=-1, keepdim=True)
        pairs = real.unsqueeze(-1) & real.unsqueeze(-2)
        cosine = (points @ points.mT).masked_fill(~pairs, 0.0)
        cosine.diagonal(dim1=-2, dim2=-1).zero_()
        others = (n - 1).clamp(min=1)
        mean = cosine.sum(dim=-1) / others
        spread = (cosine - mean.unsqueeze(-1)).square().masked_fill(~pairs, 0.0)
        variance = spread.sum(dim=-1) / others
        typical = saliency.sum(dim=-1, keepdim=True) / n
        usual = variance.sum(dim=-1, keepdim=True) / n
        scores = saliency + self.diversity * variance * typical / (usual + _LEAST)
        return scores.sum(dim=-1) / n.squeeze(-1)
