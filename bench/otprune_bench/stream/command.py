"""`otprune bench stream`."""

from __future__ import annotations

from dataclasses import replace

from otprune_bench.options import PHOTOS, Out, Photos, Quick, Seed, photographs, report_folder


def command(out: Out = None, seed: Seed = 0, quick: Quick = False, photos: Photos = None) -> None:
    """Streams and videos: 10,000 frames at constant time and memory; beside all frames at hand.

    Some five minutes.
    """
    from otprune_bench.stream.plan import FULL, QUICK
    from otprune_bench.stream.run import run

    below = photographs(photos, PHOTOS, quick)
    with report_folder(out, "stream", quick) as folder:
        run(folder, replace(QUICK if quick else FULL, seed=seed), below)
