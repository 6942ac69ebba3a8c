"""What `otprune bench efficiency` measures: shapes of models, ratios, repeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from otprune.engines.common.stage import EncoderStage
from otprune.selectors import Selector
from otprune_bench.methods import TOKENS_ALONE, UNPRUNED
from otprune_bench.timing.shapes import LLAVA, ONEVISION, TINY, Shape

KEEPS = (0.5, 0.25, 0.098)
# Name and selector of what is compared; None for the unpruned model.
PRUNED: dict[str, Selector] = {
    f"{name}@{keep}": method(keep) for keep in KEEPS for name, method in TOKENS_ALONE.items()
}
SETTINGS: dict[str, Selector | None] = {UNPRUNED: None, **PRUNED}
CHECKED = (UNPRUNED, "otprune@0.098")  # also run from pixels, and beside busy processes
STAGED = "otprune@0.098"  # in front of the language model where the encoder selects too
WHOLE = "whole"  # the encoder without a selection inside it
# Mean prompt lengths, without the image, of the eleven benchmarks in OTPrune's tables.
PUBLISHED_TEXT = (15, 15, 23, 83, 25, 113, 15, 39, 21, 91, 57)
PUBLISHED_TFLOP = {576: 3.228, 56: 0.512}


@dataclass(frozen=True)
class Plan:
    """A whole run.

    Attributes:
        shapes: models that are run.
        tokens: shapes (m, d) of the tokens on which selectors are timed alone.
        new: tokens generated in each call.
        repeats: rounds of all settings.
        stages: selections inside the encoder, side by side with none.
        dtype: of weights and activations, by its name in torch.
        encoder_only: run only what compares the stages.
    """

    shapes: tuple[Shape, ...] = (LLAVA, ONEVISION)
    tokens: tuple[tuple[int, int], ...] = ((576, 4096), (1485, 896))
    new: int = 5
    repeats: int = 3
    stages: tuple[EncoderStage, ...] = (EncoderStage(0.35, 0.25), EncoderStage(0.35, 0.6))
    dtype: str = "bfloat16"
    encoder_only: bool = False
    quick: bool = False
    seed: int = 0

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def encoders(self) -> dict[str, EncoderStage | None]:
        """What is compared inside the encoder, by name: none, and the stages."""
        return {WHOLE: None} | {f"keep {x.keep} after {x.after}": x for x in self.stages}

    def settings(self) -> dict[str, Any]:
        """As a report shows them."""
        return {
            "seed": self.seed,
            "quick": self.quick,
            "dtype": self.dtype,
            "encoder": ", ".join(self.encoders),
            "encoder only": self.encoder_only,
        }


FULL = Plan()
QUICK = Plan((TINY,), tokens=((144, 128),), new=4, repeats=2, quick=True)
