"""`otprune bench gpu`; `python -m otprune_bench.gpu` is the same where typer is not installed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from otprune_bench.options import Out, Quick, Seed, start


def command(
    out: Out = None,
    seed: Seed = 0,
    quick: Quick = False,
    part: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            help="Of check, select, model, kernel; repeat it.",
            show_default="all",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="NUMBER",
            help="Start nothing that is not expected to end by then; 0 for no limit.",
            show_default="12",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="cuda, or cpu with --quick.", show_default="cuda"),
    ] = None,
) -> None:
    """On a CUDA card: the same choices as on a CPU, times of selection, two 7B models, kernels.

    Twelve minutes, and 30 GB of the card's memory for all of it. Without a card it refuses to run,
    but with --quick, which then shows on the CPU that the script itself works.
    """
    changes: dict[str, Any] = {} if part is None else {"parts": tuple(part)}
    changes |= {} if minutes is None else {"minutes": minutes}
    changes |= {} if device is None else {"device": device}
    start("gpu", out, seed, quick, **changes)
