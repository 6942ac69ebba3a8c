"""Figures of answers: agreement, accuracy, time and memory by setting, and a suggested keep."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from otprune.evaluation.answers import UNPRUNED, Answer, Setting
from otprune.evaluation.examples import Example
from otprune.evaluation.scores import Match, right, same

CLEAR = 1.96  # standard errors of a 95% interval


@dataclass(frozen=True)
class Line:
    """One way to answer, over the examples that it and the unpruned model answered.

    Attributes:
        setting: None for the unpruned model.
        examples: their number; all other figures are NaN if it is 0.
        answered: number of those whose answer is known.
        agreement: share of answers that are the unpruned model's.
        accuracy: share of right answers among the examples whose answer is known; None if there is
            none.
        lost: accuracy of the unpruned model less its own, of the same examples; without known
            answers, the share of answers that differ.
        error: standard error of `lost`; questions about one image count as one draw.
        seconds, seconds_ratio: time to first token, median; and median of the ratio to the
            unpruned model's on the same example.
        selector_seconds: of it the selection, median.
        cache_bytes, cache_ratio: KV cache of the prompt, mean; and its share of the unpruned.
        tokens, tokens_ratio: visual tokens, mean; and their share.
    """

    setting: Setting | None
    examples: int
    answered: int
    agreement: float
    accuracy: float | None
    lost: float
    error: float
    seconds: float
    seconds_ratio: float
    selector_seconds: float
    cache_bytes: float
    cache_ratio: float
    tokens: float
    tokens_ratio: float

    @property
    def most_lost(self) -> float:
        """The upper end of the 95% interval of `lost`; NaN if the error is not known."""
        return math.nan if math.isnan(self.error) else min(self.lost + CLEAR * self.error, 1.0)


def summary(
    examples: Sequence[Example],
    rows: Sequence[Mapping[str, Answer]],
    settings: Sequence[Setting],
    match: Match,
) -> list[Line]:
    """A line for the unpruned model and one for each setting.

    Args:
        rows: of each example, its answers by way.
    """
    return [_line(None, UNPRUNED, examples, rows, match)] + [
        _line(setting, setting.key, examples, rows, match) for setting in settings
    ]


def suggested(lines: Sequence[Line], tolerance: float) -> Line | None:
    """The setting with the fewest tokens among those that lose at most `tolerance`; None if none.

    Of equally few tokens the one that loses less.
    """
    able = [x for x in lines if x.setting is not None and x.examples and x.lost <= tolerance]
    return min(able, key=lambda line: (line.tokens_ratio, line.lost), default=None)


def _line(
    setting: Setting | None,
    way: str,
    examples: Sequence[Example],
    rows: Sequence[Mapping[str, Answer]],
    match: Match,
) -> Line:
    both = [
        (example, row[UNPRUNED], row[way])
        for example, row in zip(examples, rows, strict=True)
        if {UNPRUNED, way} <= row.keys()
    ]
    known = [x for x in both if x[0].answers]
    agree = [float(same(full.answer, cut.answer)) for _, full, cut in both]
    correct = [float(right(cut.answer, example.answers, match)) for example, _, cut in known]
    before = [float(right(full.answer, example.answers, match)) for example, full, _ in known]
    lost = [b - c for b, c in zip(before, correct, strict=True)] or [1 - x for x in agree]
    of = [example.images for example, _, _ in (known or both)]
    whole, part = [full for _, full, _ in both], [cut for _, _, cut in both]
    return Line(
        setting=setting,
        examples=len(both),
        answered=len(known),
        agreement=_mean(agree),
        accuracy=_mean(correct) if known else None,
        lost=_mean(lost),
        error=_error(lost, of),
        seconds=_median([x.seconds for x in part]),
        seconds_ratio=_median([b.seconds / a.seconds for a, b in zip(whole, part, strict=True)]),
        selector_seconds=_median([x.selector_seconds for x in part]),
        cache_bytes=_mean([x.cache_bytes for x in part]),
        cache_ratio=_share(whole, part, "cache_bytes"),
        tokens=_mean([x.tokens for x in part]),
        tokens_ratio=_share(whole, part, "tokens"),
    )


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def _share(whole: Sequence[Answer], part: Sequence[Answer], name: str) -> float:
    total = sum(getattr(x, name) for x in whole)
    return sum(getattr(x, name) for x in part) / total if total else math.nan


def _error(values: Sequence[float], clusters: Sequence[tuple[str, ...]]) -> float:
    """Standard error of a mean of values in clusters; NaN with less than two clusters.

    A sample in which next to nothing differs has a small error by luck. So it is at least such that
    a 95% interval around 0 ends at 3 of n clusters, the rule of three: a loss that gathers in few
    clusters is easily missed.
    """
    sums: dict[tuple[str, ...], float] = defaultdict(float)
    mean = _mean(values)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - mean
    n = len(sums)
    if n < 2:
        return math.nan
    clustered = math.sqrt(n / (n - 1) * sum(x * x for x in sums.values())) / len(values)
    return max(clustered, 3 / n / CLEAR)
