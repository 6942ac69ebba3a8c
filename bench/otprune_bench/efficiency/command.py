"""`otprune bench efficiency`."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import typer

from otprune.cli.options import EncoderAfter, EncoderKeep
from otprune.cli.parsing import encoder_stage
from otprune_bench.options import Out, Quick, Seed, start


class Dtype(str, Enum):
    """Number format of the models."""

    bfloat16 = "bfloat16"
    float32 = "float32"


def command(
    out: Out = None,
    seed: Seed = 0,
    quick: Quick = False,
    encoder_keep: EncoderKeep = None,
    encoder_after: EncoderAfter = None,
    encoder_only: Annotated[
        bool,
        typer.Option("--encoder-only", help="Only compare selections inside the encoder."),
    ] = False,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, metavar="NUMBER", help="Rounds of all settings.", show_default="3"),
    ] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Of the models; processors differ in which they are fast at.")
    ] = Dtype.bfloat16,
) -> None:
    """Operations, memory and time, with the selector's share, at real model sizes.

    A selection inside the encoder stands beside none: two settings, or the one of --encoder-keep.

    LLaVA-1.5-7B's and LLaVA-OneVision-0.5B's shapes with random weights on the CPU: ten minutes,
    and 8 GB of memory.
    """
    stage = encoder_stage(encoder_keep, encoder_after)
    changes: dict[str, Any] = {} if stage is None else {"stages": (stage,)}
    changes |= {"encoder_only": encoder_only, "dtype": dtype.value}
    changes |= {} if rounds is None else {"repeats": rounds}
    start("efficiency", out, seed, quick, **changes)
