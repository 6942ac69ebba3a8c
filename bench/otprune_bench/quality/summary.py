"""From answers to figures: accuracy, loyalty, group A, ranks; errors clustered by image."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otprune.errors import OTPruneError
from otprune_bench.embedded.tasks import ALL, KINDS, Questions
from otprune_bench.figures.formats import pair
from otprune_bench.figures.statistics import (
    Estimate,
    Floats,
    average_rank,
    clustered_mean,
    clustered_ratio,
    spread,
)
from otprune_bench.methods import RANDOM, UNPRUNED
from otprune_bench.quality.contenders import Contender
from otprune_bench.quality.plan import BASE, KEEPS, SMALLER, Plan
from otprune_bench.timing.race import paired

Results = Mapping[str, Mapping[str, Any]]


class Summary:
    """A run's figures. Lines that failed at a ratio have none there, and are listed as failed.

    Random pruning is one line, the mean over its seeds.
    """

    def __init__(
        self, plan: Plan, results: Results, questions: Questions, contenders: Sequence[Contender]
    ) -> None:
        self.plan, self.results, self.questions = plan, results, questions
        if "failed" in results[UNPRUNED]:
            raise OTPruneError(f"the unpruned model failed: {results[UNPRUNED]['failed']}")
        self._plain = np.array(results[UNPRUNED]["answers"])
        self.contenders = {c.name: c for c in contenders if not c.name.startswith(RANDOM)}
        drawn = next(c for c in contenders if c.name.startswith(RANDOM))
        self.contenders[RANDOM] = drawn
        self.right, self.agree = {}, {}
        for name in self.contenders:
            for keep in KEEPS:
                if runs := self._runs(name, keep):
                    given = np.array([run["answers"] for run in runs])
                    self.right[name, keep] = (given == questions.answer).mean(0)
                    self.agree[name, keep] = (given == self._plain).mean(0)
        self.unpruned = (self._plain == questions.answer).astype(np.float64)

    def _runs(self, name: str, keep: float) -> list[Mapping[str, Any]]:
        keys = [
            key
            for key in self.results
            if key == f"{name}@{keep}"
            or (name == RANDOM and key.startswith(f"{RANDOM} ") and key.endswith(f"@{keep}"))
        ]
        return [self.results[key] for key in keys if "failed" not in self.results[key]]

    def wild(self, name: str, keep: float) -> Estimate | None:
        """Accuracy where a feature dominates what the method is shown; None if not measured."""
        run = self.results.get(f"wild {name}@{keep}", {"failed": ""})
        if "failed" in run:
            return None
        right = (np.array(run["answers"]) == self.questions.answer).astype(np.float64)
        return self._mean(right, self.questions.of(ALL))

    def present(self, keep: float, group: str | None = None) -> list[str]:
        """Lines that did not fail at a ratio, of one group or of all."""
        return [
            name
            for name, contender in self.contenders.items()
            if (name, keep) in self.right and group in (None, contender.group)
        ]

    def accuracy(self, name: str, keep: float, kind: str = ALL) -> Estimate:
        """Share of right answers; of `UNPRUNED` too."""
        right = self.unpruned if name == UNPRUNED else self.right[name, keep]
        return self._mean(right, self.questions.of(kind))

    def retained(self, name: str, keep: float) -> Estimate:
        """Accuracy as a share of the unpruned one."""
        return clustered_ratio(self.right[name, keep], self.unpruned, self.questions.image)

    def loyalty(self, name: str, keep: float) -> Estimate:
        """Share of answers that are those of the unpruned model, right or wrong."""
        return self._mean(self.agree[name, keep], self.questions.of(ALL))

    def group_a(self, keep: float) -> NDArray[np.bool_]:
        """Questions answered right unpruned, and wrong from the image made smaller."""
        return np.asarray((self.unpruned > 0) & (self.right[SMALLER, keep] == 0))

    def on_group_a(self, name: str, keep: float) -> Estimate:
        """Accuracy on `group_a` (VTC-Bench, arXiv 2510.07143)."""
        return self._mean(self.right[name, keep], self.group_a(keep))

    def difference(self, name: str, other: str, keep: float, kind: str = ALL) -> Estimate:
        """Accuracy less another line's on the same questions."""
        a, b = self.right[name, keep], self.right[other, keep]
        return self._mean(a - b, self.questions.of(kind))

    def ranks(self, keep: float) -> dict[str, float]:
        """Mean over kinds of question of each line's rank in accuracy, 1 the best."""
        return average_rank(
            {
                name: {kind: self.accuracy(name, keep, kind).value for kind in KINDS}
                for name in self.present(keep)
            }
        )

    def times(self, shape: object) -> dict[str, dict[str, Any]]:
        """Of each method that was timed: spread of seconds, and of the ratio to transport's."""
        runs = self.results.get(f"time {shape}", {"failed": ""})
        if "failed" in runs:
            return {}
        return {
            name: {
                "seconds": spread(values),
                "of transport": spread(paired(values, runs["transport"])),
            }
            for name, values in runs.items()
        }

    def selection(self, name: str, keep: float) -> float | None:
        """Mean seconds of one selection in the run itself; None where there is none."""
        found = [run["seconds"] for run in self._runs(name, keep) if "seconds" in run]
        return statistics.mean(found) if found else None

    def _mean(self, values: Floats, at: NDArray[np.bool_]) -> Estimate:
        return clustered_mean(values[at], self.questions.image[at])

    def figures(self) -> dict[str, Any]:
        """Every figure as JSON holds it; a pair is a value and its standard error."""
        found: dict[str, Any] = {
            UNPRUNED: {kind: pair(self.accuracy(UNPRUNED, 1.0, kind)) for kind in (ALL, *KINDS)}
        }
        for keep in KEEPS:
            ranks = self.ranks(keep)
            for name in self.present(keep):
                one: dict[str, Any] = {
                    "accuracy": {k: pair(self.accuracy(name, keep, k)) for k in (ALL, *KINDS)},
                    "retained": pair(self.retained(name, keep)),
                    "loyalty": pair(self.loyalty(name, keep)),
                    "average rank": round(ranks[name], 3),
                }
                if (SMALLER, keep) in self.right:
                    one["group A"] = pair(self.on_group_a(name, keep))
                if (wild := self.wild(name, keep)) is not None:
                    one["dominating feature"] = pair(wild)
                if (BASE, keep) in self.right:
                    one[f"minus {BASE}"] = pair(self.difference(name, BASE, keep))
                found[f"{name}@{keep}"] = one
        found |= {key: dict(x) for key, x in self.results.items() if "failed" in x}
        found["times"] = {str(shape): self.times(shape) for shape in self.plan.shapes}
        return found
