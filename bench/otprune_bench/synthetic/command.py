"""`otprune bench synthetic`."""

from __future__ import annotations

from otprune_bench.options import Out, Quick, Seed, start


def command(out: Out = None, seed: Seed = 0, quick: Quick = False) -> None:
    """Win rate against random subsets and optimality ratio on synthetic tokens, as in the paper."""
    start("synthetic", out, seed, quick)
