"""Evenly spaced tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from otprune.selectors.base import Selector
from otprune.selectors.cues import Cues


@dataclass(frozen=True)
class GridPrune(Selector):
    """Keeps the middle token of each of k equal segments of the set. A baseline.

    Uses positions only: every image of m tokens keeps the same ones.
    """

    name: ClassVar[str] = "grid"
    summary: ClassVar[str] = "baseline: evenly spaced positions"
    positional: ClassVar[bool] = True

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        batch, m, _ = tokens.shape
        middle = (2 * torch.arange(k, device=tokens.device) + 1) * m // (2 * k)
        return middle.expand(batch, k)
