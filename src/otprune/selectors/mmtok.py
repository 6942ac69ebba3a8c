"""MMTok: tokens that cover the words of the question and the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from otprune.greedy import coverage, ties
from otprune.numerics.normalize import unit_rows, unit_rows_norms
from otprune.selectors.base import Selector
from otprune.selectors.cues import Cue, Cues
from otprune.selectors.settings import number

# Below this, cosines divided by the temperature would soon leave the range of float32.
_COLDEST = 1e-6
# Above this, weighted shares would soon leave the range of float32.
_HEAVIEST = 1e30


@dataclass(frozen=True)
class MMTok(Selector):
    """Greedy maximum coverage of two things at once, the question's words and the image's tokens.

    The method of MMTok (arXiv 2508.18264, ICLR 2026), implemented from its description. Rows to
    cover are the n embedded tokens w of the question and the m tokens themselves:

        P = softmax_j(cos(w_i, v_j) / text_temperature) / n
        Q = softmax_j(cos(u_i, u_j) / image_temperature) / m
        f(C) = sum_rows max_{j in C} [P; image_weight * Q]

    with tokens v, and the encoder's features u before the projector; v where `encoded` is not
    known. f is monotone and submodular, so the greedy value is at least 1 - 1/e of the best. An
    empty question has no rows; the image alone is covered. O(m (m + n)) memory, O(k m (m + n))
    time.

    Attributes:
        text_temperature: of the softmax over tokens of each word.
        image_temperature: of the softmax over tokens of each token.
        image_weight: how much the image counts beside the question.

    Differences from the published code: rows are the question's tokens, where the published code
    embeds words, some of them left out by a list; padding of the image is covered like all else;
    no answer of a second model is added to the question; any batch size.
    """

    text_temperature: float = 0.02
    image_temperature: float = 0.2
    image_weight: float = 0.5

    name: ClassVar[str] = "mmtok"
    summary: ClassVar[str] = "MMTok: greedy coverage of the question and the image"
    nested: ClassVar[bool] = True
    uses: ClassVar[frozenset[Cue]] = frozenset({"encoded"})
    needs: ClassVar[frozenset[Cue]] = frozenset({"question"})

    def __post_init__(self) -> None:
        super().__post_init__()
        number(self, "text_temperature", least=_COLDEST)
        number(self, "image_temperature", least=_COLDEST)
        number(self, "image_weight", least=0.0, most=_HEAVIEST)

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        v, norms = unit_rows_norms(tokens)
        return coverage.greedy(self._rows(v, cues).mT.contiguous(), k, ties.preference(norms))

    def _rows(self, v: Tensor, cues: Cues) -> Tensor:
        """`[P; image_weight * Q]`, `(B, n + m, m)`, for tokens at unit length."""
        u = v if cues.encoded is None else unit_rows(cues.encoded)
        image = _calibrated(u, u, self.image_temperature).mul_(self.image_weight)
        if not cues.question.shape[1]:
            return image
        words = _calibrated(unit_rows(cues.question), v, self.text_temperature)
        return torch.cat([words, image], dim=1)


def _calibrated(rows: Tensor, points: Tensor, temperature: float) -> Tensor:
    """Similarities as shares, `(B, n, m)`; all of them sum to 1."""
    return (rows @ points.mT).div_(temperature).softmax(dim=-1).div_(rows.shape[1])
