"""What pruning costs: answers of the embedded model with every method, ratio and setting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprune.demo import load
from otprune_bench.alignment.plan import AS_KEPT, KEEPS, SETTINGS, Plan
from otprune_bench.embedded import scoring, spaces, tasks
from otprune_bench.methods import RANDOM, UNPRUNED, Choose, methods
from otprune_bench.runs.cases import Case


class Evaluation:
    """The tasks of a run, the embedded model's tokens of their images, and its answers."""

    def __init__(self, plan: Plan, photos: Path) -> None:
        self.plan = plan
        below = tasks.backgrounds(plan.photographs, photos, plan.seed)
        self.tasks = tasks.make(below, plan.images, plan.seed)
        self.questions = tasks.Questions.about(self.tasks)
        self.methods = methods(plan.seed, plan.random_seeds)

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        return load()

    @cached_property
    def _tokens(self) -> Tensor:
        """`(P, 144, 128)`."""
        return scoring.encode(*self._model, [task.image for task in self.tasks])

    @cached_property
    def _packed(self) -> list[scoring.PackedQuestions]:
        return scoring.pack_chunks([task.questions for task in self.tasks])

    def pruned(self, keep: float, choose: Choose) -> dict[str, Any]:
        """One case: every question in every setting, and what of the images was kept."""
        m = self._tokens.shape[1]
        indices, merged = self._select(keep, choose)
        kept = scoring.gather(self._tokens, indices)
        return {
            "scores": {
                name: self._scores(merged if merge else kept, indices, m, positions)
                for name, merge, positions in SETTINGS
            },
            **self._coverage(indices),
            "distances": self._distances(indices[: self.plan.measured]),
        }

    def unpruned(self) -> dict[str, Any]:
        """The case that all others are compared with; every setting is the same here."""
        m = self._tokens.shape[1]
        whole = torch.arange(m).expand(len(self._tokens), -1)
        return {"scores": {AS_KEPT: self._scores(self._tokens, whole, m, "preserved")}}

    def masks(self, names: Sequence[str], keep: float, images: int) -> list[list[Tensor | None]]:
        """For the first images, what each method keeps: `(144,)` bool, None where it fails."""
        of = {RANDOM: self.methods[f"{RANDOM} 0"], **self.methods}
        return [[self._mask(of[name], keep, p) for name in names] for p in range(images)]

    def _mask(self, choose: Choose, keep: float, image: int) -> Tensor | None:
        tokens = self._tokens[image]
        mask = torch.zeros(len(tokens), dtype=torch.bool)
        try:
            mask[choose(keep, image).select(tokens)] = True
        except Exception:  # the report's list of failed cases says why
            return None
        return mask

    def _select(self, keep: float, choose: Choose) -> tuple[Tensor, Tensor]:
        """Indices `(P, k)` and merged features `(P, k, d)` of all images."""
        same = choose(keep, 0) == choose(keep, 1)  # one selector for all: whole batches
        found = []
        for at in scoring.chunks(len(self.tasks)):
            tokens = self._tokens[at]
            if same:
                found.append(choose(keep, 0).reduce(tokens, merge=True))
            else:
                numbered = enumerate(tokens[:, None], at.start)
                found += [choose(keep, i).reduce(x, merge=True) for i, x in numbered]
        return torch.cat([x.indices for x in found]), torch.cat([x.features for x in found])

    def _scores(self, features: Tensor, indices: Tensor, m: int, positions: Any) -> dict[str, Any]:
        model, _ = self._model
        found = scoring.score_chunks(model, self._packed, features, indices, m, positions)
        return {
            "answers": found.answers.tolist(),
            "losses": [round(x, 4) for x in found.losses.tolist()],
        }

    def _coverage(self, kept: Tensor) -> dict[str, list[float]]:
        """Share of evidence tokens kept, `(Q,)`, NaN without; of objects with one kept, `(P,)`."""
        evidence, objects = [], []
        for task, indices in zip(self.tasks, kept.numpy(), strict=True):
            for question in task.questions:
                there = task.evidence(question)
                evidence.append(there[indices].sum() / there.sum() if there.any() else np.nan)
            objects.append(task.objects()[:, indices].any(1).mean())
        return {"evidence": [float(x) for x in evidence], "objects": [float(x) for x in objects]}

    def _distances(self, kept: Tensor) -> dict[str, list[float | None]]:
        """Every distance of the first images, as many as `kept` has."""
        rows = [
            spaces.measure(tokens, indices)
            for tokens, indices in zip(self._tokens[: len(kept)], kept, strict=True)
        ]
        return {name: [_rounded(row[name]) for row in rows] for name in spaces.NAMES}


def cases(evaluation: Evaluation) -> Iterable[Case]:
    """Every method at every ratio, "method@keep", and "unpruned" in front."""
    yield UNPRUNED, evaluation.unpruned
    for name, choose in evaluation.methods.items():
        for keep in KEEPS:
            yield f"{name}@{keep}", partial(evaluation.pruned, keep, choose)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
