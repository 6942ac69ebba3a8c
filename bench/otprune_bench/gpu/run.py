"""Run the GPU bench."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from otprune_bench.gpu import report
from otprune_bench.gpu.cases import cases, expected_seconds
from otprune_bench.gpu.plan import Plan
from otprune_bench.runs.cases import Results, run_cases
from otprune_bench.runs.deadline import Deadline, SkipError
from otprune_bench.runs.report import write_report

_AT_THE_END = 10.0  # seconds for report and plots


def run(folder: Path, plan: Plan) -> None:
    """Run what `folder` does not have yet, and write results, report and plots as it goes.

    Raises:
        OTPruneError: torch sees no such device, or the folder has cases of other settings.
    """
    plan = plan.placed()
    if plan.device == "cpu" and "triton" not in sys.modules:
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
    table = expected_seconds(plan)
    limit = 60 * plan.minutes - _AT_THE_END if plan.minutes else float("inf")
    deadline = Deadline(limit, table)
    todo = [
        (key, function if part_of(key) in (*plan.parts, "card") else partial(_not_asked, plan))
        for key, function in cases(plan)
    ]

    def write(found: Results) -> None:
        settings = {**plan.settings(), "parts": ", ".join(plan.parts), "minutes": plan.minutes}
        figures: dict[str, Any] = dict(found)
        write_report(folder, figures, report.write(plan, found, table), settings)

    found = run_cases(folder, todo, "gpu", plan.settings(), deadline, write)
    report.draw(folder, plan, found)
    write(found)


def part_of(key: str) -> str:
    """The part that a case belongs to."""
    return key.partition("/")[0]


def _not_asked(plan: Plan) -> dict[str, Any]:
    raise SkipError(f"not asked for: --part {' '.join(plan.parts)}")
