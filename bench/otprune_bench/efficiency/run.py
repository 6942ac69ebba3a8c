"""Run the efficiency bench."""

from __future__ import annotations

from pathlib import Path

from otprune_bench.efficiency import report
from otprune_bench.efficiency.cases import cases
from otprune_bench.efficiency.plan import Plan
from otprune_bench.efficiency.summary import summarise
from otprune_bench.runs.cases import run_cases
from otprune_bench.runs.report import check_plots, write_report


def run(folder: Path, plan: Plan) -> None:
    """Run what `folder` does not have yet, and write results, report and plots.

    Raises:
        OTPruneError: the folder has cases of other settings.
        MissingDependencyError: matplotlib is not installed.
    """
    check_plots()
    found = run_cases(folder, cases(plan), "efficiency", plan.settings())
    figures = summarise(plan, found)
    report.draw(folder, plan, figures)
    write_report(folder, figures, report.write(plan, figures, found), plan.settings())
