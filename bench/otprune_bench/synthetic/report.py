"""The report of `otprune bench synthetic`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from otprune_bench.runs.cases import Results, failures
from otprune_bench.runs.report import figure, table
from otprune_bench.synthetic.plan import GAMMAS, KINDS, MEASURES, PUBLISHED, Plan, Size, methods

Figures = dict[str, Any]

TEXT = """# Synthetic tokens: win rate and optimality ratio

The paper reports both for its objective and does not define them in what is public; here they mean:

- **Win rate**: of random subsets of k tokens, how many percent a method's choice beats: a larger
  objective, a smaller distance (ties count half). Means are over the token sets.
- **Optimality ratio**, percent, objective: value of the choice / best value of any k tokens.
  Distance: least distance of any k tokens / distance of the choice. 100 is optimal in both. Where
  all subsets can be looked at (the first size) the best is known. Elsewhere a bound stands for it,
  and the figure is **a lower bound of the ratio** (>=): the certificate for the objective and for
  the free-mass distance; for any distance what no k tokens span, the smallest d - k eigenvalues of
  the second moments.
- **Measures**: the published objective with gamma as published and scaled to the size; squared
  2-Wasserstein distances between all and kept tokens, of Gaussians, exact with uniform mass, exact
  with free mass. Raw tokens, not normalised.
- **Tokens**: `normal`, independent standard normal numbers; `low rank`, a falling spectrum, a
  common mean and noise, which is closer to what encoders give."""


def write(plan: Plan, figures: Figures, found: Results) -> str:
    """The report in Markdown."""
    parts = [TEXT, *failures(found), "## Beside the published figures", _beside(plan, figures)]
    parts += [_point(plan.sizes[-1], figures)]
    parts.append("![Win rate by measure and size](synthetic.png)")
    for size, kind in plan.parts():
        proof = "all subsets looked at" if size.brute else "ratios are lower bounds"
        head = f"## {size.name}, {kind}: {size.sets} token sets, {size.subsets} random subsets each"
        rows = []
        for label in methods(size.k):
            one = figures[f"{size.name}/{kind}/{label}"]
            if "failed" in one:
                rows.append([label, *["failed"] * len(MEASURES)])
            else:
                rows.append([label, *(_pair(one[name], size) for name in MEASURES)])
        parts += [head, f"Win rate / optimality ratio, percent; {proof}."]
        parts.append(table(["method", *MEASURES], rows))
    return "\n\n".join(parts)


def _point(size: Size, figures: Figures) -> str:
    """The table's point in a sentence, at the largest size."""
    one = figures[f"{size.name}/low rank/otprune, gamma scaled"]
    if "failed" in one:
        return ""
    won = {name: f"{_win(one, name):.0f}%" for name in MEASURES}
    return (
        "A large objective is not a small distance: of the random subsets of low-rank tokens at "
        f"{size.name}, OTPrune (gamma scaled) beats {won[GAMMAS[1]]} by its objective, and "
        f"{won['gaussian']}, {won['exact']} and {won['free mass']} by Gaussian, exact and free-mass"
        " distance. Where our figures for the objective differ from the published, definitions "
        "or tokens do; a ratio that is a lower bound says nothing about the gap above it."
    )


def _beside(plan: Plan, figures: Figures) -> str:
    rows = []
    for size in plan.sizes:
        published = PUBLISHED.get((size.m, size.d, size.k))
        row: list[object] = [size.name, "{:g} / {:g}".format(*published) if published else "-"]
        for kind, gamma in itertools.product(KINDS, GAMMAS):
            one = figures[f"{size.name}/{kind}/{gamma.replace('objective', 'otprune')}"]
            row.append("failed" if "failed" in one else _pair(one[gamma], size, errors=True))
        rows.append(row)
    head = ["(m, d, k)", "published", *(f"{k}, {g}" for k, g in itertools.product(KINDS, GAMMAS))]
    text = "OTPrune on its own objective, win rate / optimality ratio, percent (+- standard error):"
    return f"{text}\n\n{table(head, rows)}"


def _pair(one: dict[str, Any], size: Size, errors: bool = False) -> str:
    win, near = one["win_rate"], one["optimality"]
    at_least = "" if size.brute else ">= "
    if errors:
        return (
            f"{win['mean']:.2f} +- {win['standard_error']:.2f} / "
            f"{at_least}{near['mean']:.2f} +- {near['standard_error']:.2f}"
        )
    return f"{win['mean']:.1f} / {at_least}{near['mean']:.1f}"


def _win(one: dict[str, Any], name: str) -> float:
    return float("nan") if "failed" in one else float(one[name]["win_rate"]["mean"])


def draw(folder: Path, plan: Plan, figures: Figures) -> None:
    """Win rate by measure at every size, for the low-rank tokens."""
    shown = list(methods(1))
    columns = [(size, name) for size in plan.sizes for name in MEASURES[1:]]
    grid = [
        [_win(figures[f"{size.name}/low rank/{label}"], name) for size, name in columns]
        for label in shown
    ]
    with figure(folder, "synthetic", size=(10, 5)) as axes:
        axes.grid(visible=False)
        image = axes.imshow(grid, vmin=0, vmax=100, cmap="cividis", aspect="auto")
        for y, row in enumerate(grid):
            for x, value in enumerate(row):
                color = "black" if value > 55 else "white"
                axes.text(x, y, f"{value:.0f}", ha="center", va="center", color=color, fontsize=8)
        axes.set_yticks(range(len(shown)), shown)
        axes.set_xticks(
            range(len(columns)),
            [f"{size.name} {name.removesuffix(', gamma scaled')}" for size, name in columns],
            rotation=40,
            ha="right",
            fontsize=8,
        )
        axes.set_title("low-rank tokens; objective with gamma scaled", loc="left", fontsize=10)
        bar = axes.figure.colorbar(image, ax=axes)
        bar.set_label("random subsets beaten, percent")
