"""Run the serving bench."""

from __future__ import annotations

from pathlib import Path

from otprune_bench.served.run import run_served
from otprune_bench.serving import report
from otprune_bench.serving.cases import Servers
from otprune_bench.serving.plan import Plan


def run(folder: Path, plan: Plan) -> None:
    """Run what `folder` does not have yet, see `run_served`."""
    run_served("serving", folder, plan, Servers(plan), report)
