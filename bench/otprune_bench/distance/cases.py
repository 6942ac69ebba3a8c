"""Do kept tokens answer better if attention makes up for their distance, and at which positions?

Every combination of positions, form, mass and distance term, on the embedded model and others of
its kind, alone and behind other text.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch

from otprune.measures.mass import log_mass
from otprune.selectors import METHODS
from otprune_bench.distance.plan import FORMS, SETTINGS, key
from otprune_bench.embedded import scoring
from otprune_bench.embedded.evaluation import SeveralModels
from otprune_bench.methods import UNPRUNED
from otprune_bench.runs.cases import Case


class Evaluation(SeveralModels):
    """The answers of pruned models."""

    def pruned(self, name: str, before: int, keep: float, method: str) -> dict[str, Any]:
        """One case: setting to `{"right": "0110...", "loss": mean loss}`."""
        model, tokens = self.model(name)
        m = tokens.shape[1]
        selector = METHODS[method](keep)
        made = [selector.reduce(x, merge=True) for x in tokens]
        indices = torch.stack([each.indices for each in made])
        masses = torch.stack([each.masses for each in made])
        merged = torch.stack([each.features for each in made])
        kept = scoring.gather(tokens, indices)
        return {
            str(setting): self._outcome(
                model,
                before,
                merged if FORMS[setting.form] else kept,
                indices,
                m,
                setting.positions,
                None if setting.mass == "none" else log_mass(masses, m, setting.mass),
                setting.distance,
            )
            for setting in SETTINGS
        }

    def unpruned(self, name: str, before: int) -> dict[str, Any]:
        """What all others are compared with."""
        model, tokens = self.model(name)
        m = tokens.shape[1]
        return self._outcome(model, before, tokens, torch.arange(m).expand(len(tokens), -1), m)

    def _outcome(self, model: Any, before: int, *how: Any) -> dict[str, Any]:
        packed = self.packed(before)
        found = scoring.score_chunks(model, packed, *how)
        right = found.answers == torch.cat([part.answer for part in packed])
        return {
            "right": "".join(map(str, right.int().tolist())),
            "loss": round(float(np.mean(found.losses.numpy())), 4),
        }


def cases(evaluation: Evaluation) -> Iterable[Case]:
    """Unpruned models first, then method by method."""
    plan = evaluation.plan
    for model in plan.names:
        for before in plan.before:
            yield key(model, before, UNPRUNED, 1.0), partial(evaluation.unpruned, model, before)
    for method in plan.methods:
        for model in plan.names:
            for before in plan.before:
                for keep in plan.keeps:
                    case = partial(evaluation.pruned, model, before, keep, method)
                    yield key(model, before, method, keep), case
