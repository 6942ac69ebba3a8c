"""Run the soak."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from otprune.errors import MissingDependencyError
from otprune_bench.runs.cases import run_cases
from otprune_bench.runs.report import check_plots, write_report
from otprune_bench.soak import report
from otprune_bench.soak.cases import Soak
from otprune_bench.soak.plan import Plan


def run(folder: Path, plan: Plan) -> None:
    """Run what `folder` does not have yet, and write results, report and plot.

    Raises:
        OTPruneError: the folder has cases of other settings, or a server did not come up.
        MissingDependencyError: vLLM or matplotlib is not installed.
    """
    check_plots()
    if find_spec("vllm") is None:
        raise MissingDependencyError(
            "vLLM is not installed here, and without it there is no server to load: "
            "`make test-vllm` makes .venv-vllm, which has it (docs/vllm.md)"
        )
    with Soak(plan) as soak:
        found = run_cases(folder, soak.cases(), "soak", plan.settings())
    report.draw(folder, plan, found)
    write_report(folder, found, report.write(plan, found), plan.settings())
