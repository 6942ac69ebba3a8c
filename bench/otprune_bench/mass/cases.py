"""Attention mass: does it help if kept tokens weigh as much as the tokens that they stand for?

Every method, merged or not, with every way of weighing; on the embedded model and others of its
kind; alone and behind other text, since text takes attention away from an image with few tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprune.measures.mass import log_mass
from otprune_bench.embedded import scoring
from otprune_bench.embedded.evaluation import SeveralModels
from otprune_bench.mass.plan import FORMS, WEIGHINGS, Weighing, key
from otprune_bench.methods import RANDOM, UNPRUNED, Choose, methods
from otprune_bench.runs.cases import Case


class Evaluation(SeveralModels):
    """The answers of pruned models."""

    def text_tokens(self, before: int) -> float:
        """Mean number of text tokens up to a question's end."""
        pairs = zip(self.tasks, self.text_before(before), strict=True)
        lengths = [
            len(question.text.split()) + len(text.split())
            for task, text in pairs
            for question in task.questions
        ]
        return float(np.mean(lengths))

    def pruned(
        self, name: str, before: int, keep: float, choose: Choose, weighings: Sequence[str]
    ) -> dict[str, Any]:
        """One case: form to weighing to `{"right": "0110...", "loss": (P,)}`."""
        model, tokens = self.model(name)
        m = tokens.shape[1]
        made = [choose(keep, i).reduce(x, merge=True) for i, x in enumerate(tokens)]
        indices = torch.stack([each.indices for each in made])
        masses = torch.stack([each.masses for each in made])
        merged = torch.stack([each.features for each in made])
        kept = scoring.gather(tokens, indices)
        biases = {w: self._bias(WEIGHINGS[w], masses, m) for w in weighings}
        return {
            form: {
                weighing: self._outcome(
                    model, before, merged if merge else kept, indices, m, log_mass=bias
                )
                for weighing, bias in biases.items()
            }
            for form, merge in FORMS.items()
        }

    def unpruned(self, name: str, before: int) -> dict[str, Any]:
        """What all others are compared with."""
        model, tokens = self.model(name)
        m = tokens.shape[1]
        whole = torch.arange(m).expand(len(tokens), -1)
        return {"as kept": {"none": self._outcome(model, before, tokens, whole, m)}}

    def _bias(self, weighing: Weighing, masses: Tensor, m: int) -> Tensor | None:
        if weighing.mass == "none":
            return None
        if weighing.shuffled:
            masses = torch.cat(
                [self._shuffled(masses[at], at.start) for at in scoring.chunks(len(masses))]
            )
        return log_mass(masses, m, weighing.mass, weighing.alpha)

    def _shuffled(self, masses: Tensor, start: int) -> Tensor:
        rng = np.random.default_rng((self.plan.seed, start))
        order = rng.permuted(np.tile(np.arange(masses.shape[1]), (len(masses), 1)), axis=1)
        return masses.gather(1, torch.from_numpy(order))

    def _outcome(self, model: Any, before: int, *tokens: Any, **bias: Any) -> dict[str, Any]:
        packed = self.packed(before)
        found = scoring.score_chunks(model, packed, *tokens, **bias)
        right = found.answers == torch.cat([part.answer for part in packed])
        total = np.bincount(self.questions.image, weights=found.losses.numpy())
        return {
            "right": "".join(map(str, right.int().tolist())),
            "loss": [round(float(x), 3) for x in total],
        }


def cases(evaluation: Evaluation) -> Iterable[Case]:
    """Every model: alone with everything, then behind other text with the three main weighings."""
    plan = evaluation.plan
    of = methods(plan.seed, random_seeds=1)
    for model in plan.names:
        for before in plan.before:
            yield key(model, before, UNPRUNED, 1.0), partial(evaluation.unpruned, model, before)
            weighings = plan.weighings_behind(before)
            for name, choose in of.items():
                method = RANDOM if name.startswith(RANDOM) else name
                for keep in plan.keeps_behind(before):
                    case = partial(evaluation.pruned, model, before, keep, choose, weighings)
                    yield key(model, before, method, keep), case
