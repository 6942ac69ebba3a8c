"""Run the mass bench."""

from __future__ import annotations

from pathlib import Path

from otprune_bench.mass import report
from otprune_bench.mass.cases import Evaluation, cases
from otprune_bench.mass.plan import Plan
from otprune_bench.mass.summary import Summary
from otprune_bench.runs.cases import run_cases
from otprune_bench.runs.report import check_plots, write_report


def run(folder: Path, plan: Plan, photos: Path) -> None:
    """Run what `folder` does not have yet, and write results, report and plots.

    Arguments and errors as for the alignment bench.
    """
    check_plots()
    evaluation = Evaluation(plan, photos)
    results = run_cases(folder, cases(evaluation), "mass", plan.settings())
    text_tokens = {before: evaluation.text_tokens(before) for before in plan.before}
    summary = Summary(plan, evaluation.questions, text_tokens, results)
    report.draw(folder, summary)
    write_report(folder, summary.figures(), report.write(summary), plan.settings())
