"""The report of `otprune bench distance`. Its sentences follow from the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from otprune.engines.transformers.positions import Scheme
from otprune.measures.mass import Mass
from otprune_bench.distance.plan import FORMS, SETTINGS, Plan, Setting, key
from otprune_bench.embedded.tasks import Questions
from otprune_bench.figures.formats import in_points, pair, percent, quoted
from otprune_bench.figures.statistics import Estimate, Floats, bits, clustered_mean
from otprune_bench.methods import UNPRUNED
from otprune_bench.runs.cases import Results, failures
from otprune_bench.runs.report import table


class Summary:
    """Figures of a run; errors are clustered by image.

    Args:
        plan: of the run.
        questions: all that was asked.
        results: of all cases.
    """

    def __init__(self, plan: Plan, questions: Questions, results: Results) -> None:
        self.plan, self.questions, self.results = plan, questions, results

    def unpruned(self, model: str, before: int) -> Floats:
        """`(Q,)` of zeros and ones."""
        return bits(self.results[key(model, before, UNPRUNED, 1.0)]["right"])

    def right(self, model: str, before: int, keep: float, setting: Setting) -> Floats:
        """`(Q,)` share of right answers over methods; raises KeyError where a case failed."""
        found = [
            self.results[key(model, before, name, keep)][str(setting)]["right"]
            for name in self.plan.methods
        ]
        share: Floats = np.mean([bits(text) for text in found], axis=0)
        return share

    def loss(self, model: str, before: int, keep: float, setting: Setting) -> float:
        """Mean loss of the right answer over methods."""
        return float(
            np.mean(
                [
                    self.results[key(model, before, name, keep)][str(setting)]["loss"]
                    for name in self.plan.methods
                ]
            )
        )

    def mean(self, values: Floats) -> Estimate:
        """Over all questions, clustered by image."""
        return clustered_mean(values, self.questions.image)

    def figures(self) -> dict[str, Any]:
        """Every figure as JSON holds it; a pair is a value and its standard error."""
        found: dict[str, Any] = {}
        for model in self.plan.names:
            for before in self.plan.before:
                case = f"{model}, {before} before"
                found[f"{case}, unpruned"] = pair(self.mean(self.unpruned(model, before)))
                for keep in self.plan.keeps:
                    found[f"{case}, keep {keep}"] = {
                        str(setting): {
                            "accuracy": pair(self.mean(self.right(model, before, keep, setting))),
                            "loss": round(self.loss(model, before, keep, setting), 4),
                        }
                        for setting in SETTINGS
                    }
        return found


def write(summary: Summary) -> str:
    """The report in Markdown."""
    plan = summary.plan
    head = ["model", *(f"{n} questions before" for n in plan.before)]
    rows = [
        [model, *(percent(summary.mean(summary.unpruned(model, n))) for n in plan.before)]
        for model in plan.names
    ]
    parts = [
        "# Attention: positions, mass and distance\n",
        f"{plan.images} {plan.split} images, {len(summary.questions.kind)} questions, mean of "
        f"{quoted(plan.methods)}. Positions of kept tokens are preserved or compact. The distance "
        "term log(2 - D) is added for no keys, for kept visual tokens (`visual`, what "
        "`otprune.prune(distance=True)` does) or for all pairs of tokens (`all`, as in the code of "
        "RESTORE). ± is one standard error, clustered by image.\n",
        "Unpruned, right answers in %:\n",
        table(head, rows) + "\n",
    ]
    for model in plan.names:
        parts.append(f"## Model {model}\n")
        for keep in plan.keeps:
            for before in plan.before:
                parts += _table(summary, model, before, keep)
    parts += _answers(summary)
    return "\n".join([*parts, *failures(summary.results)])


def _table(summary: Summary, model: str, before: int, keep: float) -> list[str]:
    rows = []
    for positions in get_args(Scheme):
        for form in FORMS:
            for mass in get_args(Mass):
                none, visual, every = (
                    summary.right(model, before, keep, Setting(positions, form, mass, distance))
                    for distance in ("none", "visual", "all")
                )
                rows.append(
                    [
                        f"{positions}, {form}, {mass}",
                        percent(summary.mean(none)),
                        in_points(summary.mean(visual - none)),
                        in_points(summary.mean(every - none)),
                    ]
                )
    head = [f"keep {keep:g}, {before} questions before", "no distance, %", "visual", "all"]
    return [table(head, rows) + "\n"]


def _answers(summary: Summary) -> list[str]:
    """Three comparisons that decide defaults."""
    plain: tuple[str, Mass] = ("as kept", "none")
    heavy: tuple[str, Mass] = ("merged", "token")
    compared: Sequence[tuple[str, Setting, Setting]] = (
        (
            "no mass: preserved minus compact",
            Setting("preserved", *plain, "none"),
            Setting("compact", *plain, "none"),
        ),
        (
            "merged, token: preserved minus compact",
            Setting("preserved", *heavy, "none"),
            Setting("compact", *heavy, "none"),
        ),
        (
            "merged, token, preserved: distance (visual)",
            Setting("preserved", *heavy, "visual"),
            Setting("preserved", *heavy, "none"),
        ),
    )
    rows = []
    for model in summary.plan.names:
        for keep in summary.plan.keeps:
            for before in summary.plan.before:
                cells = [
                    in_points(
                        summary.mean(
                            summary.right(model, before, keep, a)
                            - summary.right(model, before, keep, b)
                        )
                    )
                    for _, a, b in compared
                ]
                rows.append([model, f"{keep:g}", before, *cells])
    head = ["model", "keep", "before", *(name for name, _, _ in compared)]
    return ["## What decides the defaults\n", "Points of accuracy.\n", table(head, rows, 3) + "\n"]
