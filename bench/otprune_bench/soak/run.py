"""Run the soak."""

from __future__ import annotations

from pathlib import Path

from otprune_bench.served.run import run_served
from otprune_bench.soak import report
from otprune_bench.soak.cases import Soak
from otprune_bench.soak.plan import Plan


def run(folder: Path, plan: Plan) -> None:
    """Run what `folder` does not have yet, see `run_served`."""
    run_served("soak", folder, plan, Soak(plan), report)
