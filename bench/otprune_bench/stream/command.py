"""`otprune bench stream`."""

from __future__ import annotations

from otprune_bench.options import PHOTOS, Out, Photos, Quick, Seed, photographs, start


def command(out: Out = None, seed: Seed = 0, quick: Quick = False, photos: Photos = None) -> None:
    """Streams and videos: 10,000 frames at constant time and memory; beside all frames at hand.

    Some five minutes.
    """
    below = photographs(photos, PHOTOS, quick)
    start("stream", out, seed, quick, below)
