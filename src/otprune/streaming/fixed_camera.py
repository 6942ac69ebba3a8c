"""Frames of a camera that stands still: what changed beside the token kept last in each place."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from otprune.errors import TokenError
from otprune.numerics import threads
from otprune.numerics.normalize import unit_rows
from otprune.streaming.bucket import Budgeted
from otprune.streaming.frames import NONE, check_frame, check_settings, number
from otprune.streaming.novelty import NOISE

SAME = 1e-5  # how far from 1 the cosine of a token to itself may be, in float32


class FixedCameraSelector(Budgeted):
    """Keeps what changed since a token was last kept in the same place, at a bounded rate.

    For cameras that stand still, such as a robot's. `StreamSelector` asks whether anything like a
    token was kept, wherever; an arm that moves on looks as it did, so its new place is not kept.
    Here every place has a memory of its own, the token kept there last. *Novelty* is the same, of
    that one token: the share of a token's squared length that it leaves unexplained. It is
    `1 - max(0, c)^2 w / (w + 0.01)` with the cosine c to it and its weight w, 1 without forgetting:
    0.01 for a copy, 1 for a token at right angles to it.

    The first frame is kept whole, as reference of all places, and so is a frame of another number
    of tokens than the one before. Then the budget and the prices are those of `StreamSelector`: T
    more frames keep at most `burst + rate * T` tokens, the most changed ones first.

    `DTD` and VLA-Cache compare with the *previous* frame, kept or not, so that slow motion is never
    kept and what moved once is not repaired. This is conditional replenishment (Mounts, Bell System
    Technical Journal 1969) in the space of tokens. A camera that moves changes every place, and
    spends the rate on the most changed ones.

    Deterministic. One selector a stream; memory is one frame, time a frame O(m d). The host waits
    for the device once a frame.

    Args:
        rate, floor, ceiling, burst, novelty: as for `StreamSelector`.
        half_life: frames after which a kept token counts half, so that a place that stays as it is
            is kept again in time; None for no forgetting.

    Raises:
        OTPruneError: a number outside these limits.
    """

    needs: ClassVar[frozenset[str]] = NONE

    def __init__(
        self,
        rate: float,
        *,
        floor: int = 0,
        ceiling: int | None = None,
        burst: float | None = None,
        novelty: float = 0.05,
        half_life: float | None = None,
    ) -> None:
        super().__init__(rate, floor, ceiling, burst, novelty)
        self.half_life = None if half_life is None else number("half_life", half_life, above=0.0)
        self._rows: Tensor | None = None
        self._ages = torch.empty(0)

    @torch.no_grad()
    def push(self, frame: Any, *, patches: Any = None) -> Tensor:
        """The next frame: indices of its tokens to keep; see `FrameSelector.push`."""
        before = None if self._rows is None else self._rows.shape[1]
        tokens = check_frame(frame, before, patches, self.needs)
        points = unit_rows(tokens.float().unsqueeze(0))[0]
        m, device = len(points), points.device
        if self._rows is None or len(self._rows) != m:
            self._rows, self._ages = points.clone(), torch.zeros(m, device=device)
            return torch.arange(m, device=device)
        rows, ages = self._rows.to(device), self._ages.to(device) + 1
        self._fill()
        prices = self._prices(tokens)
        novelty, order = self._novelty(points, rows, ages).sort(descending=True, stable=True)
        # Novelty falls and prices rise along the order, so those kept are its first ones.
        kept = order[: len(prices)][novelty[: len(prices)] >= prices].sort().values
        self._left -= len(kept)
        rows[kept], ages[kept] = points[kept], 0
        self._rows, self._ages = rows, ages
        return kept

    @torch.no_grad()
    def forget(self, tokens: Any) -> None:
        """Tokens that were kept and are remembered no longer: their places are new again.

        Args:
            tokens: `(p, d)`, as they were pushed. One that was not kept last in any place says
                nothing, nor does one like a token that the last frame kept, which takes its place.

        Raises:
            TokenError: the tokens are not a finite floating array of that shape.
        """
        if self._rows is None:
            raise TokenError("tokens to forget, and no frame was pushed yet")
        gone = check_frame(tokens, self._rows.shape[1], None, self.needs)
        rows = self._rows.to(gone.device, copy=True)
        with threads.single(), torch.autocast(gone.device.type, enabled=False):
            alike = rows @ unit_rows(gone.float().unsqueeze(0))[0].mT
        older = self._ages.to(gone.device) > 0
        rows[(alike > 1 - SAME).any(dim=1) & older] = 0
        self._rows = rows

    def _novelty(self, points: Tensor, rows: Tensor, ages: Tensor) -> Tensor:
        known = (points * rows).sum(dim=-1).clamp(min=0).square()
        weight = 1.0 if self.half_life is None else 0.5 ** (ages / self.half_life)
        return points.square().sum(dim=-1) - known * (weight / (weight + NOISE))

    def state_dict(self) -> dict[str, Tensor]:
        """All that the next frames depend on, as tensors (`safetensors` can save them)."""
        settings = [*self._settings, self.half_life]
        given = [math.nan if x is None else float(x) for x in settings]
        state = {
            "settings": torch.tensor(given, dtype=torch.float64),
            "numbers": torch.tensor([self._left], dtype=torch.float64),
        }
        if self._rows is not None:
            state |= {"rows": self._rows.clone(), "ages": self._ages.clone()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue another selector of the same settings, with bit-identical choices.

        Raises:
            OTPruneError: the state is not one of a FixedCameraSelector of these settings.
        """
        check_settings(state, self.state_dict()["settings"], "FixedCameraSelector")
        self._left = float(state["numbers"])
        self._rows = state["rows"].clone() if "rows" in state else None
        self._ages = state["ages"].clone() if "ages" in state else torch.empty(0)
