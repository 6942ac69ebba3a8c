"""`otprune bench synthetic`."""

from __future__ import annotations

from dataclasses import replace

from otprune_bench.options import Out, Quick, Seed, report_folder


def command(out: Out = None, seed: Seed = 0, quick: Quick = False) -> None:
    """Win rate against random subsets and optimality ratio on synthetic tokens, as in the paper."""
    from otprune_bench.synthetic.plan import FULL, QUICK
    from otprune_bench.synthetic.run import run

    with report_folder(out, "synthetic", quick) as folder:
        run(folder, replace(QUICK if quick else FULL, seed=seed))
