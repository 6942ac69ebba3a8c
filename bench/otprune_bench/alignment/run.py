"""Run the alignment bench."""

from __future__ import annotations

from pathlib import Path

from otprune_bench.alignment import hypothesis, plots, report
from otprune_bench.alignment.cases import Evaluation, cases
from otprune_bench.alignment.plan import AT, OVERLAID, OVERLAYS, Plan
from otprune_bench.alignment.summary import Summary
from otprune_bench.runs.cases import run_cases
from otprune_bench.runs.report import check_plots, write_report


def run(folder: Path, plan: Plan, photos: Path) -> None:
    """Run what `folder` does not have yet, and write results, report and plots.

    Args:
        folder: of the run; one that was interrupted there goes on.
        plan: what is measured.
        photos: folder of `otprune_training.photos`; collected there if it does not exist. Not
            read without `plan.photographs`.

    Raises:
        OTPruneError: the folder has cases of other settings, or the unpruned model failed.
        MissingDependencyError: matplotlib is not installed.
    """
    check_plots()
    evaluation = Evaluation(plan, photos)
    results = run_cases(folder, cases(evaluation), "alignment", plan.settings())
    summary = Summary(results, evaluation.questions)
    points = hypothesis.points(summary)
    found = hypothesis.findings(points, plan.draws, plan.seed)
    masks = evaluation.masks(OVERLAID, AT, min(OVERLAYS, plan.images))
    plots.draw(folder, summary, points, found, evaluation.tasks, masks)
    figures = summary.figures() | hypothesis.figures(points, found)
    write_report(folder, figures, report.write(plan, summary, points, found), plan.settings())
