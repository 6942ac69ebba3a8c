"""The plot of an evaluation: what is kept of the answers against what is kept of the tokens."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

from otprune.errors import MissingDependencyError, OTPruneError
from otprune.evaluation.summary import CLEAR, Line

MARKERS = "osD^vP<>X"


def check_plot(path: Path) -> None:
    """Refuse a plot that could not be written, before work starts.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        OTPruneError: its folder is missing, or matplotlib writes no such format.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as cause:
        raise MissingDependencyError(
            f"--plot needs matplotlib, which cannot be imported ({cause}): pip install matplotlib"
        ) from cause
    known = sorted(FigureCanvasAgg(Figure()).get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in known:
        raise OTPruneError(f"--plot {path}: expected a file ending in .{', .'.join(known)}")
    if not path.parent.is_dir():
        raise OTPruneError(f"--plot {path}: there is no folder {path.parent}")


def draw(path: Path, lines: Sequence[Line], model: str) -> None:
    """Write the plot: accuracy, or agreement where no answer is known; a curve for each method."""
    from matplotlib.figure import Figure

    full, *cut = lines
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    scored = full.accuracy is not None
    names = dict.fromkeys(line.setting.name for line in cut if line.setting is not None)
    for number, name in enumerate(names):
        mine = [x for x in cut if x.setting and x.setting.name == name and x.examples]
        mine = [x for x in mine if (x.accuracy is not None) == scored]  # none known: not its axis
        mine.sort(key=lambda line: line.tokens_ratio)
        values = [x.agreement if x.accuracy is None else x.accuracy for x in mine]
        spread = [CLEAR * x.error for x in mine]
        bars = [
            [100 * min(error, value) for error, value in zip(spread, values, strict=True)],
            [100 * min(error, 1 - value) for error, value in zip(spread, values, strict=True)],
        ]
        aside = 1.015 ** (number - len(names) / 2)  # so that bars do not cover each other
        axes.errorbar(
            [100 * aside * x.tokens_ratio for x in mine],
            [100 * value for value in values],
            yerr=bars,
            label=name,
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            capsize=2,
        )
    if full.accuracy is not None:
        axes.axhline(100 * full.accuracy, color="#555555", linestyle="--", label="unpruned")
    axes.set_xlabel("visual tokens kept, %")
    axes.set_ylabel("right answers, %" if scored else "answers as unpruned, %")
    axes.set_title(f"{model}, {full.examples} examples", fontsize=10)
    axes.set_xscale("log")
    ticks = _apart({round(100 * x.tokens_ratio, 1) for x in cut if x.examples})
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=150)


def _apart(values: Collection[float]) -> list[float]:
    """Those whose labels do not touch on a logarithmic axis: 9 beside 9.7 would read 99.7."""
    found: list[float] = []
    least = 0.08 * math.log(max(values) / min(values)) if values else 0.0
    for value in sorted(values):
        if not found or math.log(value / found[-1]) >= least:
            found.append(value)
    return found
