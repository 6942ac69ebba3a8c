"""From the cases of an encoder run to figures; errors of answers are clustered by image."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from otprune.errors import OTPruneError
from otprune_bench.embedded.tasks import ALL, KINDS, Questions
from otprune_bench.encoder.plan import (
    FINALS,
    LAYERS,
    LEAST,
    ONE,
    SPLITS,
    Plan,
    Stage,
    Timed,
    answers_key,
    call_key,
    features_key,
    time_key,
)
from otprune_bench.figures.formats import pair
from otprune_bench.figures.statistics import Estimate, Floats, clustered_mean, clustered_ratio
from otprune_bench.methods import UNPRUNED
from otprune_bench.runs.cases import Results

PARTS = ("total", "encoder", "selection")
ERRORS = ("kept", "all", "class")
Who = Stage | str  # a stage, or `UNPRUNED`, or `ONE`


class Spent(NamedTuple):
    """Median processor seconds of a call's parts, and of its total against the unpruned call."""

    total: float
    encoder: float
    selection: float
    ratio: float


class Point(NamedTuple):
    """One setting: time against the unpruned call, and share of the unpruned accuracy."""

    who: Who
    final: float
    time: float
    retained: float


class Summary:
    """Figures of a run; what failed is missing, and listed as failed.

    Raises:
        OTPruneError: the unpruned model failed, so there is nothing to compare with.
    """

    def __init__(self, plan: Plan, questions: Mapping[str, Questions], results: Results) -> None:
        self.plan, self.questions, self.results = plan, questions, results
        for split in SPLITS:
            whole = results[answers_key(split, UNPRUNED)]
            if "failed" in whole:
                raise OTPruneError(f"the unpruned model failed: {whole['failed']}")

    # -- answers ---------------------------------------------------------------------------------

    def asked(self, split: str) -> list[Who]:
        """`ONE` and all stages that did not fail."""
        every: list[Who] = [ONE, *dict(self.plan.answers)[split]]
        return [who for who in every if "failed" not in self.results[answers_key(split, who)]]

    def right(self, split: str, who: Who, final: float) -> Floats:
        """`(Q,)` of zeros and ones."""
        text = self.results[answers_key(split, who)][f"{final:g}"]["right"]
        return np.frombuffer(text.encode(), np.uint8).astype(np.float64) - ord("0")

    def accuracy(self, split: str, who: Who, final: float, group: str = ALL) -> Estimate:
        """Share of right answers."""
        at = self.questions[split].of(group)
        right = self.right(split, who, final)
        return clustered_mean(right[at], self.questions[split].image[at])

    def retained(self, split: str, who: Who, final: float, group: str = ALL) -> Estimate:
        """Accuracy as a share of the unpruned one."""
        at = self.questions[split].of(group)
        right, full = self.right(split, who, final), self.right(split, UNPRUNED, 1.0)
        return clustered_ratio(right[at], full[at], self.questions[split].image[at])

    def worst(self, split: str, who: Who, final: float) -> tuple[str, Estimate]:
        """The kind of question that keeps the least share of its unpruned accuracy."""
        each = {kind: self.retained(split, who, final, kind) for kind in KINDS}
        return min(each.items(), key=lambda item: item[1].value)

    # -- features --------------------------------------------------------------------------------

    def error(self, size: int, stage: Stage, measure: str) -> Estimate | None:
        """Mean over photographs; None if the case failed or was not run."""
        result = self.results.get(features_key(size, stage), {"failed": ""})
        if "failed" in result:
            return None
        values = np.array(result[measure], np.float64)
        return clustered_mean(values, np.arange(len(values)))

    # -- times -----------------------------------------------------------------------------------

    def rounds(self, timed: Timed) -> list[Mapping[str, Any]]:
        """The rounds of a model that did not fail."""
        every = [self.results[time_key(timed, i)] for i in range(1, timed.rounds + 1)]
        return [one for one in every if "failed" not in one]

    def spent(self, timed: Timed, who: Who, final: float | None) -> Spent | None:
        """Of a call; None if all rounds failed."""
        rounds, name = self.rounds(timed), call_key(who, final)
        if not rounds:
            return None
        calls = [(one["calls"][name], one["calls"][UNPRUNED]) for one in rounds]
        total, encoder, selection = (
            float(median(call[part][1] for call, _ in calls)) for part in PARTS
        )
        ratio = float(median(call["total"][1] / full["total"][1] for call, full in calls))
        return Spent(total, encoder, selection, ratio)

    def share(self, timed: Timed, stage: Stage, final: float | None) -> float | None:
        """Time of the selection against that of the whole unpruned encoder, median of rounds."""
        rounds, name = self.rounds(timed), call_key(stage, final)
        if not rounds:
            return None
        return float(
            median(
                one["calls"][name]["selection"][1] / one["calls"][UNPRUNED]["encoder"][1]
                for one in rounds
            )
        )

    def load(self) -> tuple[float, float]:
        """Least and most load of the machine during the timed calls."""
        loads = [one["load"] for timed in self.plan.timed for one in self.rounds(timed)]
        return (min(loads), max(loads)) if loads else (float("nan"), float("nan"))

    def points(self, split: str, timed: Timed) -> list[Point]:
        """Accuracy of the embedded model against the time of a model with `layers`.

        Of another model than the embedded one, its stages are those of the same share of layers.
        Of an encoder alone, the accuracy is that with the first ratio of `LEAST` behind it.
        """
        found = [Point(UNPRUNED, 1.0, 1.0, 1.0)]
        known = self.asked(split)
        finals: tuple[float | None, ...] = timed.finals or (None,)
        for final in finals:
            ratio = next(iter(LEAST)) if final is None else final
            whos: list[Who] = [*timed.stages] if final is None else [ONE, *timed.stages]
            for who in whos:
                ours = who
                if isinstance(who, Stage):
                    ours = who._replace(after=round(who.after / timed.layers * LAYERS))
                spent = self.spent(timed, who, final)
                if spent is not None and ours in known:
                    value = self.retained(split, ours, ratio).value
                    found.append(Point(who, ratio, spent.ratio, value))
        return found

    # -- JSON ------------------------------------------------------------------------------------

    def figures(self) -> dict[str, Any]:
        """Every figure as JSON holds it; a pair is a value and its standard error."""
        found: dict[str, Any] = {
            case: result for case, result in self.results.items() if "failed" in result
        }
        for split in SPLITS:
            found[answers_key(split, UNPRUNED)] = {
                group: pair(self.accuracy(split, UNPRUNED, 1.0, group)) for group in (ALL, *KINDS)
            }
            for who in self.asked(split):
                found[answers_key(split, who)] = {
                    f"{final:g}": {
                        "retained": {
                            group: pair(self.retained(split, who, final, group))
                            for group in (ALL, *KINDS)
                        },
                        "loss": self.results[answers_key(split, who)][f"{final:g}"]["loss"],
                    }
                    for final in FINALS
                }
        for size, stages in self.plan.features:
            for stage in stages:
                each = {name: self.error(size, stage, name) for name in ERRORS}
                found |= {
                    features_key(size, stage): {
                        name: pair(value) for name, value in each.items() if value is not None
                    }
                }
        for timed in self.plan.timed:
            for number in range(1, timed.rounds + 1):
                case = time_key(timed, number)
                found[case] = _rounded(self.results[case])
        return found


def _rounded(result: Any) -> Any:
    """Seconds to the microsecond."""
    if isinstance(result, Mapping):
        return {key: _rounded(value) for key, value in result.items()}
    if isinstance(result, list):
        return [_rounded(value) for value in result]
    return round(result, 6) if isinstance(result, float) else result


def front(points: list[Point]) -> list[Point]:
    """Those that no other beats in time without loss of accuracy, from the fastest on."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.time, -p.retained)):
        if not best or point.retained > best[-1].retained:
            best.append(point)
    return best
