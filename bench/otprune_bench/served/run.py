"""Run a bench of a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from otprune.errors import MissingDependencyError
from otprune_bench.runs.cases import Case, run_cases
from otprune_bench.runs.report import check_plots, write_report


class Servers(AbstractContextManager[Any], Protocol):
    """The servers of a bench, stopped when the block ends."""

    def cases(self) -> Iterator[Case]: ...


def run_served(name: str, folder: Path, plan: Any, servers: Servers, report: Any) -> None:
    """Run what `folder` does not have yet, and write results, report and plot.

    Args:
        name: of the bench.
        folder: of the run; one that was interrupted there goes on.
        plan: the bench's.
        servers: whose cases are run; no server is started before the first of them.
        report: the bench's module, with `draw` and `write`.

    Raises:
        OTPruneError: the folder has cases of other settings, or a server did not come up.
        MissingDependencyError: vLLM or matplotlib is not installed.
    """
    check_plots()
    if find_spec("vllm") is None:
        raise MissingDependencyError(
            "vLLM is not installed here, and without it there is no server to measure: "
            "`make test-vllm` makes .venv-vllm, which has it (docs/vllm.md)"
        )
    with servers:
        found = run_cases(folder, servers.cases(), name, plan.settings())
    report.draw(folder, plan, found)
    write_report(folder, found, report.write(plan, found), plan.settings())
