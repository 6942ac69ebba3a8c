"""Run the distance bench."""

from __future__ import annotations

from pathlib import Path

from otprune_bench.distance import report
from otprune_bench.distance.cases import Evaluation, cases
from otprune_bench.distance.plan import Plan
from otprune_bench.runs.cases import run_cases
from otprune_bench.runs.report import write_report


def run(folder: Path, plan: Plan, photos: Path) -> None:
    """Run what `folder` does not have yet, and write results and report.

    Arguments and errors as for the alignment bench.
    """
    evaluation = Evaluation(plan, photos)
    results = run_cases(folder, cases(evaluation), "distance", plan.settings())
    summary = report.Summary(plan, evaluation.questions, results)
    write_report(folder, summary.figures(), report.write(summary), plan.settings())
