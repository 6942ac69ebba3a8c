"""`otprune bench speed`."""

from __future__ import annotations

from otprune_bench.options import Out, Quick, Seed, start


def command(out: Out = None, seed: Seed = 0, quick: Quick = False) -> None:
    """What selection costs from 64 to 65,536 tokens, beside the published algorithm as written.

    Three shapes are raced beside two busy processes, too, which the bench starts and ends. Fifteen
    minutes on a machine that does nothing else.
    """
    start("speed", out, seed, quick)
