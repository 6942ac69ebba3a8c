"""Plots of a run: accuracy against tokens, and every line ranked where few tokens are kept."""

from __future__ import annotations

from pathlib import Path

from otprune_bench.figures.plots import apart, error_bars, keep_axis
from otprune_bench.methods import UNPRUNED
from otprune_bench.quality.plan import GROUPS, KEEPS, SCARCE
from otprune_bench.quality.summary import Summary
from otprune_bench.runs.report import COLORS, figure, panels

_COLORS = dict(
    zip(GROUPS, (COLORS[0], COLORS[5], COLORS[4], COLORS[1], COLORS[3], COLORS[7]), strict=True)
)
# What the first plot shows: these of ours, and the best of each other group at few tokens.
_OURS = (
    "transport, question 0.9 + mass",
    "simplex + merge, mass, distance",
    "transport, question 0.9",
    "simplex",
)
_SHOWN = 2


def draw(folder: Path, summary: Summary) -> None:
    """All plots, as PNG in the run's folder."""
    _accuracy(folder, summary)
    _ranking(folder, summary)


def _accuracy(folder: Path, summary: Summary) -> None:
    there = summary.present(SCARCE[-1])
    names = [name for name in _OURS if name in there] or summary.present(SCARCE[-1], "ours")[:4]
    for group in [group for group in GROUPS if group != "ours"]:
        best = sorted(
            summary.present(SCARCE[-1], group),
            key=lambda name: -sum(summary.accuracy(name, keep).value for keep in SCARCE),
        )
        names += best[:_SHOWN]
    with figure(folder, "accuracy", (10, 5.2)) as axes:
        full = summary.accuracy(UNPRUNED, 1.0).value
        axes.axhline(full, color="black", linewidth=1, linestyle=":", label="unpruned")
        for i, name in enumerate(names):
            group = summary.contenders[name].group
            order = [n for n in names if summary.contenders[n].group == group].index(name)
            keeps = [keep for keep in KEEPS if (name, keep) in summary.right]
            error_bars(
                axes,
                apart(keeps, i, len(names)),
                [summary.accuracy(name, keep) for keep in keeps],
                label=name,
                color=_COLORS[group],
                marker="osD^"[order],
                linestyle=("-", "--", "-.", ":")[order],
                linewidth=1.8 if group == "ours" else 1.2,
            )
        keep_axis(axes, KEEPS)
        axes.set(
            xlabel="tokens kept of 144 (share)",
            ylabel="right answers, all questions",
            title="The best of each group; bars: 1.96 standard errors, clustered by image",
        )
        axes.title.set_fontsize(10)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _ranking(folder: Path, summary: Summary) -> None:
    """One panel a ratio: all lines, best on top."""
    lines = max(len(summary.present(keep)) for keep in SCARCE)
    with panels(folder, "ranking", 1, len(SCARCE), (15, 0.24 * lines + 1.2)) as grid:
        for axes, keep in zip(grid, SCARCE, strict=True):
            names = sorted(
                summary.present(keep), key=lambda name: summary.accuracy(name, keep).value
            )
            for y, name in enumerate(names):
                estimate = summary.accuracy(name, keep)
                group = summary.contenders[name].group
                axes.barh(
                    y,
                    estimate.value,
                    xerr=1.96 * estimate.error,
                    color=_COLORS[group],
                    error_kw={"linewidth": 1, "ecolor": "#333333"},
                )
            full = summary.accuracy(UNPRUNED, 1.0).value
            axes.axvline(full, color="black", linewidth=1, linestyle=":")
            axes.set_yticks(range(len(names)), names, fontsize=8)
            axes.set(
                xlim=(0, 1),
                ylim=(-0.7, lines - 0.3),
                title=f"keep {keep:g}",
                xlabel="right answers",
            )
        handles = [
            grid[0].barh(0, 0, color=_COLORS[group], label=title) for group, title in GROUPS.items()
        ]
        grid[0].figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
