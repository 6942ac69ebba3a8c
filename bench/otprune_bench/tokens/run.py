"""Run the tokens bench."""

from __future__ import annotations

from pathlib import Path

from otprune_bench.runs.cases import run_cases
from otprune_bench.runs.report import check_plots, write_report
from otprune_bench.tokens import report
from otprune_bench.tokens.cases import Images, cases
from otprune_bench.tokens.plan import Plan


def run(folder: Path, plan: Plan, photos: Path) -> None:
    """Run what `folder` does not have yet, and write results, report and plot.

    Raises:
        OTPruneError: the folder has cases of other settings.
        MissingDependencyError: the encoder was not fetched, or matplotlib is not installed.
    """
    check_plots()
    images = Images(plan, photos)
    images.encoder  # noqa: B018  # what is missing is said before anything runs
    results = run_cases(folder, cases(images), "tokens", plan.settings())
    report.draw(folder, plan, results)
    write_report(folder, report.summarise(results), report.write(plan, results), plan.settings())
