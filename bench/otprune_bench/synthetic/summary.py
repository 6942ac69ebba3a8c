"""From runs of the synthetic bench to figures."""

from __future__ import annotations

from typing import Any

from otprune_bench.figures.statistics import mean_of_runs
from otprune_bench.runs.cases import Results
from otprune_bench.synthetic.plan import MEASURES, Plan, methods


def summarise(plan: Plan, found: Results) -> dict[str, Any]:
    """Means over the token sets, with standard errors; a failed set fails its size and kind."""
    figures: dict[str, Any] = {}
    for size, kind in plan.parts():
        runs = [found[f"{size.name}/{kind}#{i + 1}"] for i in range(size.sets)]
        reasons = sorted({run["failed"] for run in runs if "failed" in run})
        for label in methods(size.k):
            key = f"{size.name}/{kind}/{label}"
            if reasons:
                figures[key] = {"failed": "; ".join(reasons)}
                continue
            figures[key] = {
                name: {
                    what: _of_sets([run[label][name][what] for run in runs])
                    for what in ("win_rate", "optimality")
                }
                for name in MEASURES
            }
            figures[key]["proof"] = "brute force" if size.brute else "bound"
    return figures


def _of_sets(values: list[float]) -> dict[str, Any]:
    return {**mean_of_runs(values), "sets": values}
