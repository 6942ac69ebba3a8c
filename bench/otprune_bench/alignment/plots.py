"""Plots of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from otprune_bench.alignment.hypothesis import Findings, Points
from otprune_bench.alignment.plan import AT, KEEPS, OUTCOMES, OVERLAID, SCOPES, SETTINGS
from otprune_bench.alignment.summary import Summary
from otprune_bench.embedded.tasks import KINDS, SCALE, Task
from otprune_bench.figures.plots import LOOKS, apart, error_bars, keep_axis, legend_beside
from otprune_bench.methods import NAMES, UNPRUNED
from otprune_bench.runs.report import COLORS, figure, panels
from otprune_training.scenes import GRID, PATCH

Masks = Sequence[Sequence[Tensor | None]]


def draw(
    folder: Path,
    summary: Summary,
    points: Points,
    found: Findings,
    tasks: Sequence[Task],
    masks: Masks,
) -> None:
    """All plots, as PNG in the run's folder; `masks` says what each of `OVERLAID` keeps."""
    _accuracy(folder, summary)
    _kinds(folder, summary)
    _merging(folder, summary)
    _distances(folder, points)
    _correlations(folder, found)
    _overlays(folder, tasks, masks)


def _accuracy(folder: Path, summary: Summary) -> None:
    with figure(folder, "accuracy", (9.5, 5)) as axes:
        _curves(axes, summary, "all")
        axes.set(
            xlabel="tokens kept of 144 (share)",
            ylabel="right answers, all questions",
            title="As kept, positions preserved; bars: 1.96 standard errors, clustered by image",
        )
        axes.title.set_fontsize(10)
        legend_beside(axes)


def _curves(axes: Any, summary: Summary, group: str) -> None:
    full = summary.accuracy(UNPRUNED, 1.0, group=group).value
    axes.axhline(full, color="black", linewidth=1, linestyle=":", label="unpruned")
    for i, name in enumerate(NAMES):
        keeps = [keep for keep in KEEPS if name in summary.present(keep)]
        values = [summary.accuracy(name, keep, group=group) for keep in keeps]
        x = apart(keeps, i, len(NAMES))
        error_bars(axes, x, values, linewidth=1.2, label=name, **LOOKS[name])
    keep_axis(axes, KEEPS)


def _kinds(folder: Path, summary: Summary) -> None:
    with panels(folder, "kinds", 3, 3, (11, 9)) as grid:
        for axes, kind in zip(grid, KINDS, strict=False):
            _curves(axes, summary, kind)
            axes.set(title=kind, ylim=(0, 1.04))
        for axes in grid[::3]:
            axes.set_ylabel("right answers")
        for axes in grid[5:8]:
            axes.set_xlabel("tokens kept (share)")
        handles, labels = grid[0].get_legend_handles_labels()
        grid[8].axis("off")
        grid[8].legend(handles, labels, frameon=False, loc="center", fontsize=10)


def _merging(folder: Path, summary: Summary) -> None:
    names = summary.present(AT)
    with figure(folder, "settings", (9, 4.8)) as axes:
        for i, (setting, _, _) in enumerate(SETTINGS):
            values = [summary.accuracy(name, AT, setting) for name in names]
            x = np.arange(len(names)) + 0.16 * (i - 1.5)
            look: dict[str, Any] = {"fmt": "osD^"[i], "markersize": 5, "color": COLORS[i]}
            error_bars(axes, x, values, label=setting, **look)
        full = summary.accuracy(UNPRUNED, 1.0).value
        axes.axhline(full, color="black", linewidth=1, linestyle=":", label="unpruned")
        axes.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
        axes.set(ylabel="right answers, all questions", title=f"Keep {AT}: merging and positions")
        axes.legend(frameon=False, fontsize=9)


