"""From the cases of the GPU bench to figures: medians, times to first token, targets."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from otprune_bench.gpu.plan import (
    ENCODER,
    FASTER_MODEL,
    FASTER_TARGET,
    LEAST,
    OURS,
    PUBLISHED,
    RATIO_TARGET,
    SHARE_TARGET,
    STAGED,
    STAGED_TARGET,
    TIME_TARGET,
    Model,
    Plan,
    Point,
)
from otprune_bench.runs.cases import Results

NOT_RUN = "not run"


class Target(NamedTuple):
    """What is asked for, and what was measured.

    Attributes:
        name: of the figure.
        limit: the figure is to be at most this if `most`, else at least.
        most: see `limit`.
        figure: None if it was not measured.
        by: what reached it: a contender, or an attention function.
    """

    name: str
    limit: float
    most: bool
    figure: float | None
    by: str

    def row(self, real: bool = True) -> tuple[str, str, str, str, str]:
        """A row of the table: met, missed, or not run. Not `real`: no figure of a GPU."""
        asked = f"at most {self.limit:g}" if self.most else f"at least {self.limit:g}x"
        if self.figure is None or not real:
            return self.name, asked, "-", "", NOT_RUN
        met = self.figure <= self.limit if self.most else self.figure >= self.limit
        return self.name, asked, f"{self.figure:.3g}", self.by, "met" if met else "**missed**"


def targets(plan: Plan, found: Results) -> list[Target]:
    """All of them, with the best figure of those that count."""
    return [
        _ratio(found),
        _time(found),
        *(_share(plan, model, found) for model in plan.models),
        _speed_up(plan, LEAST, FASTER_TARGET, found),
        _speed_up(plan, STAGED, STAGED_TARGET, found),
    ]


def _ratio(found: Results) -> Target:
    (m, d, k), limit = RATIO_TARGET
    point = Point(1, m, d, k)
    seconds, by = _fastest(found, point)
    published = raced(found, point, PUBLISHED)
    ratio = seconds / median(published) if seconds and published else None
    name = f"selection at ({m}, {d}, {k}), of the published algorithm's time"
    return Target(name, limit, True, ratio, by)


def _time(found: Results) -> Target:
    (m, d, k), limit = TIME_TARGET
    seconds, by = _fastest(found, Point(1, m, d, k))
    name = f"selection at ({m}, {d}, {k}), milliseconds"
    return Target(name, 1e3 * limit, True, 1e3 * seconds if seconds else None, by)


def _share(plan: Plan, model: Model, found: Results) -> Target:
    known = [
        (share, attention)
        for attention in plan.attentions
        if (share := share_of_saved(model, attention, 1, LEAST, found)) is not None
    ]
    name = f"selection, of the prefill it saves, {model.name} at {model.visual} tokens"
    return Target(name, SHARE_TARGET, True, *min(known, default=(None, "")))


def _speed_up(plan: Plan, what: object, least: float, found: Results) -> Target:
    known = [
        (gain, attention)
        for model in plan.models
        if (model.name, model.visual) == FASTER_MODEL
        for attention in plan.attentions
        if (gain := speed_up(model, attention, 1, what, found)) is not None
    ]
    inside = " with the encoder stage" if what == STAGED else ""
    name = "time to first token{}, {} at {} tokens".format(inside, *FASTER_MODEL)
    return Target(name, least, False, *max(known, default=(None, "")))


def _fastest(found: Results, point: Point) -> tuple[float | None, str]:
    """Median seconds of the fastest of our paths to the published objective, and its name."""
    known = [(median(x), name) for name in OURS if (x := raced(found, point, name))]
    return min(known, default=(None, ""))


def median(values: Iterable[float]) -> float:
    """As a float."""
    return float(statistics.median(values))


def raced(found: Results, point: Point, name: str) -> list[float] | None:
    """Seconds of a contender's rounds; None if it was not run."""
    seconds = found.get(f"select/{point.name}", {}).get("seconds", {}).get(name)
    return seconds or None


def result_of(
    model: Model, attention: str, batch: int, what: object, found: Results
) -> dict[str, Any]:
    """The result of a model's case; empty if it was not run."""
    result = found.get(model.key(attention, batch, what), {})
    return {} if "skipped" in result or "failed" in result else result


def first_token(
    model: Model, attention: str, batch: int, what: object, found: Results
) -> float | None:
    """Seconds to the first token, from pixels: measured, or the sum of its parts."""
    result = result_of(model, attention, batch, what, found)
    if "first" in result:
        return median(result["first"])
    encoder = result_of(model, attention, batch, ENCODER, found)
    if "behind" in result and "seconds" in encoder:
        return median(result["behind"]) + median(encoder["seconds"])
    return None


def speed_up(
    model: Model, attention: str, batch: int, what: object, found: Results
) -> float | None:
    """Time to first token unpruned, over that of a case."""
    whole, pruned = (first_token(model, attention, batch, x, found) for x in (1.0, what))
    return None if whole is None or pruned is None else whole / pruned


def prefill(result: Mapping[str, Any]) -> float | None:
    """Seconds behind the encoder without the selection."""
    if "behind" not in result:
        return None
    return median(result["behind"]) - median(result["selection"])


def share_of_saved(
    model: Model, attention: str, batch: int, keep: float, found: Results
) -> float | None:
    """Selection over the prefill that pruning saves; None where it saves nothing."""
    result = result_of(model, attention, batch, keep, found)
    whole = prefill(result_of(model, attention, batch, 1.0, found))
    pruned = prefill(result)
    if whole is None or pruned is None or whole <= pruned:
        return None
    return median(result["selection"]) / (whole - pruned)
