"""Uniformly random tokens."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar

import torch
from torch import Tensor

from otprune.errors import OTPruneError
from otprune.selectors.base import Selector
from otprune.selectors.cues import Cues


@dataclass(frozen=True)
class RandomPrune(Selector):
    """Keeps k positions drawn uniformly without replacement. A baseline.

    The choice depends only on the seed, m and k: it is the same on every device, for every image of
    m tokens and for every set of a batch. Vary the seed for independent draws.
    """

    seed: int = 0

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "baseline: uniformly random positions, by seed"
    positional: ClassVar[bool] = True
    nested: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        seed: object = self.seed
        if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**63:
            raise OTPruneError(f"seed={seed!r}: expected a non-negative whole number below 2**63")
        object.__setattr__(self, "seed", int(seed))

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        batch, m, _ = tokens.shape
        # Always on the CPU, since the generators of other devices give other numbers.
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        drawn = torch.randperm(m, generator=generator, device="cpu")[:k]
        return drawn.to(tokens.device).expand(batch, k)
