"""Additional information about tokens that a method may use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Cue = Literal["weights", "saliency", "question", "grid"]
CUES: tuple[Cue, ...] = get_args(Cue)


@dataclass(frozen=True, eq=False)
class Cues:
    """Additional information about B sets of m tokens; a field that is not known is None.

    `Selector.uses` names the fields that a method uses, `Selector.needs` those that it requires.
    Only `weights` can be given today; the other fields are reserved for engines.

    Attributes:
        weights: `(B, m)` float32, non-negative and of mean 1 in each set: how much each token
            counts in the full set.
        saliency: `(B, m)` float32, how much a model attends to each token.
        question: `(B, n, d)` float32, the embedded tokens of the question.
        grid: `(B, m, 2)` int64, row and column of each token on the image.
    """

    weights: Tensor | None = None
    saliency: Tensor | None = None
    question: Tensor | None = None
    grid: Tensor | None = None

    @property
    def given(self) -> tuple[Tensor | None, ...]:
        """The fields in the order of `CUES`."""
        return self.weights, self.saliency, self.question, self.grid

    def each(self, change: Callable[[Tensor], Tensor]) -> Cues:
        """`change` applied to each field that is not None."""
        return Cues(*(None if x is None else change(x) for x in self.given))

    @staticmethod
    def joined(several: Sequence[Cues]) -> Cues:
        """Several cues with the same fields, concatenated along B."""
        fields = zip(*(cues.given for cues in several), strict=True)
        return Cues(*(_cat([x for x in field if x is not None]) for field in fields))


def _cat(parts: list[Tensor]) -> Tensor | None:
    return torch.cat(parts) if parts else None
