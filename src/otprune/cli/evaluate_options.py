"""Options of `otprune eval` alone."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from otprune.cli.options import OUT, WHAT

_DATA = "What to ask"


class Match(str, Enum):
    """When an answer is right."""

    exact = "exact"
    contains = "contains"


Keeps = Annotated[
    str,
    typer.Option(
        metavar="KEEP,...",
        help="How many visual tokens stay, as in ask; each with each method.",
        rich_help_panel=WHAT,
    ),
]
Methods = Annotated[
    str,
    typer.Option(
        metavar="METHOD,...",
        help="Methods with commas between them, each with settings behind it: "
        '"otprune, transport question=0.9 mass=token".',
        rich_help_panel=WHAT,
    ),
]
Question = Annotated[
    str | None,
    typer.Option(
        metavar="QUESTION",
        help="Asked about every image that has no question of its own.",
        rich_help_panel=_DATA,
    ),
]
MatchOption = Annotated[
    Match,
    typer.Option(
        help="An answer is right if it is the known one, or if it contains it; case, articles and "
        "marks do not count.",
        rich_help_panel=_DATA,
    ),
]
Tolerance = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help="The suggested keep may lose so large a share of right answers (without known "
        "answers: of the unpruned model's).",
        rich_help_panel=OUT,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="NUMBER", help="Only the first so many examples.", rich_help_panel=_DATA
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Keep every answer, one JSON object a line; a later run asks only what is missing.",
        rich_help_panel=OUT,
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Draw right answers (or agreement) against tokens; needs matplotlib.",
        rich_help_panel=OUT,
    ),
]
