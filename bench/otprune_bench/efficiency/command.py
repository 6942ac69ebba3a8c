"""`otprune bench efficiency`."""

from __future__ import annotations

from otprune.cli.options import EncoderAfter, EncoderKeep, encoder_stage
from otprune_bench.options import Out, Quick, Seed, start


def command(
    out: Out = None,
    seed: Seed = 0,
    quick: Quick = False,
    encoder_keep: EncoderKeep = None,
    encoder_after: EncoderAfter = None,
) -> None:
    """Operations, memory and time, with the selector's share, at real model sizes.

    A selection inside the encoder stands beside none: two settings, or the one of --encoder-keep.

    LLaVA-1.5-7B's and LLaVA-OneVision-0.5B's shapes with random weights on the CPU: ten minutes,
    and 8 GB of memory.
    """
    stage = encoder_stage(encoder_keep, encoder_after)
    changes = {} if stage is None else {"stages": (stage,)}
    start("efficiency", out, seed, quick, **changes)
