"""`otprune bench robot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otprune.errors import OTPruneError
from otprune_bench.options import Out, Quick, Seed, start

DATA = Path("runs/robot")
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Episodes and clips (`make bench-robot` makes them); what is not there is left out. "
        "--quick uses none.",
        show_default=str(DATA),
    ),
]


def command(out: Out = None, seed: Seed = 0, quick: Quick = False, data: Data = None) -> None:
    """Selectors of streams on a robot's camera and on real clips, at equal tokens a frame.

    Episodes come from a simulator, which says what is arm and object. Half an hour.
    """
    if quick and data is not None:
        raise OTPruneError("--data has no meaning with --quick, which makes its own video")
    start("robot", out, seed, quick, data or DATA)
