"""`otprune bench mass`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from otprune.errors import OTPruneError
from otprune_bench.options import PHOTOS, Out, Photos, Quick, Seed, photographs, report_folder

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
    from otprune_bench.mass.plan import FULL, QUICK
    from otprune_bench.mass.run import run

    below = photographs(photos, PHOTOS, quick)
    with report_folder(out, "mass", quick) as folder:
        models = tuple(_named(text) for text in model or ())
        plan = replace(QUICK if quick else FULL, seed=seed, split=split, models=models)
        run(folder, plan, below)


def _named(text: str) -> tuple[str, str]:
    name, _, folder = text.partition("=")
    if not (name and folder and (Path(folder) / "model.safetensors").exists()):
        raise OTPruneError(
            f"--model {text}: expected NAME=FOLDER, a folder with model.safetensors in it"
        )
    return name, folder
