"""Differential token drop of TimeChat-Online."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from otprune.streaming.frames import NONE, Comparing, check_frame, number


class DTD(Comparing):
    """Drops a token that is like the token in the same place of the previous frame.

    Differential token drop (TimeChat-Online, ACM MM 2025, arXiv 2504.17343), its "feature" mode
    with an absolute threshold: a token is dropped if its cosine to that token exceeds `threshold`.
    The first frame is kept whole, and so is a frame of another number of tokens than the one
    before. What is kept is not bounded: everything, while the camera moves.

    The previous frame is the whole one, dropped tokens too, so that a change slower than the
    threshold a frame is never kept. Memory is one frame.

    Departures: the "pixel" mode and the mode that drops a fixed share of a clip are left out (the
    latter is `EVS`). Tokens that are zero in both frames are equal here; by their formula their
    cosine is 0.

    Args:
        threshold: in (-1, 1]; 0.25 is that of the authors' demo, for the tokens of Qwen2.5-VL.
            Other encoders need others, such as 0.9: measure with frames of your own.

    Raises:
        OTPruneError: it is not in (-1, 1].
    """

    needs: ClassVar[frozenset[str]] = NONE

    def __init__(self, threshold: float = 0.25) -> None:
        super().__init__()
        self.threshold = number("threshold", threshold, above=-1.0, most=1.0)

    @torch.no_grad()
    def push(self, frame: Any, *, patches: Any = None) -> Tensor:
        """The next frame: indices of its tokens to keep; see `FrameSelector.push`."""
        tokens = check_frame(frame, self._previous.features, patches, self.needs)
        alike = self._previous.cosine(tokens)
        if alike is None:
            return torch.arange(len(tokens), device=tokens.device)
        return (alike <= self.threshold).nonzero().squeeze(1)

    def _settings(self) -> Tensor:
        return torch.tensor([self.threshold], dtype=torch.float64)
