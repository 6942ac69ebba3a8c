"""Run the encoder bench."""

from __future__ import annotations

from pathlib import Path

from otprune_bench.encoder import report
from otprune_bench.encoder.cases import cases, evaluations_of
from otprune_bench.encoder.features import Photographs
from otprune_bench.encoder.plan import Plan
from otprune_bench.encoder.summary import Summary
from otprune_bench.runs.cases import run_cases
from otprune_bench.runs.report import check_plots, write_report


def run(folder: Path, plan: Plan, photos: Path) -> None:
    """Run what `folder` does not have yet, and write results, report and plots.

    Raises:
        OTPruneError: the folder has cases of other settings, or the unpruned model failed.
        MissingDependencyError: the encoder was not fetched, or matplotlib is not installed.
    """
    check_plots()
    photographs = Photographs(plan, photos)
    photographs.encoder  # noqa: B018  # what is missing is said before anything runs
    evaluations = evaluations_of(plan, photos)
    found = run_cases(folder, cases(plan, photographs, evaluations), "encoder", plan.settings())
    questions = {split: each.questions for split, each in evaluations.items()}
    summary = Summary(plan, questions, found)
    report.draw(folder, summary)
    write_report(folder, summary.figures(), report.write(summary), plan.settings())
