"""Evenly spread tokens of every frame."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from otprune.streaming.frames import NONE, check_frame, check_settings, number


class UniformStream:
    """Keeps evenly spread tokens of every frame, as many of each. A baseline.

    Of k tokens a frame, each is the middle one of a kth of the frame (as `GridPrune`). The places
    are the same in every frame of a size.

    Args:
        rate: tokens a frame, more than 0. Where it is not whole, frames of one more and one less
            alternate so that the first T frames keep `floor(rate * T)` (fewer where a frame has
            fewer tokens).

    Raises:
        OTPruneError: `rate` is not more than 0.
    """

    needs: ClassVar[frozenset[str]] = NONE

    def __init__(self, rate: float) -> None:
        self.rate = number("rate", rate, above=0.0)
        self._frames = 0
        self._features: int | None = None

    @torch.no_grad()
    def push(self, frame: Any, *, patches: Any = None) -> Tensor:
        """The next frame: indices of its tokens to keep; see `FrameSelector.push`."""
        tokens = check_frame(frame, self._features, patches, self.needs)
        m, self._features = tokens.shape
        k = int(self.rate * (self._frames + 1)) - int(self.rate * self._frames)
        self._frames += 1
        if k >= m:
            return torch.arange(m, device=tokens.device)
        return (2 * torch.arange(k, device=tokens.device) + 1) * m // max(2 * k, 1)

    def state_dict(self) -> dict[str, Tensor]:
        """All that the next frames depend on, as tensors."""
        seen = torch.tensor([self._frames, self._features or 0])
        return {"settings": self._settings(), "seen": seen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue another selector of the same settings.

        Raises:
            OTPruneError: the state is of other settings.
        """
        check_settings(state, self._settings(), "UniformStream")
        self._frames, features = state["seen"].tolist()
        self._features = features or None

    def _settings(self) -> Tensor:
        return torch.tensor([self.rate], dtype=torch.float64)
