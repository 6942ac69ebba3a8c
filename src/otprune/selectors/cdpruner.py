"""CDPruner: a determinantal point process conditioned on the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from otprune.greedy import logdet, ties
from otprune.numerics.lowrank import LowRank
from otprune.numerics.normalize import unit_rows, unit_rows_norms
from otprune.selectors.base import Selector
from otprune.selectors.cues import Cue, Cues
from otprune.selectors.dpp import JITTER

# Added to every relevance before scaling, so that none is zero.
_LEAST = 1e-6


@dataclass(frozen=True)
class CDPruner(Selector):
    """Greedily maximises `logdet(R L R + jitter * I)` over the kept tokens: diverse and relevant.

    The method of CDPruner (arXiv 2506.10967, NeurIPS 2025), implemented from its description, in
    the form for models without a CLIP text encoder. `L` is the cosine similarity of the tokens and
    `R = diag(r)`. The relevance of a token is its cosine to the mean of the question's embedded
    tokens, scaled over the image: `r = (cos - min + 1e-6) / (max - min)`. The search is greedy MAP
    inference (Chen, Zhang and Zhou, NeurIPS 2018). If the question is empty, or all tokens are
    equally relevant, r is 1 and the choice that of `DPPPrune`.

    The published form for LLaVA takes the relevance from CLIP's text encoder, in the space that
    CLIP's text and images share. It is not available: language models in
    `transformers` come without that encoder, and `Cues.question` is in the space of the tokens.

    Differences from the published code: relevance is scaled over each image, there over all images
    of a batch; tokens are normalised in float32, there in the model's dtype; a jitter of 1e-4 keeps
    picks defined beyond the rank of the kernel, where the published search takes roots of negative
    numbers; exactly k tokens of a whole image are kept, there k of each tile.
    """

    name: ClassVar[str] = "cdpruner"
    summary: ClassVar[str] = "CDPruner: determinantal point process, given the question"
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[Cue]] = frozenset({"question"})

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        x, norms = unit_rows_norms(tokens)
        if cues.question.shape[1]:
            x = x * relevance(x, cues.question).unsqueeze(-1)
        return logdet.greedy(LowRank(x, x), k, ties.preference(norms), shift=JITTER)


def relevance(points: Tensor, question: Tensor) -> Tensor:
    """Relevance of each token to a question, `(B, m)`, between about 0 and 1.

    Args:
        points: `(B, m, d)`, tokens at unit length or zero.
        question: `(B, n, d)`, n >= 1.
    """
    mean = unit_rows(question.mean(dim=1, keepdim=True))
    cosine = (points @ mean.mT).squeeze(-1)
    least, most = torch.aminmax(cosine, dim=-1, keepdim=True)
    spread = most - least
    # What is left of the spread by rounding is none.
    same = spread <= 1e-6
    return torch.where(same, 1.0, (cosine - least + _LEAST) / torch.where(same, 1.0, spread))
