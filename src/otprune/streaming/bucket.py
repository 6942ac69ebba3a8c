"""A budget over frames without end: tokens come in at a rate, and what is kept is paid for."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from otprune.errors import OTPruneError
from otprune.streaming.frames import number, whole


class Budgeted:
    """Base of selectors with a budget: see `StreamSelector`, also for the arguments.

    Raises:
        OTPruneError: a number outside its limits.
    """

    def __init__(
        self, rate: float, floor: int, ceiling: int | None, burst: float | None, novelty: float
    ) -> None:
        self.rate = number("rate", rate, above=0.0)
        self.floor = whole("floor", floor, least=0)
        self.ceiling = None if ceiling is None else whole("ceiling", ceiling, least=1)
        self.burst = max(8 * self.rate, 1.0) if burst is None else number("burst", burst, above=0.0)
        self.novelty = number("novelty", novelty, above=0.0)
        if self.floor > self.rate:
            raise OTPruneError(f"floor={floor} is more than rate={rate}: no rate could hold it")
        if self.ceiling is not None and self.ceiling < self.floor:
            raise OTPruneError(f"ceiling={ceiling} is less than floor={floor}")
        if self.burst < max(self.rate, 1.0):
            raise OTPruneError(f"burst={burst}: expected at least a frame's rate, and one token")
        if self.novelty >= 1:
            raise OTPruneError(f"novelty={novelty}: expected more than 0 and less than 1")
        self._left = self.burst

    @property
    def _settings(self) -> list[float | None]:
        """What a state depends on."""
        return [self.rate, self.floor, self.ceiling, self.burst, self.novelty]

    def _fill(self) -> None:
        """The next frame's tokens come in."""
        self._left = min(self.burst, self._left + self.rate)

    def _prices(self, tokens: Tensor) -> Tensor:
        """The least novelty of the first, second, ... token kept of `(m, d)`: `(n,)` float32."""
        m = tokens.shape[0]
        most = min(m, int(self._left), m if self.ceiling is None else self.ceiling)
        floor = min(m, self.floor)
        prices = [
            -math.inf if t < floor else self.novelty ** ((self._left - t) / self.burst)
            for t in range(max(most, floor))
        ]
        return tokens.new_tensor(prices, dtype=torch.float32)
