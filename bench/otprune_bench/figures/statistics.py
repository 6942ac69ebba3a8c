"""Spreads of repeated runs, errors clustered by image, and rank statistics."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
CLEAR = 1.96  # standard errors from which a difference is called one, and of error bars


class Estimate(NamedTuple):
    """A figure and its standard error (0 where there is one cluster alone)."""

    value: float
    error: float


class Correlation(NamedTuple):
    """A rank correlation and the ends of its 95% interval; NaN where ranks are all tied."""

    value: float
    low: float
    high: float


def bits(text: str) -> Floats:
    """ "0110" as zeros and ones."""
    return np.frombuffer(text.encode(), np.uint8).astype(np.float64) - ord("0")


def spread(values: list[float]) -> dict[str, Any]:
    """Median, least and most of some runs, and the runs."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "runs": values,
    }


def mean_of_runs(values: list[float]) -> dict[str, float]:
    """Mean of independent runs and its standard error (0 for one run)."""
    error = statistics.stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0
    return {"mean": statistics.mean(values), "standard_error": error}


def clustered_mean(values: ArrayLike, clusters: ArrayLike) -> Estimate:
    """Mean over all values, its error from sums over clusters.

    A mean is a ratio of two sums over clusters, both random: see `clustered_ratio`.

    Args:
        values: `(N,)`, NaN where a value does not exist; those are left out.
        clusters: `(N,)` whole numbers, the cluster (image) of each value.
    """
    x, c = np.asarray(values, np.float64), np.asarray(clusters)
    there = ~np.isnan(x)
    return clustered_ratio(x[there], np.ones(int(there.sum())), c[there])


def clustered_ratio(above: ArrayLike, below: ArrayLike, clusters: ArrayLike) -> Estimate:
    """`sum(above) / sum(below)`, its error by linearisation (the delta method) over clusters.

    The variance is `n / (n - 1) * sum_c (A_c - R B_c)^2 / (sum B)^2` for the n clusters' sums A
    and B and their ratio R: the sandwich estimator, clustered, without a model of the dependence.

    Args:
        above, below: `(N,)` finite.
        clusters: `(N,)` whole numbers.
    """
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    a = np.bincount(place, weights=np.asarray(above, np.float64))
    b = np.bincount(place, weights=np.asarray(below, np.float64))
    if b.sum() == 0:
        return Estimate(float("nan"), float("nan"))
    ratio, n = a.sum() / b.sum(), len(a)
    spread = ((a - ratio * b) ** 2).sum() * n / (n - 1) if n > 1 else 0.0
    return Estimate(float(ratio), float(np.sqrt(spread) / abs(b.sum())))


def ranks(values: ArrayLike) -> Floats:
    """Rank of every value along the last axis, 1 for the smallest, ties shared: `(..., n)`."""
    x = np.asarray(values, np.float64)
    smaller = (x[..., None, :] < x[..., :, None]).sum(-1)
    equal = (x[..., None, :] == x[..., :, None]).sum(-1)
    return np.asarray(smaller + (equal + 1) / 2, np.float64)


def average_rank(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean over benchmarks of each method's rank in them, 1 the best, as the paper tabulates it.

    Args:
        scores: method to benchmark to score, larger is better; the same benchmarks for all.
    """
    table = np.array([list(of.values()) for of in scores.values()])
    found = ranks(-table.T).mean(0)
    return dict(zip(scores, found.tolist(), strict=True))


def spearman(x: ArrayLike, y: ArrayLike) -> Floats:
    """Rank correlation along the last axis, `(...)`; NaN where one side is all tied."""
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    size = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(size > 0, (a * b).sum(-1) / size, np.nan), np.float64)


def grouped_spearman(x: Floats, y: Floats, groups: NDArray[Any]) -> Floats:
    """Mean over groups (of the last axis) of the rank correlation within each."""
    found = [spearman(x[..., groups == g], y[..., groups == g]) for g in np.unique(groups)]
    return np.asarray(np.mean(found, axis=0), np.float64)


def resampled_means(
    sums: ArrayLike, counts: ArrayLike, draws: int, rng: np.random.Generator
) -> Floats:
    """Bootstrap over clusters: means `(draws, U)` of samples of clusters drawn with replacement.

    Args:
        sums: `(P, U)` sum of each cluster for each of U settings.
        counts: `(P,)` values in each cluster.
    """
    s, n = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    often = rng.multinomial(len(n), np.full(len(n), 1 / len(n)), size=draws)
    return np.asarray((often @ s) / (often @ n)[:, None], np.float64)


def interval(value: float, drawn: Floats) -> Correlation:
    """A figure with the 2.5% and 97.5% points of its bootstrap draws."""
    finite = drawn[~np.isnan(drawn)]
    if not len(finite):
        return Correlation(value, float("nan"), float("nan"))
    low, high = np.percentile(finite, [2.5, 97.5])
    return Correlation(value, float(low), float(high))
