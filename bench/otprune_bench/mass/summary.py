"""From the answers of a mass run to figures; errors are clustered by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from otprune.errors import OTPruneError
from otprune_bench.embedded.evaluation import EMBEDDED
from otprune_bench.embedded.tasks import ALL, KINDS, Questions
from otprune_bench.figures.formats import pair
from otprune_bench.figures.statistics import (
    Estimate,
    Floats,
    average_rank,
    bits,
    clustered_mean,
    clustered_ratio,
)
from otprune_bench.mass.plan import FORMS, SETTINGS, Plan, Setting, key
from otprune_bench.methods import NAMES, UNPRUNED
from otprune_bench.runs.cases import Results


class Summary:
    """Figures of a run; what failed is missing, and listed as failed.

    Args:
        plan: of the run.
        questions: all that was asked.
        text_tokens: number of questions before the one asked to the mean number of text tokens.
        results: of all cases.

    Raises:
        OTPruneError: an unpruned model failed, so there is nothing to compare with.
    """

    def __init__(
        self, plan: Plan, questions: Questions, text_tokens: Mapping[int, float], results: Results
    ) -> None:
        self.plan, self.questions, self.results = plan, questions, results
        self.text_tokens = text_tokens
        for model in plan.names:
            whole = results[key(model, 0, UNPRUNED, 1.0)]
            if "failed" in whole:
                raise OTPruneError(f"the unpruned model {model} failed: {whole['failed']}")

    def right(self, model: str, before: int, keep: float, setting: Setting) -> Floats:
        """`(Q,)` of zeros and ones; raises KeyError where the case failed."""
        made = self.results[key(model, before, setting.method, keep)]
        return bits(made[setting.form][setting.weighing]["right"])

    def unpruned(self, model: str, before: int) -> Floats:
        """`(Q,)`"""
        made = self.results[key(model, before, UNPRUNED, 1.0)]
        return bits(made["as kept"]["none"]["right"])

    def mean(self, values: Floats, group: str = ALL) -> Estimate:
        """Over all questions or those of a kind, clustered by image."""
        at = self.questions.of(group)
        return clustered_mean(values[at], self.questions.image[at])

    def retained(
        self, model: str, before: int, keep: float, settings: Sequence[Setting], group: str = ALL
    ) -> Estimate:
        """Mean accuracy over settings, as a share of the unpruned one."""
        at = self.questions.of(group)
        right = np.mean([self.right(model, before, keep, s)[at] for s in settings], axis=0)
        return clustered_ratio(right, self.unpruned(model, before)[at], self.questions.image[at])

    def effect(
        self, model: str, before: int, keep: float, methods: Sequence[str], form: str, weighing: str
    ) -> Estimate:
        """Accuracy with a form and weighing minus that as kept without mass, mean over methods."""
        gains = [
            self.right(model, before, keep, Setting(name, form, weighing))
            - self.right(model, before, keep, Setting(name, "as kept", "none"))
            for name in methods
        ]
        return self.mean(np.mean(gains, axis=0))

    def worst(self, keep: float, setting: Setting) -> float:
        """Least share of unpruned accuracy over kinds, of the embedded model alone."""
        return min(self.retained(EMBEDDED, 0, keep, [setting], kind).value for kind in KINDS)

    def score(self, keep: float, setting: Setting) -> float:
        """Mean over models of the share of unpruned accuracy kept, over all questions."""
        shares = [self.retained(model, 0, keep, [setting]).value for model in self.plan.names]
        return float(np.mean(shares))

    def ranks(self, keep: float) -> dict[str, float]:
        """Average rank over kinds of every setting, the embedded model, 1 the best."""
        scores = {}
        for setting in self.settings(keep):
            right = self.right(EMBEDDED, 0, keep, setting)
            scores[str(setting)] = {kind: self.mean(right, kind).value for kind in KINDS}
        return average_rank(scores)

    def settings(self, keep: float) -> list[Setting]:
        """Settings that failed with no model."""
        return [
            setting
            for setting in SETTINGS
            if all(
                "failed" not in self.results[key(model, 0, setting.method, keep)]
                for model in self.plan.names
            )
        ]

    def figures(self) -> dict[str, Any]:
        """Every figure as JSON holds it; a pair is a value and its standard error."""
        found: dict[str, Any] = {}
        for model in self.plan.names:
            for before in self.plan.before:
                full = self.unpruned(model, before)
                found[key(model, before, UNPRUNED, 1.0)] = self._groups(full)
                for keep in self.plan.keeps_behind(before):
                    for name in NAMES:
                        case = key(model, before, name, keep)
                        failed = "failed" in self.results[case]
                        found[case] = (
                            self.results[case]
                            if failed
                            else {
                                f"{form}, {weighing}": self._setting(
                                    model, before, keep, Setting(name, form, weighing)
                                )
                                for form in FORMS
                                for weighing in self.plan.weighings_behind(before)
                            }
                        )
        return found

    def _groups(self, values: Floats) -> dict[str, list[float]]:
        return {group: pair(self.mean(values, group)) for group in (ALL, *KINDS)}

    def _setting(self, model: str, before: int, keep: float, setting: Setting) -> dict[str, Any]:
        right = self.right(model, before, keep, setting)
        base = self.right(model, before, keep, Setting(setting.method, "as kept", "none"))
        made = self.results[key(model, before, setting.method, keep)]
        return {
            "accuracy": self._groups(right),
            "minus as kept": self._groups(right - base),
            "loss": round(sum(made[setting.form][setting.weighing]["loss"]) / len(right), 4),
        }
