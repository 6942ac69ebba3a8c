"""Run the robot bench."""

from __future__ import annotations

from pathlib import Path

from otprune_bench.robot import report
from otprune_bench.robot.cases import cases
from otprune_bench.robot.plan import Plan
from otprune_bench.robot.sources import check_encoder
from otprune_bench.robot.summary import summarise
from otprune_bench.runs.cases import run_cases
from otprune_bench.runs.report import check_plots, write_report


def run(folder: Path, plan: Plan, data: Path) -> None:
    """Run what `folder` does not have yet, and write results, report and plots.

    Args:
        data: the folder of episodes and clips; what is not there is left out.

    Raises:
        OTPruneError: the folder has cases of other settings.
        MissingDependencyError: matplotlib is not installed, or the encoder not fetched.
    """
    check_plots()
    todo = list(cases(plan, data))
    if len(todo) > 1:
        check_encoder()
    found = run_cases(folder, todo, "robot", plan.settings())
    figures = summarise(plan, found)
    report.draw(folder, plan, found, figures, data)
    write_report(folder, figures, report.write(plan, found, figures), plan.settings())
