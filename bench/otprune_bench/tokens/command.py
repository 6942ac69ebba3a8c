"""`otprune bench tokens`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from otprune_bench.options import PHOTOS_HELP, Out, Quick, Seed, photographs, report_folder

PHOTOS = Path("runs/tokens/photos")  # a set of its own, see embedded/photographs.py
Photos = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help=PHOTOS_HELP, show_default=str(PHOTOS))
]


def command(out: Out = None, seed: Seed = 0, quick: Quick = False, photos: Photos = None) -> None:
    """Distances, certificates and objects kept on a second encoder, a pretrained ViT-S/14.

    Needs `otprune fetch vit-s` once. Some ten minutes on one core.
    """
    from otprune_bench.tokens.plan import FULL, QUICK
    from otprune_bench.tokens.run import run

    below = photographs(photos, PHOTOS, quick)
    with report_folder(out, "tokens", quick) as folder:
        run(folder, replace(QUICK if quick else FULL, seed=seed), below)
