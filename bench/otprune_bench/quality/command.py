"""`otprune bench quality`."""

from __future__ import annotations

from dataclasses import replace

from otprune_bench.options import PHOTOS, Out, Photos, Quick, Seed, photographs, report_folder


def command(out: Out = None, seed: Seed = 0, quick: Quick = False, photos: Photos = None) -> None:
    """Accuracy kept: the embedded model's answers with every method, ratio and setting.

    Also which distance between full and kept tokens goes with better answers. Some ten minutes on
    one core.
    """
    from otprune_bench.quality.plan import FULL, QUICK
    from otprune_bench.quality.run import run

    below = photographs(photos, PHOTOS, quick)
    with report_folder(out, "quality", quick) as folder:
        run(folder, replace(QUICK if quick else FULL, seed=seed), below)
