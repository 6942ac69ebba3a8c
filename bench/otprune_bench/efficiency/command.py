"""`otprune bench efficiency`."""

from __future__ import annotations

from otprune_bench.options import Out, Quick, Seed, start


def command(out: Out = None, seed: Seed = 0, quick: Quick = False) -> None:
    """Operations, memory and time, with the selector's share, at real model sizes.

    LLaVA-1.5-7B's and LLaVA-OneVision-0.5B's shapes with random weights on the CPU: ten minutes,
    and 8 GB of memory.
    """
    start("efficiency", out, seed, quick)
