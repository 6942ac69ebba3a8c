"""`otprune bench watch`."""

from __future__ import annotations

from otprune_bench.options import PHOTOS, Out, Photos, Quick, Seed, photographs, start


def command(out: Out = None, seed: Seed = 0, quick: Quick = False, photos: Photos = None) -> None:
    """Sessions: time to answer beside a clip in one prompt; 10,000 frames at constant time.

    Some twenty minutes.
    """
    below = photographs(photos, PHOTOS, quick)
    start("watch", out, seed, quick, below)
