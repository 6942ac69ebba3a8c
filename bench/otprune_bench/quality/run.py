"""Run the quality bench."""

from __future__ import annotations

from pathlib import Path

from otprune_bench.quality import plots, report
from otprune_bench.quality.cases import Evaluation, cases
from otprune_bench.quality.plan import Plan
from otprune_bench.quality.summary import Summary
from otprune_bench.runs.cases import run_cases
from otprune_bench.runs.report import check_plots, write_report


def run(folder: Path, plan: Plan, photos: Path) -> None:
    """Run what `folder` does not have yet, and write results, report and plots.

    Arguments and errors as for the alignment bench.
    """
    check_plots()
    evaluation = Evaluation(plan, photos)
    results = run_cases(folder, cases(evaluation), "quality", plan.settings())
    summary = Summary(plan, results, evaluation.questions, evaluation.contenders)
    plots.draw(folder, summary)
    write_report(folder, summary.figures(), report.write(plan, summary), plan.settings())
