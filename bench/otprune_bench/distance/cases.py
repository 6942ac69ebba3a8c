"""Do kept tokens answer better if attention makes up for their distance, and at which positions?

Every combination of positions, form, mass and distance term, on the embedded model and others of
its kind, alone and behind other text.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprune.demo import MODEL_DIR, load
from otprune.measures.mass import log_mass
from otprune.selectors import METHODS
from otprune_bench.distance.plan import EMBEDDED, FORMS, SETTINGS, SPLITS, Plan, key
from otprune_bench.embedded import scoring, tasks
from otprune_bench.methods import UNPRUNED
from otprune_bench.runs.cases import Case


class Evaluation:
    """The tasks of a split, and the answers of several models to them."""

    def __init__(self, plan: Plan, photos: Path) -> None:
        self.plan = plan
        split = SPLITS.index(plan.split)
        below = tasks.backgrounds(plan.photographs, photos, plan.seed)[split::2]
        self.tasks = tasks.make(below, plan.images, 1000 * (1 + split) + plan.seed)
        self.questions = tasks.Questions.about(self.tasks)
        self._folders = {EMBEDDED: MODEL_DIR} | {name: Path(to) for name, to in plan.models}

    @cache  # noqa: B019 - an evaluation lives as long as the run
    def model(self, name: str) -> tuple[Any, Tensor]:
        """A model and its tokens of every image, `(P, 144, 128)`."""
        model, processor = load(self._folders[name])
        return model, scoring.encode(model, processor, [task.image for task in self.tasks])

    @cache  # noqa: B019
    def _packed(self, before: int) -> list[scoring.PackedQuestions]:
        """The questions, behind so many answered others."""
        text = [tasks.unrelated_questions(task, before, self.plan.seed) for task in self.tasks]
        return scoring.pack_chunks([task.questions for task in self.tasks], text)

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
        packed = self._packed(before)
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
