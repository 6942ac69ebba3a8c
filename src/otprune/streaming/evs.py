"""Efficient video sampling: over a clip, the tokens least like those of the previous frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from otprune.keep import check_keep, count
from otprune.numerics.normalize import unit_rows
from otprune.streaming.frames import cosine
from otprune.streaming.video import check_frames


@dataclass(frozen=True)
class EVS:
    """Keeps the tokens of a clip that are least like the token in their place one frame before.

    Efficient video sampling (arXiv 2510.14624), as vLLM and SGLang have it: a token's dissimilarity
    is 1 - cosine to the token in the same place of the previous frame, and the largest of the whole
    clip stay. The first frame is kept whole, whatever the rate, and so is a frame of another number
    of tokens than the one before. Ties go to the earlier token.

    Ranks over a whole clip need the clip. With a threshold in place of the rate the same rule works
    frame by frame, and that is `DTD`: `EVS` keeps what `DTD(threshold=t)` keeps, t the largest
    cosine of a kept token to the one before it.

    Departures: a number of tokens may be given in place of the rate, and a ratio is rounded as
    everywhere in otprune (theirs is rounded down). Tokens that are zero in both frames are equal.

    Attributes:
        keep: of all tokens of the clip: a ratio in (0, 1], 1 - their pruning rate, or a number.

    Raises:
        KeepError: it is neither.
    """

    keep: float | int

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", check_keep(self.keep))

    @torch.no_grad()
    def select(self, frames: Tensor | Sequence[Any]) -> list[Tensor]:
        """Indices of the tokens to keep of every frame: `(k_t,)` each, ascending, int64.

        `count(keep, number of tokens)` in all, or as many as the frames have that are kept whole,
        if those are more.

        Args:
            frames: `(T, m, d)`, or T arrays `(m_t, d)`; any floating dtype, computed in float32.

        Raises:
            TokenError: the frames are not finite floating arrays of those shapes.
        """
        tokens = check_frames(frames)
        points = [unit_rows(x.float().unsqueeze(0))[0] for x in tokens]
        new = [torch.full((len(points[0]),), torch.inf, device=points[0].device)]
        for before, now in pairwise(points):
            if before.shape == now.shape:
                new.append(1 - cosine(before, now))
            else:
                new.append(torch.full((len(now),), torch.inf, device=now.device))
        every = torch.cat(new)
        k = max(count(self.keep, len(every)), int(every.isinf().sum()))
        kept = torch.zeros_like(every, dtype=torch.bool)
        kept[every.argsort(descending=True, stable=True)[:k]] = True
        return [part.nonzero().squeeze(1) for part in kept.split([len(x) for x in tokens])]
