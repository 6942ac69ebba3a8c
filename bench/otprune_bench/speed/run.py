"""Run the speed bench."""

from __future__ import annotations

from pathlib import Path

from otprune_bench.runs.cases import run_cases
from otprune_bench.runs.report import check_plots, write_report
from otprune_bench.speed import report
from otprune_bench.speed.cases import cases
from otprune_bench.speed.plan import Plan
from otprune_bench.speed.summary import summarise


def run(folder: Path, plan: Plan) -> None:
    """Run what `folder` does not have yet, and write results, report and plots.

    Raises:
        OTPruneError: the folder has cases of other settings.
        MissingDependencyError: matplotlib is not installed.
    """
    check_plots()
    found = run_cases(folder, cases(plan), "speed", plan.settings())
    figures = {case: summarise(result) for case, result in found.items()}
    report.draw(folder, plan, figures)
    write_report(folder, figures, report.write(plan, figures, found), plan.settings())
