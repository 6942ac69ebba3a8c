"""`otprune bench mass`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otprune.errors import OTPruneError
from otprune_bench.options import PHOTOS, Out, Photos, Quick, Seed, photographs, start

Split = Annotated[str, typer.Option(help="validation, to choose by, or test, to look at once.")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FOLDER",
        help="Another checkpoint of the embedded model's kind (`make demo-models`); repeat it.",
    ),
]


def command(
    out: Out = None,
    seed: Seed = 0,
    quick: Quick = False,
    photos: Photos = None,
    split: Split = "validation",
    model: Models = None,
) -> None:
    """Attention mass: every method and weighing, in several models, behind texts of many lengths.

    Some ten minutes a model on one core.
    """
    below = photographs(photos, PHOTOS, quick)
    models = tuple(_named(text) for text in model or ())
    start("mass", out, seed, quick, below, split=split, models=models)


def _named(text: str) -> tuple[str, str]:
    name, _, folder = text.partition("=")
    if not (name and folder and (Path(folder) / "model.safetensors").exists()):
        raise OTPruneError(
            f"--model {text}: expected NAME=FOLDER, a folder with model.safetensors in it"
        )
    return name, folder
