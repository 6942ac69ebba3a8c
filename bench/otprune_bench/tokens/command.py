"""`otprune bench tokens`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otprune_bench.options import PHOTOS_HELP, Out, Quick, Seed, photographs, start

PHOTOS = Path("runs/tokens/photos")  # a set of its own, see embedded/photographs.py
Photos = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help=PHOTOS_HELP, show_default=str(PHOTOS))
]


def command(out: Out = None, seed: Seed = 0, quick: Quick = False, photos: Photos = None) -> None:
    """Distances, certificates and objects kept on a second encoder, a pretrained ViT-S/14.

    Needs `otprune fetch vit-s` once. Some ten minutes on one core.
    """
    below = photographs(photos, PHOTOS, quick)
    start("tokens", out, seed, quick, below)
