"""`otprune bench distance`."""

from __future__ import annotations

from typing import Annotated

import typer

from otprune_bench.options import (
    PHOTOS,
    Models,
    Out,
    Photos,
    Quick,
    Seed,
    named_models,
    photographs,
    start,
)

Split = Annotated[str, typer.Option(help="validation, to choose by, or test, to look at once.")]


def command(
    out: Out = None,
    seed: Seed = 0,
    quick: Quick = False,
    photos: Photos = None,
    split: Split = "validation",
    model: Models = None,
) -> None:
    """Positions, mass and the distance term of attention, in several models.

    Some ten minutes a model on one core.
    """
    below = photographs(photos, PHOTOS, quick)
    start("distance", out, seed, quick, below, split=split, models=named_models(model))
