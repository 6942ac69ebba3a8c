"""What the plots have in common: looks of the methods, error bars, axes, legends."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import pairwise
from typing import Any

from otprune_bench.figures.statistics import CLEAR, Estimate
from otprune_bench.methods import NAMES, RANDOM
from otprune_bench.runs.report import COLORS

MARKERS = "osD^vP<>X"
LOOKS: dict[str, dict[str, Any]] = {
    name: {"color": COLORS[i], "marker": MARKERS[i % len(MARKERS)]} for i, name in enumerate(NAMES)
}
LOOKS[RANDOM] = {"color": "#555555", "marker": "X", "linestyle": "--"}


def error_bars(
    axes: Any, x: Iterable[float], of: Collection[Estimate], scale: float = 1.0, **look: Any
) -> None:
    """Estimates, times `scale`, with bars of 1.96 standard errors."""
    errors = [CLEAR * scale * estimate.error for estimate in of]
    values = [scale * estimate.value for estimate in of]
    axes.errorbar(x, values, yerr=errors, **{"markersize": 4, "capsize": 2, **look})


def apart(keeps: Iterable[float], number: int, of: int) -> list[float]:
    """Keep ratios moved a little, so that error bars of `of` curves do not cover each other."""
    return [keep * 1.015 ** (number - of / 2) for keep in keeps]


def keep_axis(axes: Any, keeps: Iterable[float]) -> None:
    """A logarithmic axis of keep ratios; of two that nearly touch the smaller is labelled."""
    ticks = sorted(keeps)
    crowded = {b for a, b in pairwise(ticks) if b < 1.2 * a}
    axes.set_xscale("log")
    axes.set_xticks(ticks, ["" if keep in crowded else f"{keep:g}" for keep in ticks])
    axes.minorticks_off()


def legend_beside(axes: Any) -> None:
    """A legend to the right of the axes."""
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
