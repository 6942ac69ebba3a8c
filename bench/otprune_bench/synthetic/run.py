"""Run the synthetic bench."""

from __future__ import annotations

from pathlib import Path

import torch

from otprune.measures import distances
from otprune_bench.runs.cases import run_cases
from otprune_bench.runs.report import check_plots, write_report
from otprune_bench.synthetic import report
from otprune_bench.synthetic.cases import cases
from otprune_bench.synthetic.plan import Plan
from otprune_bench.synthetic.summary import summarise


def run(folder: Path, plan: Plan) -> None:
    """Run what `folder` does not have yet, and write results, report and plot.

    Raises:
        OTPruneError: the folder has cases of other settings.
        MissingDependencyError: matplotlib or POT is not installed.
    """
    check_plots()
    distances.exact_w2(torch.ones(1, 1), torch.ones(1, 1))  # POT, before minutes go into the rest
    found = run_cases(folder, cases(plan), "synthetic", plan.settings())
    figures = summarise(plan, found)
    report.draw(folder, plan, figures)
    write_report(folder, figures, report.write(plan, figures, found), plan.settings())
