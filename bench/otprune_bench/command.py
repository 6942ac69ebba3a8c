"""`otprune bench`: the commands of the registry's benches, `all` of them, and `compare`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from otprune.cli.console import HELP
from otprune.errors import OTPruneError
from otprune_bench.options import Quick, Seed
from otprune_bench.registry import BENCHES

bench = typer.Typer(
    name="bench",
    rich_markup_mode=HELP,
    epilog="A bench that was interrupted goes on where it stopped when it is started again with "
    "the same --out.",
)


@bench.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Measure what pruning costs and what it saves; each bench writes a folder."""
    if context.invoked_subcommand is None:
        print(context.get_help())


for one in BENCHES:
    bench.command(one.name)(one.command())


@bench.command("all")
def run_all(
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Each bench gets a folder of its name in it.",
            show_default="out/bench",
        ),
    ] = None,
    seed: Seed = 0,
    quick: Quick = False,
) -> None:
    """Run every bench that needs no server and, unless quick, no CUDA card, one after the other.

    Each has a process of its own. A bench that fails does not keep the others from running.
    """
    failed = []
    for one in BENCHES:
        if not one.server and (quick or not one.card):
            words = ["bench", one.name, "--seed", str(seed), *(["--quick"] if quick else [])]
            words += ["--out", str(out / one.name)] if out else []
            if subprocess.run([sys.executable, "-m", "otprune", *words]).returncode:
                failed.append(one.name)
    if failed:
        raise OTPruneError(f"these benches failed (reasons are above): {', '.join(failed)}")


@bench.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="A bench's folder.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another of the same bench.")],
    least: Annotated[
        float, typer.Option(min=0, metavar="SHARE", help="Leave out smaller relative changes.")
    ] = 0.01,
    rows: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="At most so many.")] = 40,
) -> None:
    """Show what changed from run A to run B, the largest changes first."""
    from otprune_bench.runs.compare import compare as compare_runs

    print(compare_runs(before, after, least, rows), end="")
