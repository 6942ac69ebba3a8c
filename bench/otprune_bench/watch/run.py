"""Run the watch bench."""

from __future__ import annotations

from pathlib import Path

from otprune_bench.runs.cases import run_cases
from otprune_bench.runs.report import check_plots, write_report
from otprune_bench.watch import report
from otprune_bench.watch.cases import cases
from otprune_bench.watch.plan import Plan


def run(folder: Path, plan: Plan, photos: Path) -> None:
    """Run what `folder` does not have yet, and write results, report and plots.

    Arguments and errors as for the alignment bench.
    """
    check_plots()
    found = run_cases(folder, cases(plan, photos), "watch", plan.settings())
    report.draw(folder, found)
    write_report(folder, found, report.write(plan, found), plan.settings())
