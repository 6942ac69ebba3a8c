"""VidCom2: tokens that stand out of their frame and of the clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprune.errors import KeepError, TokenError
from otprune.keep import check_keep
from otprune.numerics.normalize import scale_down, unit_rows
from otprune.streaming.video import check_frames

WIDTHS = tuple(2.0**n for n in range(-3, 2))  # alpha of the Gaussians
TEMPERATURE = 0.01


@dataclass(frozen=True)
class VidCom2:
    """Keeps the tokens of each frame that are least like the frame's and the clip's mean.

    VidCom2 (EMNLP 2025, arXiv 2505.14454). Of the features, the half with the lowest variance over
    the clip is looked at, tokens at unit length in it. A token's likeness to a centre c is
    `sum_a exp(-|x - c|^2 / (2 a))`, a from 1/8 to 2; the centres are the means of the clip and of
    the frame. A frame gets `keep * m * (1 + p_t - 1/T)` tokens, p the softmax at temperature 0.01
    of minus the mean likeness of its tokens to the clip, rounded, at least 1 and at most m. It
    keeps the tokens whose two likenesses have the lowest sum; ties go to the earlier one.

    Offline: it needs the whole clip. The number kept in all differs from `keep * T * m` by rounding
    and by frames that are full.

    Departures: sums of float32 are taken as they come (the published code runs in the model's
    dtype); with a single feature it is looked at, where half of it is none.

    Attributes:
        keep: a ratio in (0, 1] of each frame's tokens, on average.

    Raises:
        KeepError: it is no ratio.
    """

    keep: float

    def __post_init__(self) -> None:
        keep = check_keep(self.keep)
        if isinstance(keep, int):
            raise KeepError(f"keep={keep}: VidCom2 shares out a ratio in (0, 1], give a float")
        object.__setattr__(self, "keep", keep)

    @torch.no_grad()
    def select(self, frames: Tensor | Sequence[Any]) -> list[Tensor]:
        """Indices of the tokens to keep of every frame: `(k_t,)` each, ascending, int64.

        Args:
            frames: `(T, m, d)`, or T arrays `(m, d)` of one size; any floating dtype, computed in
                float32.

        Raises:
            TokenError: the frames are not finite floating arrays of that shape.
        """
        given = check_frames(frames)
        if len({len(x) for x in given}) > 1:
            raise TokenError(
                f"frames have {sorted({len(x) for x in given})} tokens: VidCom2 needs as many in "
                "each, (T, m, d)"
            )
        clip = torch.stack([x.float() for x in given])
        _, m, d = clip.shape
        # Scaled down, since squares leave the range of float32 sooner than the features do.
        variance = scale_down(clip.reshape(1, -1, d))[0][0].var(dim=0, unbiased=False)
        steady = variance.argsort(stable=True)[: max(1, d // 2)].sort().values
        points = unit_rows(clip[..., steady])
        to_clip = _likeness(points, points.mean(dim=(0, 1), keepdim=True))
        to_frame = _likeness(points, points.mean(dim=1, keepdim=True))
        share = (-to_clip.mean(dim=1) / TEMPERATURE).softmax(dim=0)
        budget = (self.keep * m * (1 + share - share.mean())).round().long().clamp(1, m)
        order = (to_clip + to_frame).argsort(dim=1, stable=True)
        return [row[:k].sort().values for row, k in zip(order, budget.tolist(), strict=True)]


def _likeness(points: Tensor, centre: Tensor) -> Tensor:
    square = (points - centre).square().sum(dim=-1)
    return torch.stack([(-square / (2 * width)).exp() for width in WIDTHS]).sum(dim=0)
