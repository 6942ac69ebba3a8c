"""The paper's hypothesis, tested: does a smaller distance go with better answers?

A point is a method at a ratio: its distance (mean over the measured images) against its share of
wrong answers, and against its answer loss. OTPrune (arXiv 2602.20205) expects a positive rank
correlation. Pooled over ratios it is almost certain to be positive, since keeping more lowers every
distance and every loss. Within a ratio it shows whether the distance ranks the methods, which is
what it was chosen for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from otprune_bench.alignment.plan import AS_KEPT, KEEPS, OUTCOMES, SCOPES
from otprune_bench.alignment.summary import Summary
from otprune_bench.embedded.spaces import NAMES as DISTANCES
from otprune_bench.figures.statistics import (
    Correlation,
    Floats,
    grouped_spearman,
    interval,
    resampled_means,
    spearman,
)


class Finding(NamedTuple):
    """One correlation with two 95% intervals, of resampled images and of resampled methods.

    Resampling images shows how well the points are known. Resampling methods shows how much the
    figure depends on the choice of methods; that interval is wide, since they are few.
    """

    over_images: Correlation
    over_methods: Correlation


Findings = dict[tuple[str, str, str], Finding]  # by distance, outcome and scope


class Points(NamedTuple):
    """U points, each a method at a ratio.

    Attributes:
        names, keeps: `(U,)` method and ratio.
        sums: outcome to `(P, U)`, its sum over the questions of an image.
        counts: `(P,)` questions of an image.
        distances: name to `(D, U)`, a row for each measured image.
    """

    names: list[str]
    keeps: Floats
    sums: dict[str, Floats]
    counts: Floats
    distances: dict[str, Floats]

    def outcome(self, name: str) -> Floats:
        """`(U,)`"""
        return np.asarray(self.sums[name].sum(0) / self.counts.sum())


def points(summary: Summary, setting: str = AS_KEPT) -> Points:
    """The points of a run, without distances that were not measured (exact ones without POT)."""
    units = [(name, keep) for keep in KEEPS for name in summary.present(keep)]
    image = summary.questions.image

    def per_image(values: Floats) -> Floats:
        return np.bincount(image, weights=values).astype(np.float64)

    found = [summary.outcomes[name, keep, setting] for name, keep in units]
    distances = {}
    for name in DISTANCES:
        columns = [
            np.mean([np.array(run["distances"][name], np.float64) for run in runs], axis=0)
            for runs in (summary.runs(*unit) for unit in units)
        ]
        table = np.stack(columns, 1)
        if not np.isnan(table).any():
            distances[name] = table
    return Points(
        names=[name for name, _ in units],
        keeps=np.array([keep for _, keep in units]),
        sums={
            "wrong answers": np.stack([per_image(1 - o.right) for o in found], 1),
            "answer loss": np.stack([per_image(o.loss) for o in found], 1),
        },
        counts=per_image(np.ones(len(image))),
        distances=distances,
    )


def findings(of: Points, draws: int, seed: int) -> Findings:
    """Every (distance, outcome, scope) with its intervals."""
    rng = np.random.default_rng(seed)
    scores = {name: resampled_means(of.sums[name], of.counts, draws, rng) for name in OUTCOMES}
    who = np.array(of.names)
    names = np.unique(who)
    drawn_methods = [rng.choice(names, len(names)) for _ in range(draws)]
    samples = [
        np.concatenate([np.flatnonzero(who == name) for name in drawn]) for drawn in drawn_methods
    ]
    found = {}
    for distance, table in of.distances.items():
        moved = resampled_means(table, np.ones(len(table)), draws, rng)
        here = table.mean(0)
        for outcome in OUTCOMES:
            score = of.outcome(outcome)
            for scope in SCOPES:
                value = float(_correlate(here, score, of.keeps, scope))
                images = _correlate(moved, scores[outcome], of.keeps, scope)
                others = np.array(
                    [_correlate(here[s], score[s], of.keeps[s], scope) for s in samples]
                )
                found[distance, outcome, scope] = Finding(
                    interval(value, images), interval(value, others)
                )
    return found


def _correlate(x: Floats, y: Floats, keeps: Floats, scope: str) -> Floats:
    return spearman(x, y) if scope == "pooled" else grouped_spearman(x, y, keeps)


def figures(of: Points, found: Findings) -> dict[str, Any]:
    """Mean distances of every point, and every correlation: value, low, high."""
    distances = {
        name: {
            f"{who}@{keep:g}": float(f"{value:.4g}")
            for who, keep, value in zip(of.names, of.keeps, table.mean(0), strict=True)
        }
        for name, table in of.distances.items()
    }
    tree: dict[str, Any] = {}
    for (distance, outcome, scope), finding in found.items():
        tree.setdefault(distance, {}).setdefault(outcome, {})[scope] = {
            "over images": [round(x, 4) for x in finding.over_images],
            "over methods": [round(x, 4) for x in finding.over_methods],
        }
    return {"mean distances": distances, "correlation": tree}
