"""What of an image a question is about, as a distribution over the image's tokens.

The text tokens of the question are a second measure in the space of the visual tokens. Each is
moved to the visual tokens by entropic transport with free marginals there: a softmax of cosines.
What arrives is how much each visual token matters to the question. Softmaxes of cosines between
word embeddings and projected tokens are MMTok's (ICLR 2026, arXiv 2508.18264, section 3); weighing
text tokens by information, pairs of them, and transport of the result are ours.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from otprune.numerics.normalize import unit_rows

# Cosines are divided by this before the softmax. 0.02, which MMTok has, is not clearly apart
# (docs/question.md).
TEMPERATURE = 0.05


def relevance(tokens: Tensor, question: Tensor) -> Tensor:
    """How much each visual token matters to a question, `(B, m)` of mean 1.

    `r = m sum_t q_t softmax_j(cos(z_t, v_j) / TEMPERATURE)`. The rows `z_t` are the text tokens and
    the mean directions of each two neighbours, so that "blue" and "star" also ask for a blue star.
    `q_t` is a row's share of the information: the Kullback-Leibler divergence of its softmax from
    the uniform distribution, over the sum of all. Function words resemble all tokens alike, and so
    have little of it; no list of words is needed.

    Args:
        tokens: `(B, m, d)` float32 or float64; only directions matter.
        question: `(B, n, d)`; with n = 0, or if no row tells tokens apart, all are 1.
    """
    m = tokens.shape[1]
    words = unit_rows(question) if question.shape[1] else question
    pairs = words[:, 1:] + words[:, :-1]
    rows = torch.cat([words, unit_rows(pairs)], dim=1) if pairs.shape[1] else words
    cosine = torch.bmm(rows, unit_rows(tokens).mT)
    log_share = F.log_softmax(cosine / TEMPERATURE, dim=-1)
    share = log_share.exp()
    information = (math.log(m) + (share * log_share).sum(dim=-1)).clamp(min=0).unsqueeze(1)
    total = information.sum(dim=-1, keepdim=True)
    # Rounding leaves about 1e-7 where nothing tells tokens apart.
    known = total > 1e-5 * max(rows.shape[1], 1)
    found = torch.bmm(information / torch.where(known, total, 1.0), share).squeeze(1) * m
    return torch.where(known.squeeze(-1), found, 1.0)
