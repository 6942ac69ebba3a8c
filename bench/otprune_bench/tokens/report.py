"""The report of `otprune bench tokens`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from otprune_bench.figures.plots import LOOKS, apart, error_bars, keep_axis, legend_beside
from otprune_bench.figures.statistics import Estimate, clustered_mean
from otprune_bench.methods import NAMES
from otprune_bench.runs.cases import Results, failures
from otprune_bench.runs.report import panels, table
from otprune_bench.tokens.plan import MEASURES, SHARES, Plan, key, tokens_of


def summarise(results: Results) -> dict[str, Any]:
    """Mean over images and its standard error, of every measure."""
    return {
        case: result
        if "failed" in result
        else {name: [float(f"{x:.4g}") for x in _estimate(result[name])] for name in MEASURES}
        for case, result in results.items()
    }


def _estimate(values: list[float | None]) -> Estimate:
    x = np.array(values, np.float64)
    return clustered_mean(x, np.arange(len(x)))


def write(plan: Plan, results: Results) -> str:
    """The report in Markdown."""
    below = "different photographs" if plan.photographs else "images of noise (a small run)"
    parts = [
        "# A second encoder: tokens of a pretrained ViT-S/14\n",
        f"{plan.images} {below}, each with two to five stickers whose masks are known; "
        "the encoder was trained by others, on photographs without stickers. No questions are "
        "asked. Distances are between all tokens and the kept ones, raw tokens, divided by the "
        "mean squared token norm; Gaussian and exact with equal mass on the kept tokens. The "
        "certificate is value / bound for the method's own objective. Objects kept: share of a "
        "image's stickers of which a token is kept at all. ± is one standard error over "
        "images.\n",
    ]
    for size in plan.sizes:
        for keep in plan.keeps:
            rows = []
            for name in NAMES:
                result = results[key(name, keep, size)]
                if "failed" in result:
                    rows.append([f"`{name}`", *["failed"] * len(MEASURES)])
                else:
                    cells = (_cell(measure, result[measure]) for measure in MEASURES)
                    rows.append([f"`{name}`", *cells])
            parts.append(f"## {tokens_of(size)} tokens, keep {keep}\n")
            parts.append(table(["", *MEASURES.values()], rows) + "\n")
    parts.append("![objects kept](tokens.png)\n")
    return "\n".join([*parts, *failures(results)])


def _cell(measure: str, values: list[float | None]) -> str:
    found = _estimate(values)
    if np.isnan(found.value):
        return "-"
    scale, digits = (100, 1) if measure in SHARES else (1, 3)
    return f"{scale * found.value:.{digits}f} ± {scale * found.error:.{digits}f}"


def draw(folder: Path, plan: Plan, results: Results) -> None:
    """The plot."""
    wide = 4.2 * len(plan.sizes) + 2
    with panels(folder, "tokens", 1, len(plan.sizes), (wide, 4.2)) as grid:
        for axes, size in zip(grid, plan.sizes, strict=True):
            for i, name in enumerate(NAMES):
                found = {
                    keep: _estimate(result["objects"])
                    for keep in plan.keeps
                    if "failed" not in (result := results[key(name, keep, size)])
                }
                x = apart(found, i, len(NAMES))
                error_bars(axes, x, found.values(), linewidth=1.2, label=name, **LOOKS[name])
            axes.set(title=f"{tokens_of(size)} tokens", ylim=(0, 1.04))
            keep_axis(axes, plan.keeps)
            axes.set_xlabel("tokens kept (share)")
        grid[0].set_ylabel("objects of which a token is kept")
        legend_beside(grid[-1])