def _distances(folder: Path, points: Points) -> None:
    wanted = [f"{d} {s}" for s in ("raw", "rows") for d in ("gaussian", "exact", "free mass")]
    names = [name for name in wanted if name in points.distances]
    if not names:
        return
    loss = points.outcome("answer loss")
    who = np.array(points.names)
    with panels(folder, "distances", 2, -(-len(names) // 2), (13, 7.4)) as grid:
        for axes, distance in zip(grid, names, strict=False):
            here = points.distances[distance].mean(0)
            for name in NAMES:
                at = who == name
                look = {**LOOKS[name], "linestyle": ":"}
                axes.plot(
                    here[at], loss[at], linewidth=0.8, markersize=5, alpha=0.85, label=name, **look
                )
            space = {"raw": "raw tokens", "rows": "tokens at length one"}[distance.split()[-1]]
            title = f"{distance.rsplit(' ', 1)[0]}, {space}"
            axes.set(xscale="log", yscale="log", title=title, xlabel="W2² / mean squared norm")
            axes.xaxis.set_minor_formatter("")
        for axes in grid[:: -(-len(names) // 2)]:
            axes.set_ylabel("answer loss (nats)")
        grid[0].legend(frameon=False, fontsize=8)


def _correlations(folder: Path, found: Findings) -> None:
    distances = list(dict.fromkeys(distance for distance, _, _ in found))
    if not distances:
        return
    with panels(folder, "correlations", 1, 2, (11, 5)) as grid:
        for axes, scope in zip(grid, SCOPES, strict=True):
            for i, outcome in enumerate(OUTCOMES):
                y = np.arange(len(distances)) + 0.22 * (2 * i - 1)
                both = [found[distance, outcome, scope] for distance in distances]
                for line, width, alpha, meant in (
                    ([f.over_methods for f in both], 1.2, 0.45, "other methods"),
                    ([f.over_images for f in both], 4.0, 0.75, "other images"),
                ):
                    axes.hlines(
                        y,
                        [c.low for c in line],
                        [c.high for c in line],
                        color=COLORS[i],
                        linewidth=width,
                        alpha=alpha,
                        label=f"{outcome}, 95%: {meant}",
                    )
                value = [f.over_images.value for f in both]
                axes.plot(value, y, "o", color=COLORS[i], markersize=5)
            axes.axvline(0, color="black", linewidth=1)
            axes.set_yticks(range(len(distances)), distances)
            axes.invert_yaxis()
            title = {"within": "within a keep ratio (mean of five)", "pooled": "all ratios pooled"}
            axes.set(xlim=(-1, 1), title=title[scope])
            axes.set_xlabel("rank correlation; right: smaller distance, better answers")
        grid[1].set_yticklabels([])
        grid[0].figure.legend(
            *grid[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=2,
            frameon=False,
            fontsize=9,
        )


def _overlays(folder: Path, tasks: Sequence[Task], masks: Masks) -> None:
    """Each image beside what the methods keep of it; all else is dimmed."""
    columns = 1 + len(OVERLAID)
    with panels(folder, "overlays", len(masks), columns, (7.2, 1.25 * len(masks))) as grid:
        for p, row in enumerate(masks):
            image = np.asarray(tasks[p].image)
            grid[p * columns].imshow(image)
            for axes, kept in zip(grid[p * columns + 1 :], row, strict=False):
                if kept is None:
                    axes.text(0.5, 0.5, "failed", transform=axes.transAxes, ha="center")
                    continue
                mask = kept.reshape(GRID, GRID).numpy().repeat(PATCH * SCALE, 0)
                mask = mask.repeat(PATCH * SCALE, 1)[..., None]
                dim = 0.3 * (0.3 * image + 0.7 * image.mean(-1, keepdims=True))
                axes.imshow(np.where(mask, image, dim).astype(np.uint8))
        for axes in grid:
            axes.axis("off")
        for axes, name in zip(grid, ("image", *OVERLAID), strict=False):
            axes.set_title(name, fontsize=8)
