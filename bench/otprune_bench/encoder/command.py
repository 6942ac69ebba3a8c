"""`otprune bench encoder`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otprune_bench.options import PHOTOS_HELP, Out, Quick, Seed, photographs, start

PHOTOS = Path("runs/tokens/photos")  # those of `otprune bench tokens`
Photos = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help=PHOTOS_HELP, show_default=str(PHOTOS))
]


def command(out: Out = None, seed: Seed = 0, quick: Quick = False, photos: Photos = None) -> None:
    """Selection inside the vision encoder: features and answers kept, and time saved.

    Needs `otprune fetch vit-s` once. Half an hour on one core, and 5 GB of memory.
    """
    below = photographs(photos, PHOTOS, quick)
    start("encoder", out, seed, quick, below)
