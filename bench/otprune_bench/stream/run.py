"""Run the stream bench."""

from __future__ import annotations

from pathlib import Path

from otprune_bench.runs.cases import run_cases
from otprune_bench.runs.report import check_plots, write_report
from otprune_bench.stream import report
from otprune_bench.stream.cases import cases
from otprune_bench.stream.plan import Plan
from otprune_bench.stream.summary import summarise


def run(folder: Path, plan: Plan, photos: Path) -> None:
    """Run what `folder` does not have yet, and write results, report and plots.

    Arguments and errors as for the alignment bench.
    """
    check_plots()
    found = run_cases(folder, cases(plan, photos), "stream", plan.settings())
    figures = summarise(plan, found)
    report.draw(folder, plan, figures)
    write_report(folder, figures, report.write(plan, figures, found), plan.settings())
