"""From answers to figures: accuracy, loss, agreement, differences; errors clustered by image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from otprune.errors import OTPruneError
from otprune_bench.alignment.plan import AS_KEPT, KEEPS, SETTINGS
from otprune_bench.embedded.tasks import ALL, KINDS, Questions
from otprune_bench.figures.formats import pair
from otprune_bench.figures.statistics import (
    Estimate,
    Floats,
    average_rank,
    clustered_mean,
    clustered_ratio,
)
from otprune_bench.methods import NAMES, PUBLISHED, RANDOM, UNPRUNED

Results = Mapping[str, Mapping[str, Any]]
GROUPS = (ALL, *KINDS)


@dataclass(frozen=True, eq=False)
class Outcome:
    """The answers to Q questions, `(Q,)` each; of random pruning the mean over its seeds."""

    right: Floats
    loss: Floats
    agree: Floats


class Summary:
    """A run's figures. A method that failed at a ratio has none there, and is listed as failed."""

    def __init__(self, results: Results, questions: Questions) -> None:
        self.results, self.questions = results, questions
        if "failed" in results[UNPRUNED]:
            raise OTPruneError(f"the unpruned model failed: {results[UNPRUNED]['failed']}")
        scores = results[UNPRUNED]["scores"][AS_KEPT]
        self._answers = np.array(scores["answers"])
        self.unpruned = self._outcome(scores)
        self.outcomes = {
            (name, keep, setting): found
            for name in NAMES
            for keep in KEEPS
            for setting, _, _ in SETTINGS
            if (found := self._mean(name, keep, setting)) is not None
        }

    def _outcome(self, scores: Mapping[str, Any]) -> Outcome:
        given, losses = np.array(scores["answers"]), np.array(scores["losses"], np.float64)
        right, agree = given == self.questions.answer, given == self._answers
        return Outcome(right.astype(np.float64), losses, agree.astype(np.float64))

    def runs(self, name: str, keep: float) -> list[Mapping[str, Any]]:
        """The cases of a method that did not fail: one, or as many as there are random seeds."""
        wanted = [
            key
            for key in self.results
            if key == f"{name}@{keep}" or (name == RANDOM and key.startswith(f"{RANDOM} "))
        ]
        found = [self.results[key] for key in wanted if key.endswith(f"@{keep}")]
        return [result for result in found if "failed" not in result]

    def _mean(self, name: str, keep: float, setting: str) -> Outcome | None:
        each = [self._outcome(run["scores"][setting]) for run in self.runs(name, keep)]
        if not each:
            return None
        return Outcome(
            right=np.mean([o.right for o in each], axis=0),
            loss=np.mean([o.loss for o in each], axis=0),
            agree=np.mean([o.agree for o in each], axis=0),
        )

    def accuracy(
        self, name: str, keep: float, setting: str = AS_KEPT, group: str = ALL
    ) -> Estimate:
        """Share of right answers; of `UNPRUNED` too."""
        return self._over(group, self._at(name, keep, setting).right)

    def loss(self, name: str, keep: float, setting: str = AS_KEPT, group: str = ALL) -> Estimate:
        """Mean of -log p(right answer), in nats."""
        return self._over(group, self._at(name, keep, setting).loss)

    def agreement(
        self, name: str, keep: float, setting: str = AS_KEPT, group: str = ALL
    ) -> Estimate:
        """Share of answers that are those of the unpruned model, right or wrong."""
        return self._over(group, self._at(name, keep, setting).agree)

    def retained(
        self, name: str, keep: float, setting: str = AS_KEPT, group: str = ALL
    ) -> Estimate:
        """Accuracy as a share of the unpruned one."""
        at = self.questions.of(group)
        right = self._at(name, keep, setting).right
        return clustered_ratio(right[at], self.unpruned.right[at], self.questions.image[at])

    def difference(
        self, name: str, other: str, keep: float, setting: str = AS_KEPT, group: str = ALL
    ) -> Estimate:
        """Accuracy less another method's on the same questions."""
        a, b = (self._at(who, keep, setting).right for who in (name, other))
        return self._over(group, a - b)

    def effect(self, name: str, keep: float, setting: str) -> Estimate:
        """Accuracy in a setting less that in `AS_KEPT`, on the same questions."""
        a, b = (self._at(name, keep, where).right for where in (setting, AS_KEPT))
        return self._over(ALL, a - b)

    def evidence(self, name: str, keep: float) -> Estimate:
        """Share kept of the tokens that hold a question's evidence, mean over questions."""
        kept = [np.array(run["evidence"], np.float64) for run in self.runs(name, keep)]
        return self._over(ALL, np.mean(kept, axis=0))

    def objects(self, name: str, keep: float) -> Estimate:
        """Share of an image's stickers of which at least one token is kept, mean over images."""
        kept = np.mean([run["objects"] for run in self.runs(name, keep)], axis=0)
        return clustered_mean(kept, np.arange(len(kept)))

    def ranks(self, keep: float, setting: str = AS_KEPT) -> dict[str, float]:
        """Mean over question kinds of each method's rank in accuracy, 1 the best."""
        return average_rank(
            {
                name: {kind: self.accuracy(name, keep, setting, kind).value for kind in KINDS}
                for name in self.present(keep)
            }
        )

    def present(self, keep: float) -> list[str]:
        """Methods that did not fail at a ratio."""
        return [name for name in NAMES if (name, keep, AS_KEPT) in self.outcomes]

    def _at(self, name: str, keep: float, setting: str) -> Outcome:
        return self.unpruned if name == UNPRUNED else self.outcomes[name, keep, setting]

    def _over(self, group: str, values: Floats) -> Estimate:
        at = self.questions.of(group)
        return clustered_mean(values[at], self.questions.image[at])

    def figures(self) -> dict[str, Any]:
        """Every figure as JSON holds it; a pair is a value and its standard error."""
        full = {
            group: {
                "accuracy": pair(self.accuracy(UNPRUNED, 1.0, group=group)),
                "loss": pair(self.loss(UNPRUNED, 1.0, group=group)),
                "questions": int(self.questions.of(group).sum()),
            }
            for group in GROUPS
        }
        found: dict[str, Any] = {UNPRUNED: full}
        for key, result in self.results.items():
            if "failed" in result:
                found[key] = dict(result)
        for keep in KEEPS:
            for name in self.present(keep):
                found[f"{name}@{keep}"] = self._figures(name, keep)
        found["average rank"] = {
            str(keep): {
                setting: {k: round(v, 3) for k, v in self.ranks(keep, setting).items()}
                for setting, _, _ in SETTINGS
            }
            for keep in KEEPS
        }
        return found

    def _figures(self, name: str, keep: float) -> dict[str, Any]:
        found: dict[str, Any] = {
            "evidence_kept": pair(self.evidence(name, keep)),
            "objects_kept": pair(self.objects(name, keep)),
        }
        runs = self.runs(name, keep)
        if name == RANDOM:
            found["accuracy_of_seeds"] = [
                round(float(self._outcome(run["scores"][AS_KEPT]).right.mean()), 5) for run in runs
            ]
        others = [who for who in (RANDOM, PUBLISHED) if who in self.present(keep)]
        for setting, _, _ in SETTINGS:
            found[setting] = {
                group: {
                    measure.__name__: pair(measure(name, keep, setting, group))
                    for measure in (self.accuracy, self.loss, self.agreement, self.retained)
                }
                | {
                    f"minus {who}": pair(self.difference(name, who, keep, setting, group))
                    for who in others
                    if who != name
                }
                for group in GROUPS
            }
        return found
