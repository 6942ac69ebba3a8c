"""`otprune bench serving`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otprune.errors import OTPruneError
from otprune_bench.options import Out, Quick, Seed, start

Against = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="The `src` folder of an earlier build, whose server takes turns with this one's.",
    ),
]
Rounds = Annotated[
    int | None,
    typer.Option(min=1, metavar="NUMBER", help="Of every load.", show_default="3, or 1 if quick"),
]


def command(
    out: Out = None,
    seed: Seed = 0,
    quick: Quick = False,
    against: Against = None,
    rounds: Rounds = None,
) -> None:
    """Time to first token and throughput of a vLLM server, with 1, 4 and 16 requests at once.

    In an environment with vLLM (`make test-vllm` makes .venv-vllm); about ten minutes a round on
    two cores.
    """
    if against is not None and not (against / "otprune").is_dir():
        raise OTPruneError(f"--against {against}: expected a folder with the package otprune in it")
    more = {} if rounds is None else {"rounds": rounds}
    start("serving", out, seed, quick, against=against and against.resolve(), **more)
