"""The tasks of a split, and the models that answer them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from otprune.demo import MODEL_DIR, load
from otprune_bench.embedded import scoring, tasks

EMBEDDED = "embedded"


class SeveralModels:
    """The embedded model and others of its kind, asked alone and behind other text.

    Args:
        plan: with `seed`, `images`, `split`, `photographs` and `models`, their names and folders.
        photos: as for `tasks.backgrounds`.
    """

    def __init__(self, plan: Any, photos: Path) -> None:
        self.plan = plan
        self.tasks = tasks.of_split(plan.split, plan.images, plan.photographs, photos, plan.seed)
        self.questions = tasks.Questions.about(self.tasks)
        self._folders = {EMBEDDED: MODEL_DIR} | {name: Path(to) for name, to in plan.models}

    @cache  # noqa: B019 - an evaluation lives as long as the run
    def model(self, name: str) -> tuple[Any, Tensor]:
        """A model and its tokens of every image, `(P, 144, 128)`."""
        model, processor = load(self._folders[name])
        return model, scoring.encode(model, processor, [task.image for task in self.tasks])

    @cache  # noqa: B019
    def text_before(self, before: int) -> list[str]:
        """So many answered questions, for each image."""
        return [tasks.unrelated_questions(task, before, self.plan.seed) for task in self.tasks]

    @cache  # noqa: B019
    def packed(self, before: int) -> list[scoring.PackedQuestions]:
        """The questions, behind so many answered others."""
        of_each = [task.questions for task in self.tasks]
        return scoring.pack_chunks(of_each, self.text_before(before))
