"""`otprune bench alignment`."""

from __future__ import annotations

from otprune_bench.options import PHOTOS, Out, Photos, Quick, Seed, photographs, start


def command(out: Out = None, seed: Seed = 0, quick: Quick = False, photos: Photos = None) -> None:
    """Accuracy kept: the embedded model's answers with every method, ratio and setting.

    Also which distance between full and kept tokens goes with better answers. Some ten minutes on
    one core.
    """
    below = photographs(photos, PHOTOS, quick)
    start("alignment", out, seed, quick, below)
