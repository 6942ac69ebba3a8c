"""Run the GPU bench."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from otprune_bench.gpu import report
from otprune_bench.gpu.cases import cases, expected_seconds
from otprune_bench.gpu.plan import Plan
from otprune_bench.runs.cases import FILE, Results, run_cases
from otprune_bench.runs.deadline import Deadline, SkipError
from otprune_bench.runs.report import write_report

_AT_THE_END = 10.0  # seconds for report and plots
_EVERY = 10.0  # seconds from report to report


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
    device = _Device()
    todo = [
        (
            key,
            partial(device.run, key, function)
            if part_of(key) in (*plan.parts, "card")
            else partial(_not_asked, plan),
        )
        for key, function in cases(plan)
    ]
    # What failed before may fail again and take the device with it, so the rest comes first.
    failed = _failed(folder / FILE)
    todo.sort(key=lambda case: case[0] in failed)
    written = [time.monotonic()]

    def write_now_and_then(found: Results) -> None:
        if time.monotonic() - written[0] > _EVERY:
            write(found)
            written[0] = time.monotonic()

    def write(found: Results) -> None:
        settings = {**plan.settings(), "parts": ", ".join(plan.parts), "minutes": plan.minutes}
        figures: dict[str, Any] = dict(found)
        write_report(folder, figures, report.write(plan, found, table), settings)

    found = run_cases(folder, todo, "gpu", plan.settings(), deadline, write_now_and_then)
    report.draw(folder, plan, found)
    write(found)


class _Device:
    """A device that failed answers every later call with the same error: cases end there."""

    def __init__(self) -> None:
        self._broken_by: str | None = None

    def run(self, key: str, function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a case, unless the device failed in an earlier one, or is too small."""
        if self._broken_by is not None:
            raise SkipError(
                f"the device failed in {self._broken_by}: start the same command again for the rest"
            )
        try:
            return function()
        except torch.cuda.OutOfMemoryError as error:
            said = " ".join(str(error).split())[:160]
            raise SkipError(f"not enough memory on this device: {said}") from error
        except RuntimeError as error:
            if "CUDA error" in str(error):
                self._broken_by = key
            raise


def _failed(file: Path) -> set[str]:
    """Keys of the cases that failed when they were last run."""
    failed: set[str] = set()
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # cut off by an interrupt
            continue
        if "failed" in record.get("result", {}):
            failed.add(record["case"])
        else:
            failed.discard(record.get("case", ""))
    return failed


def part_of(key: str) -> str:
    """The part that a case belongs to."""
    return key.partition("/")[0]


def _not_asked(plan: Plan) -> dict[str, Any]:
    raise SkipError(f"not asked for: --part {' '.join(plan.parts)}")
