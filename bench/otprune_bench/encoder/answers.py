"""The embedded model's answers after a selection inside its encoder and one behind it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otprune.demo import load
from otprune.engines.common.among import reduce_among
from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers.tower import staged
from otprune.measures.cells import Cells
from otprune.measures.mass import log_mass
from otprune.selectors import Cues
from otprune_bench.embedded import scoring, tasks
from otprune_bench.encoder.plan import FINALS, SPLITS, Plan, Stage, behind
from otprune_bench.methods import Choose


class Evaluation:
    """The tasks of a split, and the answers to them."""

    def __init__(self, plan: Plan, split: str, photos: Path) -> None:
        number = SPLITS.index(split)
        below = tasks.backgrounds(plan.photographs, photos, plan.seed)[number::2]
        self.tasks = tasks.make(below, plan.images, 1000 * (1 + number) + plan.seed)
        self.questions = tasks.Questions.about(self.tasks)

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        return load()

    @cached_property
    def _pixels(self) -> list[Tensor]:
        return scoring.pixels(self._model[1], [task.image for task in self.tasks])

    @cached_property
    def _packed(self) -> list[scoring.PackedQuestions]:
        return scoring.pack_chunks([task.questions for task in self.tasks])

    def unpruned(self) -> dict[str, Any]:
        """What all others are compared with."""
        tokens = scoring.encode_pixels(self._model[0], self._pixels)
        return {f"{FINALS[0]:g}": self._final(FINALS[0], tokens, None)}

    def one(self) -> dict[str, Any]:
        """One selection, behind the encoder."""
        tokens = scoring.encode_pixels(self._model[0], self._pixels)
        return {f"{final:g}": self._final(final, tokens, None) for final in FINALS}

    def staged(self, stage: Stage, choose: Choose) -> dict[str, Any]:
        """A selection inside the encoder, and one behind it at each of `FINALS`."""
        tokens, cells = self.encode(stage, choose)
        return {f"{final:g}": self._final(final, tokens, cells) for final in FINALS}

    def encode(self, stage: Stage, choose: Choose) -> tuple[Tensor, list[Cells]]:
        """Tokens of every image, `(P, 144, 128)`, and what the stage kept of them."""
        pixels = self._pixels
        if choose(stage.keep, 0) != choose(stage.keep, 1):  # a selector for each image
            pixels = list(torch.cat(pixels).split(1))
        tokens, cells = [], list[Cells]()
        for i, some in enumerate(pixels):
            inside = EncoderStage(
                selector=choose(stage.keep, i), after=stage.after, mass=stage.mass
            )
            with staged(self._model[0], inside) as calls:
                tokens.append(scoring.encode_pixels(self._model[0], [some]))
            cells += calls[0].cells
        return torch.cat(tokens), cells

    def _final(self, keep: float, tokens: Tensor, cells: Sequence[Cells] | None) -> dict[str, Any]:
        right, losses = self.score(keep, tokens, cells)
        return {
            "right": "".join(map(str, right.int().tolist())),
            "loss": round(float(losses.mean()), 4),
        }

    def score(
        self, keep: float, tokens: Tensor, cells: Sequence[Cells] | None
    ) -> tuple[Tensor, Tensor]:
        """Which answers are right, `(Q,)` bool, and their losses, `(Q,)`.

        The selection behind the encoder is that of `behind`; at 1.0 there is none.

        Args:
            keep: share of the tokens for the language model.
            tokens: `(P, m, d)`.
            cells: what was kept of them inside the encoder.
        """
        how, m = behind(keep), tokens.shape[1]
        if keep == 1.0:
            indices, features, bias = torch.arange(m).expand(len(tokens), -1), tokens, None
        else:
            if cells is None:
                made = [how["selector"].reduce(each, merge=how["merge"]) for each in tokens]
            else:
                empty = [Cues()] * len(tokens)
                made = reduce_among(how["selector"], list(tokens), cells, how["merge"], empty)
            indices = torch.stack([each.indices for each in made])
            features = torch.stack([each.features for each in made])
            masses = torch.stack([each.masses for each in made])
            bias = log_mass(masses, m, how["mass"])
        model, _ = self._model
        found = scoring.score_chunks(model, self._packed, features, indices, m, log_mass=bias)
        answer = torch.cat([part.answer for part in self._packed])
        return found.answers == answer, found.losses
